"""The U-Net against guided-diffusion's numbers."""

from dataclasses import MISSING, fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import CASES, Case

from skipjax.models import UNet, UNetConfig, blocks, example, param_shapes

UNETS = ["unet_a", "unet_b", "unet_c", "superres_e"]
SMALL = UNetConfig(
    image_size=8,
    in_channels=3,
    model_channels=32,
    out_channels=3,
    num_res_blocks=1,
    attention_resolutions=(2,),
    channel_mult=(1, 2),
    num_heads=2,
)


@pytest.fixture(scope="module", params=UNETS)
def case(request, goldens):
    return Case(goldens / CASES[request.param])


@pytest.fixture(scope="module")
def unet_a(goldens):
    return Case(goldens / CASES["unet_a"])


def test_output_equals_guided_diffusions(case):
    out, _ = case.recorded
    assert out.dtype == jnp.float32 and out.shape == case.out.shape
    np.testing.assert_allclose(out, case.out, rtol=0, atol=5e-5)


def test_activations_of_every_block_equal_guided_diffusions(case):
    errors = case.activation_errors()
    assert len(errors) == len(case.activations) - 2
    assert max(errors.values()) < 5e-5, errors


def test_timestep_embedding_equals_guided_diffusions(case):
    ours = blocks.timestep_embedding(jnp.asarray(case.inputs[1]), case.config.model_channels)
    np.testing.assert_allclose(ours, case.activations["timestep_embedding"], rtol=0, atol=2e-5)


def test_an_odd_embedding_ends_in_zeros():
    embedding = blocks.timestep_embedding(jnp.asarray([0.0, 3.5]), 5)
    assert embedding.shape == (2, 5) and (embedding[:, -1] == 0).all()
    np.testing.assert_allclose(embedding[0], [1, 1, 0, 0, 0])


@pytest.mark.parametrize("name", ["unet_a", "unet_b"])
def test_the_wrong_attention_order_shows(goldens, name):
    case = Case(goldens / CASES[name])
    wrong = replace(case.config, use_new_attention_order=not case.config.use_new_attention_order)
    assert np.abs(case.run(wrong) - case.out).max() > 0.02


def test_bfloat16_compute_gives_float32_near_the_truth(unet_a):
    case, out = unet_a, unet_a.run(dtype=jnp.bfloat16)
    assert out.dtype == jnp.float32
    error = np.abs(out - case.out)
    assert 1e-4 < error.max() < 0.05 * np.abs(case.out).max()
    assert np.sqrt(np.mean(error**2)) < 0.04 * np.std(case.out)


def test_dropout_acts_in_training_alone(unet_a):
    variables, network = {"params": unet_a.params}, UNet(unet_a.config)

    @jax.jit
    def train(key):
        return network.apply(variables, *unet_a.inputs, train=True, rngs={"dropout": key})

    one, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    assert (one == again).all() and (one != other).any()


def test_defaults_are_guided_diffusions():
    required = [field.name for field in fields(UNetConfig) if field.default is MISSING]
    defaults = {f.name: f.default for f in fields(UNetConfig) if f.default is not MISSING}
    assert required == [
        "image_size",
        "in_channels",
        "model_channels",
        "out_channels",
        "num_res_blocks",
        "attention_resolutions",
    ]
    assert defaults == {
        "dropout": 0,
        "channel_mult": (1, 2, 4, 8),
        "conv_resample": True,
        "num_classes": None,
        "low_res_channels": 0,
        "num_heads": 1,
        "num_head_channels": -1,
        "num_heads_upsample": -1,
        "use_scale_shift_norm": False,
        "resblock_updown": False,
        "use_new_attention_order": False,
    }


def test_a_config_hashes_whatever_sequences_it_was_given():
    lists = replace(SMALL, channel_mult=[1, 2], attention_resolutions=[2])
    assert lists == SMALL and hash(lists) == hash(SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_mult": ()}, "channel_mult is empty"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"model_channels": 48}, "level 0 has 48 channels .* multiple of 32"),
        ({"channel_mult": (1, 1.5)}, "level 1 has 48 channels"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"low_res_channels": -3}, "low_res_channels is -3"),
    ],
    ids=str,
)
def test_configs_that_no_network_has_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def shapes(config, y=None, low_res=None, x=(2, 8, 8, 3)):
    """Shape of the output, and the params."""
    inputs = array(*x), array(2), y, low_res
    out, variables = jax.eval_shape(UNet(config).init_with_output, jax.random.key(0), *inputs)
    return out, variables["params"]


