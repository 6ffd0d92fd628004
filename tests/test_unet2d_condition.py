"""diffusers' UNet2DConditionModel: its files, what it is told, and what may be asked of it."""

import json
from dataclasses import replace

import chex
import jax
import numpy as np
import pytest
from compiling import HURRY
from unet2d_condition_cases import CASES, SD1, X4, XL, inputs_of, tensors_of

import skipjax
from skipjax.codecs import Latents
from skipjax.conditioners import EmbeddedGuidance, Given, Joint, Labels
from skipjax.models import UNet2DConditionConfig, param_shapes
from skipjax.weights import registry, unet2d_condition

# One level, which is quickly compiled.
LEAST = SD1 | {
    "block_out_channels": [16],
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"],
    "mid_block_type": None,
}


def output(config, params, x, t, condition, **options):
    run = jax.jit(
        lambda params, *inputs: config.apply(params, *inputs, **options), compiler_options=HURRY
    )
    return np.asarray(run(params, x, t, condition))


@pytest.fixture(scope="module")
def least():
    """A config of one level that is told all there is, its params, and inputs for it."""
    told = {key: XL[key] for key in XL if key.startswith(("addition", "projection"))}
    told |= {"time_cond_proj_dim": 12, "num_class_embeds": 5, "in_channels": 9}
    config = unet2d_condition.config_of(LEAST | told)
    params = unet2d_condition.to_params(tensors_of(config), config)
    return config, params, inputs_of(config)


@pytest.mark.parametrize(
    "name", [pytest.param("sdxl_unet", marks=pytest.mark.slow), "sd_x4_upscaler_unet"]
)
def test_released_networks_have_their_tensors(shared, name):
    known = json.loads((shared / "keys" / "diffusers" / f"{name}.json").read_text())
    config = unet2d_condition.config_of(known["config"])
    fit(known["keys"], config, known["tensors"], known["params"])


@pytest.mark.slow
def test_single_files_hold_the_tensors_of_stable_diffusion_1(shared):
    file = json.loads((shared / "keys" / "diffusers" / "single_file_sd1.json").read_text())
    names = {
        key.removeprefix("unet/"): file["keys"][theirs]
        for key, theirs in file["map_from_diffusers"].items()
        if key.startswith("unet/")
    }
    config = UNet2DConditionConfig(64, cross_attention_dim=768)
    fit(names, config, 686, 859_520_964)


def fit(shapes, config, tensors, params):
    """Checks that nothing is missing and nothing left over."""
    files = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    found = unet2d_condition.to_params(files, config)
    leaves = jax.tree.leaves(found)
    assert (len(leaves), sum(leaf.size for leaf in leaves)) == (tensors, params)
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, param_shapes(config))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "params", "tensors"),
    [
        ({"cross_attention_dim": 768, "in_channels": 9}, 859_535_364, 686),
        ({"cross_attention_dim": 768, "time_cond_proj_dim": 256}, 859_602_884, 687),
        (
            {
                "cross_attention_dim": 1024,
                "attention_head_dim": [5, 10, 20, 20],
                "use_linear_projection": True,
            },
            865_910_724,
            686,
        ),
        (
            {
                "cross_attention_dim": 1280,
                "attention_head_dim": [6, 12, 24, 24],
                "use_linear_projection": True,
                "block_out_channels": [384, 768, 1536, 1536],
                "down_block_types": ["DownBlock2D", *2 * ["CrossAttnDownBlock2D"], "DownBlock2D"],
                "up_block_types": ["UpBlock2D", *2 * ["CrossAttnUpBlock2D"], "UpBlock2D"],
                "transformer_layers_per_block": 4,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2560,
            },
            2_259_526_660,
            1220,
        ),
    ],
    ids=["inpainting", "lcm", "sd2", "refiner"],
)
def test_other_released_networks_have_their_sizes(changes, params, tensors):
    config = unet2d_condition.config_of({"sample_size": 64} | changes)
    leaves = jax.tree.leaves(param_shapes(config))
    assert (sum(leaf.size for leaf in leaves), len(leaves)) == (params, tensors)


def test_what_a_network_is_told(subtests):
    for name, takes, shape in [
        ("sd1", ("text",), (8, 8, 4)),
        ("xl", ("text", "pooled", "time_ids"), (8, 8, 4)),
        ("lcm", ("text", "guidance"), (8, 8, 4)),
        ("inpainting", ("text", "concat"), (8, 8, 4)),
        ("pix2pix", ("text", "concat"), (8, 8, 4)),
        ("x4_upscaler", ("text", "label", "concat"), (8, 8, 4)),
        ("unclip", ("text", "embedding"), (8, 8, 4)),
    ]:
        with subtests.test(name):
            config = unet2d_condition.config_of(CASES[name])
            assert (config.takes, config.shape) == (takes, shape)
            model = unet2d_condition.model(config, "it")
            assert model.codec == Latents(8) and model.shape == shape
            assert model.process == skipjax.Process("scaled_linear", bounds=None)
            assert model.conditioner is not None and model.conditioner.gives == takes
    lcm = unet2d_condition.model(unet2d_condition.config_of(CASES["lcm"]), "it")
    assert lcm.conditioner == Joint((Given("text", (None, 24)), EmbeddedGuidance()))
    x4 = unet2d_condition.model(unet2d_condition.config_of(X4), "it")
    assert x4.conditioner == Joint(
        (Given("text", (None, 24)), Labels(5), Given("concat", (None, None, 3)))
    )


