"""diffusers' UNet2DModel: the network against NumPy, its files, and what may be asked of it."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from compiling import HURRY
from unet2d_by_numpy import Reference
from unet2d_cases import CASES, GOOGLE, PLAIN, inputs_of, tensors_of

import skipjax
from skipjax import Pretrained
from skipjax.conditioners import Labels, Pictures
from skipjax.models import UNet2DConfig, param_shapes
from skipjax.weights import cards, folders, parts, unet2d

FEW = ["google", "resnets_scale_shift", "learned_times_and_labels_like_them"]


def output(config, params, x, t, condition=None, **options):
    run = jax.jit(
        lambda params, *inputs: config.apply(params, *inputs, **options), compiler_options=HURRY
    )
    return np.asarray(run(params, x, t, condition))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in CASES]
)
def test_it_computes_what_is_written_down_in_numpy(name):
    config = unet2d.config_of(CASES[name])
    tensors, (x, t, condition) = tensors_of(config), inputs_of(config)
    ours = output(config, unet2d.to_params(tensors, config), x, t, condition)
    told = None if condition is None else next(iter(condition.values()))
    theirs = Reference(tensors, CASES[name])(np.moveaxis(x, -1, 1), t, told)
    assert ours.shape == (2, 4, 8, config.out_channels) and ours.dtype == np.float32
    assert np.abs(np.moveaxis(ours, -1, 1) - theirs).max() <= 5e-5 * np.abs(theirs).max()


KEYS = ["ddpm_cifar10_32", "ddpm_celebahq_256", "train_unconditional_default"]


@pytest.mark.parametrize("name", KEYS)
def test_released_networks_have_their_tensors(shared, name):
    known = json.loads((shared / "keys" / "diffusers" / f"{name}.json").read_text())
    config = unet2d.config_of(known["config"])
    files = {key: np.broadcast_to(np.float32(0), shape) for key, shape in known["keys"].items()}
    params = unet2d.to_params(files, config)  # refuses what is missing or left over
    leaves = jax.tree.leaves(params)
    assert len(leaves) == known["tensors"]
    assert sum(leaf.size for leaf in leaves) == known["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, param_shapes(config))


def test_older_files_are_read_too():
    config = unet2d.config_of(GOOGLE)
    tensors = tensors_of(config)
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def name(key):
        for new, old in older.items():
            key = key.replace(f".{new}.", f".{old}.")
        return key

    files = {name(key): value for key, value in tensors.items()}
    assert files.keys() != tensors.keys()
    linear = tuple(f".{old}.weight" for old in older.values())
    square = {
        key: value[:, :, None, None] if key.endswith(linear) else value
        for key, value in files.items()
    }
    expected = unet2d.to_params(tensors, config)
    for each in (files, square):
        jax.tree.map(np.testing.assert_array_equal, unet2d.to_params(each, config), expected)
    both = files | tensors
    with pytest.raises(ValueError, match=r"unexpected: .*attentions\.0\.query\.weight"):
        unet2d.to_params(both, config)


def test_tensors_that_do_not_fit_are_refused_in_words(subtests):
    config = unet2d.config_of(PLAIN | {"num_class_embeds": 5})
    tensors = tensors_of(config)
    for change, message in [
        ({"in_channels": 1}, "the file has 3 input channels, the config 1"),
        ({"num_class_embeds": 4}, "the file has 5 classes, the config 4"),
        ({"num_class_embeds": None}, "the file has 5 classes, the config none"),
        ({"add_attention": False}, "unexpected: mid_block.attentions.0"),
        ({"layers_per_block": 2}, "missing: down_blocks.0.resnets.1.norm1.weight"),
    ]:
        with subtests.test(change), pytest.raises(ValueError, match=message):
            unet2d.to_params(tensors, replace(config, **change))
    with pytest.raises(ValueError, match="conv_in.weight is missing"):
        unet2d.to_params({"out.2.weight": tensors["conv_out.weight"]}, config)


def test_a_config_lacks_what_is_the_classs_default():
    config = unet2d.config_of({"_class_name": "UNet2DModel", "sample_size": [32, 32]})
    assert config == UNet2DConfig(32) and config.shape == (32, 32, 3)
    assert config.block_out_channels == (224, 448, 672, 896)
    assert (config.attention_head_dim, config.downsample_padding) == (8, 1)
    older = {
        "down_block_types": ["UNetResDownBlock2D", "UNetResAttnDownBlock2D"],
        "downsample_type": None,
    }
    assert unet2d.config_of(PLAIN | older) == unet2d.config_of(PLAIN)
    with pytest.warns(UserWarning, match="holds fancy: no option that is known"):
        assert unet2d.config_of(PLAIN | {"fancy": 1}) == unet2d.config_of(PLAIN)


def test_options_that_are_not_supported_are_refused_by_name(subtests):
    skips = {"down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D"]}
    for change, message in [
        (skips, "down_block_types holds 'SkipDownBlock2D', which is not supported: .*DownBlock2D"),
        ({"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]}, "holds 'CrossAttnUpBlock2D'"),
        ({"up_block_types": ["UpBlock2D"]}, "up_block_types has 1 entries, and block_out_channel"),
        ({"time_embedding_type": "sinus"}, "one of positional, fourier, learned"),
        ({"time_embedding_type": "learned"}, "num_train_timesteps is None: say how many"),
        ({"mid_block_type": "UNetMidBlock2DCrossAttn"}, "mid_block_type is 'UNetMid"),
        ({"resnet_time_scale_shift": "spatial"}, "one of default, scale_shift"),
        ({"class_embed_type": "projection"}, "one of None, timestep, identity"),
        ({"act_fn": "tanh"}, "act_fn is 'tanh'"),
        ({"downsample_padding": 2}, "downsample_padding is 2: it must be one of 0, 1"),
        ({"downsample_type": "fir"}, "downsample_type is 'fir'"),
        ({"block_out_channels": [16, 30]}, "holds 30: widths must be multiples of .* = 8"),
        ({"attention_head_dim": 64}, "attention_head_dim is 64: it must be in 1 .. 32"),
        ({"attn_norm_num_groups": 5}, "it must divide the last width, 32"),
        ({"num_class_embeds": 0}, "num_class_embeds is 0"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"layers_per_block": "2"}, "layers_per_block is '2', a str: it must be a whole number"),
        ({"norm_num_groups": None}, "norm_num_groups is None"),
        ({"sample_size": None}, "lacks sample_size"),
    ]:
        with subtests.test(change), pytest.raises(ValueError, match=message):
            unet2d.config_of(PLAIN | change)


def test_what_an_architecture_is_taken_to_be(subtests):
    for change, wanted in [
        ({}, None),
        ({"num_class_embeds": 5}, Labels(5)),
        ({"class_embed_type": "timestep", "num_class_embeds": 5}, Labels(5)),
        ({"class_embed_type": "timestep"}, None),
        ({"in_channels": 6}, Pictures("concat", (8, 8, 3))),
    ]:
        with subtests.test(change):
            model = unet2d.model(unet2d.config_of(PLAIN | change), "it")
            assert model.conditioner == wanted and model.shape == (8, 8, 3)
            assert model.process == skipjax.Process("linear")
    learned = unet2d.model(unet2d.config_of(PLAIN | {"out_channels": 6}), "it")
    assert learned.process.variance == "learned_range"


@pytest.mark.slow
def test_what_does_not_fit_is_refused(subtests):
    config = unet2d.config_of(PLAIN | {"num_class_embeds": 5, "in_channels": 4})
    key, x, t = jax.random.key(0), np.zeros((2, 8, 8, 3), np.float32), np.zeros(2, np.float32)
    label, concat = np.zeros(2, int), np.zeros((2, 8, 8, 1), np.float32)
    fits = {"label": label, "concat": concat}

    def run(x, condition):
        jax.eval_shape(lambda: config.apply(config.init(key), x, t, condition))

    run(x, fits)
    for pictures, condition, message in [
        (x, None, "the condition lacks label and lacks concat: this network takes label, concat"),
        (x, fits | {"text": label}, "the condition holds text: this network takes label"),
        (x, fits | {"concat": concat[:, :4]}, "concat is .*: it must be of the batch and size"),
        (x[..., :2], fits, "must be .batch, height, width, 4."),
        (x[:, :7], fits | {"concat": concat[:, :7]}, "7 x 8 pixels: .* multiples of 2 for the 2"),
    ]:
        with subtests.test(message), pytest.raises(ValueError, match=message):
            run(pictures, condition)


@pytest.fixture(scope="module")
def conditional():
    """Of 2 x (8, 4) pixels, with 4 classes and a label for none."""
    fields = PLAIN | {"sample_size": [8, 4], "num_class_embeds": 5}
    fields |= {"down_block_types": 2 * ["DownBlock2D"], "up_block_types": 2 * ["UpBlock2D"]}
    config = unet2d.config_of(fields)
    labels = Labels(5, ("ant", "bee", "cat", "dog"), null_label=4)
    return unet2d.model(config, "pets").replace(
        params=unet2d.to_params(tensors_of(config), config), conditioner=labels
    )


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_in_a_hurry")
def test_pictures_of_classes_are_drawn_and_guided(conditional):
    key, options = jax.random.key(0), {"plan": "ddim", "steps": 3}
    drawn = skipjax.sample(conditional, key, label=["ant", "dog"], **options)
    assert drawn.shape == (2, 8, 4, 3)
    alone = skipjax.sample(conditional, key, ids=[1], label=3, **options)
    np.testing.assert_allclose(alone[0], drawn[1], atol=1e-5)
    guided = skipjax.sample(conditional, key, label=["ant", "dog"], guidance=0.0, **options)
    null = skipjax.sample(conditional, key, num=2, label=4, **options)
    np.testing.assert_allclose(guided, null, atol=1e-5)
    assert np.abs(guided - drawn).max() > 1e-3
    wide = skipjax.sample(conditional, key, num=1, label=0, size=(4, 6), **options)
    assert wide.shape == (1, 4, 6, 3)


def test_a_file_and_a_folder_give_back_what_went_in(conditional, tmp_path):
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    safetensors.numpy.save_file(tensors_of(conditional.network), path)
    described = conditional.replace(params=None)
    for config in (conditional.network, described):
        loaded = skipjax.load(path, config=config)
        jax.tree.map(np.testing.assert_array_equal, loaded.params, conditional.params)
    assert loaded.labels == conditional.labels
    (tmp_path / "pets").mkdir()
    card = parts.describe(conditional)
    folders.save(tmp_path / "pets", conditional.params, card, np.float32)
    again = skipjax.load(tmp_path / "pets")
    assert isinstance(again, Pretrained) and parts.describe(again) == card
    assert jax.tree.structure(again) == jax.tree.structure(conditional)
    jax.tree.map(np.testing.assert_array_equal, again.params, conditional.params)
    wrong = card | {"conditioner": {"kind": "labels", "num_classes": 7}}
    with pytest.raises(ValueError, match="conditioner has 7 labels, .* num_classes = 5"):
        parts.build(wrong)


@pytest.fixture(scope="module")
def small():
    """A config of one level, its params, and inputs for it."""
    config = unet2d.config_of(CASES["one_level"] | {"dropout": 0.3})
    return config, unet2d.to_params(tensors_of(config), config), inputs_of(config)


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_half_precision_stays_near(small, dtype):
    config, params, inputs = small
    exact, half = (output(config, params, *inputs, dtype=d) for d in ("float32", dtype))
    assert half.dtype == np.float32
    assert 0 < np.abs(half - exact).max() <= 0.05 * np.abs(exact).max()


@pytest.mark.slow
def test_remat_changes_nothing_and_dropout_acts_by_its_key(small):
    config, params, inputs = small
    plain = output(config, params, *inputs)
    again = output(config, params, *inputs, remat=True)
    np.testing.assert_allclose(again, plain, rtol=0, atol=1e-5 * np.abs(plain).max())
    drop = jax.jit(lambda key: config.apply(params, *inputs, dropout=key), compiler_options=HURRY)
    one, same, other = (np.asarray(drop(jax.random.key(seed))) for seed in (0, 0, 1))
    assert (one == same).all() and (one != other).any() and (one != plain).any()


@pytest.mark.slow
def test_frequencies_of_fourier_are_not_learned():
    config = unet2d.config_of(CASES["one_level"] | {"time_embedding_type": "fourier"})
    params = unet2d.to_params(tensors_of(config), config)
    x, t, _ = inputs_of(config)

    def loss(time):
        return jnp.square(config.apply(params | time, x, t)).sum()

    time = {name: params[name] for name in ("time_proj", "time_embedding")}
    gradient = jax.jit(jax.grad(loss), compiler_options=HURRY)(time)
    assert not gradient["time_proj"]["weight"].any()
    assert gradient["time_embedding"]["linear_1"]["kernel"].any()


CARDS = sorted((cards.BUNDLED / "diffusers").glob("ddpm-*.json"))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_cards_describe_released_networks(path):
    card = cards.read(path)
    assert card["name"] == path.stem and card["hub"] == f"google/{path.stem}"
    model = cards.model(card)
    shapes = jax.tree.leaves(param_shapes(model.network))
    assert len(shapes) == card["tensors"]
    assert sum(leaf.size for leaf in shapes) == card["parameters"]
    small = "cifar10" in path.stem
    assert model.shape == ((32, 32, 3) if small else (256, 256, 3))
    assert model.process == skipjax.Process("linear", variance="large" if small else "small")
    # Whose figures they are: the paper's weights were averages.
    assert ("published" in card) == ("celebahq" not in path.stem and (small or "ema" in path.stem))