def test_labels_that_do_not_fit_are_refused():
    y = array(2, dtype=jnp.int32)
    with pytest.raises(ValueError, match="unconditional, and y is given"):
        shapes(SMALL, y)
    with pytest.raises(ValueError, match="class-conditional, and y is missing"):
        shapes(replace(SMALL, num_classes=4))
    out, params = shapes(replace(SMALL, num_classes=4), y)
    assert out.shape == (2, 8, 8, 3)
    assert params["label_emb"]["embedding"].shape == (4, 128)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ((2, 8, 8, 4), r"x is \[2, 8, 8, 4\]: it must be \[batch, height, width, 3\]"),
        ((8, 8, 3), r"x is \[8, 8, 3\]"),
        ((2, 8, 7, 3), "x is 8 x 7 pixels: height and width must be multiples of 2"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        shapes(SMALL, x=x)


SUPER = replace(SMALL, low_res_channels=2)


def test_a_low_resolution_picture_may_have_any_size():
    for size in [(1, 1), (4, 3), (16, 16)]:
        out, params = shapes(SUPER, low_res=array(2, *size, 2))
        assert out.shape == (2, 8, 8, 3)
        assert params["input_blocks_0_0"]["kernel"].shape == (3, 3, 5, 32)


def test_low_resolution_pictures_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="is for super-resolution, and low_res is missing"):
        shapes(SUPER)
    with pytest.raises(ValueError, match="not for super-resolution .*, and low_res is given"):
        shapes(SMALL, low_res=array(2, 4, 4, 3))
    for shape in [(2, 4, 4, 3), (1, 4, 4, 2), (4, 4, 2)]:
        with pytest.raises(ValueError, match=r"low_res is \[.*\]: .* \[2, height, width, 2\]"):
            shapes(SUPER, low_res=array(*shape))


@pytest.mark.parametrize("config", [SMALL, SUPER, replace(SMALL, num_classes=2)])
def test_an_example_and_the_shapes_of_params_fit_the_network(config):
    made = jax.eval_shape(UNet(config).init, jax.random.key(0), *example(config))["params"]
    shapes = param_shapes(config)
    assert shapes == made
    shapes["out_2"].clear()  # a dict of the caller's own
    assert param_shapes(config) == made


@pytest.mark.parametrize("conv_resample", [True, False])
@pytest.mark.parametrize("resblock_updown", [True, False])
def test_resampling_options_have_the_parameters_they_need(conv_resample, resblock_updown):
    config = replace(SMALL, conv_resample=conv_resample, resblock_updown=resblock_updown)
    out, params = shapes(config)
    assert out.shape == (2, 8, 8, 3)
    assert ("conv" in params.get("output_blocks_1_2", {})) == (
        conv_resample and not resblock_updown
    )
    assert ("in_layers_2" in params.get("output_blocks_1_2", {})) == resblock_updown


def test_resampling_without_weights_is_nearest_and_mean():
    x = jnp.arange(8.0).reshape(1, 2, 4, 1)
    up = blocks.upsample(x)
    assert up.shape == (1, 4, 8, 1)
    assert up[0, 1, :, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert blocks.downsample(x)[0, :, :, 0].tolist() == [[2.5, 4.5]]
    assert (blocks.downsample(up) == x).all()


@pytest.mark.parametrize("name", ["up4", "up_odd", "nearest2"])
def test_enlarging_equals_torchs(goldens, name):
    reference = np.load(goldens / "diffusion" / "bilinear.npz")
    low, expected = (np.moveaxis(reference[name], 1, -1) for name in ("low", name))
    _, height, width, _ = expected.shape
    out = blocks.upsample(low) if name == "nearest2" else blocks.enlarge(low, height, width)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)


def test_heads_follow_the_config():
    assert replace(SMALL, num_head_channels=16).heads(64) == 4
    assert SMALL.heads(64) == SMALL.heads(64, decoder=True) == 2
    assert replace(SMALL, num_heads_upsample=8).heads(64, decoder=True) == 8
    assert replace(SMALL, num_heads_upsample=8).heads(64) == 2