def test_everything_that_is_told_matters(least):
    config, params, (x, t, condition) = least
    traced = chex.assert_max_traces(lambda *inputs: config.apply(params, *inputs), 1)
    run = jax.jit(traced, compiler_options=HURRY)
    plain = np.asarray(run(x, t, condition))
    assert plain.shape == (2, 4, 8, 4) and plain.dtype == np.float32
    assert set(condition) == {"text", "pooled", "time_ids", "guidance", "label", "concat"}
    for key, value in condition.items():
        other = run(x, t, condition | {key: value[::-1].copy()})
        assert (np.abs(np.asarray(other) - plain).max(axis=(1, 2, 3)) > 1e-4).all(), key
    assert np.abs(np.asarray(run(x, t + 100, condition)) - plain).max() > 1e-4
    swapped = {key: value[::-1].copy() for key, value in condition.items()}
    again = run(x[::-1].copy(), t[::-1].copy(), swapped)
    np.testing.assert_allclose(again[::-1], plain, rtol=0, atol=2e-5)


def test_what_does_not_fit_is_refused(least, subtests):
    config, params, (x, t, condition) = least
    text, pooled, sizes = (condition[key] for key in ("text", "pooled", "time_ids"))
    for latents, changes, message in [
        (x, {"text": text[..., :16]}, r"text is .2, 7, 16.: this network takes .2, tokens, 24."),
        (x, {"text": text[0]}, r"text is .7, 24.: this network takes .2, tokens, 24."),
        (x, {"text": text[:1]}, r"text is .1, 7, 24."),
        (x, {"pooled": pooled[:, :3]}, "pooled has 3 channels and time_ids 8 .* 68 channels"),
        (x, {"time_ids": sizes[:, :5]}, "time_ids 5 numbers of 8 channels each: they must be 68"),
        (x, {"time_ids": sizes[0]}, r"time_ids is .8.: this network takes .2, sizes."),
        (x, {"embedding": sizes}, "holds embedding: this network takes text, pooled, time_ids"),
        (x[:, :2], {}, "concat is .*: it must be of the batch and size of x"),
        (x[..., :3], {}, "must be .batch, height, width, 9."),
    ]:
        with subtests.test(message), pytest.raises(ValueError, match=message):
            jax.eval_shape(config.apply, params, latents, t, condition | changes)
    with pytest.raises(ValueError, match="lacks text and lacks pooled and lacks time_ids"):
        jax.eval_shape(config.apply, params, x, t)
    two = unet2d_condition.config_of(SD1 | {"downsample_padding": 0})
    x, t, condition = inputs_of(two, (7, 8))
    with pytest.raises(ValueError, match="7 x 8 pixels: .* multiples of 2 for the 2 levels"):
        jax.eval_shape(two.apply, param_shapes(two), x, t, condition)


def test_options_that_are_not_supported_are_refused_by_name(subtests):
    for change, message in [
        ({"down_block_types": ["SimpleCrossAttnDownBlock2D", "DownBlock2D"]}, "'SimpleCrossAttnD"),
        ({"up_block_types": ["UpBlock2D"]}, "up_block_types has 1 entries"),
        ({"attention_head_dim": [2]}, "attention_head_dim has 1 entries: .* each of the 2 levels"),
        ({"attention_head_dim": 3}, "16 channels and 3 heads: .*attention_head_dim is the numb"),
        ({"cross_attention_dim": [24, 32]}, "all levels must read a text of one width"),
        ({"transformer_layers_per_block": [[1, 1], 1]}, "has 1 residual blocks and transformer"),
        (
            {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"},
            "mid_block_type is 'UNetMidBlock2DS",
        ),
        ({"addition_embed_type": "image"}, "addition_embed_type is 'image': .* None, text_time"),
        ({"addition_embed_type": "text_time"}, "addition_time_embed_dim is None: it must be"),
        ({"class_embed_type": "simple_projection"}, "class_embed_type is 'simple_projection'"),
        ({"time_embedding_type": "fourier"}, "'fourier', which is not supported"),
        ({"attention_type": "gated"}, "attention_type is 'gated', which is not supported"),
        ({"encoder_hid_dim": 4096}, "encoder_hid_dim is 4096, which is not supported"),
        ({"dual_cross_attention": True}, "dual_cross_attention is True, which is not supported"),
        ({"block_out_channels": [16, 30]}, "holds 30: widths must be multiples of .* = 8"),
        ({"conv_in_kernel": 2}, "conv_in_kernel is 2: it must be odd"),
        ({"layers_per_block": 0}, "layers_per_block is 0: at least 1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"sample_size": None}, "lacks sample_size"),
        ({"layers_per_block": "2"}, "layers_per_block is '2', a str"),
    ]:
        with subtests.test(change), pytest.raises(ValueError, match=message):
            unet2d_condition.config_of(SD1 | change)
    with pytest.warns(UserWarning, match="UNet2DConditionModel holds fancy: no option"):
        assert unet2d_condition.config_of(SD1 | {"fancy": 1}).factor == 2


def test_tensors_that_do_not_fit_are_refused_in_words(subtests):
    config = unet2d_condition.config_of(LEAST | {"in_channels": 7, "num_class_embeds": 5})
    tensors = tensors_of(config)
    for change, message in [
        ({"cross_attention_dim": 32}, "the file has 24 channels of the text, the config 32"),
        ({"in_channels": 4, "concat_channels": 0}, "the file has 7 input channels, the config 4"),
        ({"num_class_embeds": None}, "the file has 5 classes, the config none"),
        ({"layers_per_block": 2}, "missing: down_blocks.0.attentions.1.norm.weight"),
    ]:
        with subtests.test(change), pytest.raises(ValueError, match=message):
            unet2d_condition.to_params(tensors, replace(config, **change))
    with pytest.raises(ValueError, match="conv_in.weight is missing"):
        unet2d_condition.to_params({"out.2.weight": tensors["conv_out.weight"]}, config)


def test_projections_are_read_as_convolutions_and_as_linear_layers():
    linear = unet2d_condition.config_of(LEAST | {"use_linear_projection": True})
    conv = replace(linear, use_linear_projection=False)
    tensors = {config: tensors_of(config) for config in (linear, conv)}
    leads = [key for key in tensors[conv] if ".proj_in.weight" in key or ".proj_out.weight" in key]
    assert leads and all(tensors[conv][key].ndim == 4 for key in leads)
    for config in (linear, conv):
        one, other = (unet2d_condition.to_params(t, config) for t in tensors.values())
        assert jax.tree.map(np.shape, one) == jax.tree.map(np.shape, param_shapes(config))
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_config_survives_its_card(subtests):
    for name, fields in CASES.items():
        with subtests.test(name):
            config = unet2d_condition.config_of(fields)
            described = json.loads(json.dumps(registry.describe(config)))
            assert registry.build("network", described) == config
            assert hash(config) == hash(registry.build("network", described))


@pytest.mark.slow
def test_half_precision_stays_near(least):
    config, params, inputs = least
    exact, half = (output(config, params, *inputs, dtype=d) for d in ("float32", "bfloat16"))
    assert half.dtype == np.float32 and np.isfinite(half).all()
    assert 0 < np.abs(half - exact).max() <= 0.05 * np.abs(exact).max()


@pytest.mark.slow
def test_remat_changes_nothing_and_gradients_flow(least):
    config, params, inputs = least
    plain = output(config, params, *inputs)
    again = output(config, params, *inputs, remat=True)
    np.testing.assert_allclose(again, plain, rtol=0, atol=1e-5 * np.abs(plain).max())

    def gradient(remat):
        def loss(params):
            return (config.apply(params, *inputs, remat=remat) ** 2).mean()

        return jax.jit(jax.grad(loss), compiler_options=HURRY)(params)

    one, other = gradient(False), gradient(True)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(a).max() + 1e-7)
        assert np.abs(a).max() > 0


def test_the_scale_of_guidance_is_told():
    told, ids = EmbeddedGuidance(), np.arange(3)
    key = jax.random.key(0)
    assert told.encode({}, key, ids)["guidance"].tolist() == [8.5, 8.5, 8.5]
    assert told.encode({"guidance": 2}, key, ids)["guidance"].tolist() == [2, 2, 2]
    each = told.encode({"guidance": [1.0, 2.5, 8.0]}, key, ids)["guidance"]
    assert each.tolist() == [1, 2.5, 8] and each.dtype == np.float32
    assert told.null({"guidance": each}) is None
    for wrong, message in [
        ([1.0, 2.0], "guidance is .2. for 3 samples"),
        ("much", "guidance is 'much': it must be a finite number"),
        (float("nan"), "guidance is nan"),
        (True, "guidance is True"),
    ]:
        with pytest.raises(ValueError, match=message):
            told.encode({"guidance": wrong}, key, ids)
    with pytest.raises(ValueError, match="default is inf"):
        EmbeddedGuidance(float("inf"))
