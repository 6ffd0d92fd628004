"""The U-Net: its configs, what it takes, and the params that it has."""

from dataclasses import MISSING, fields, replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import HURRY
from reference import random_params

from skipjax.models import UNet, UNetConfig, blocks, example, param_shapes

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
        "concat_channels": 0,
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


def test_configs_that_no_network_has_are_refused(subtests):
    for change, message in [
        ({"channel_mult": ()}, "channel_mult is empty"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"model_channels": 48}, "level 0 has 48 channels .* multiple of 32"),
        ({"channel_mult": (1, 1.5)}, "level 1 has 48 channels"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"low_res_channels": -3}, "low_res_channels is -3"),
    ]:
        with subtests.test(change), pytest.raises(ValueError, match=message):
            replace(SMALL, **change)


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


@cache
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


def test_pictures_that_do_not_fit_are_refused(subtests):
    for x, message in [
        ((2, 8, 8, 4), r"x is \[2, 8, 8, 4\]: it must be \[batch, height, width, 3\]"),
        ((8, 8, 3), r"x is \[8, 8, 3\]"),
        ((2, 8, 7, 3), "x is 8 x 7 pixels: height and width must be multiples of 2"),
    ]:
        with subtests.test(x), pytest.raises(ValueError, match=message):
            shapes(SMALL, x=x)


SHORT = replace(SMALL, num_res_blocks=0)
SUPER = replace(SHORT, low_res_channels=2)


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


def test_an_example_and_the_shapes_of_params_fit_the_network(subtests):
    for config in (SHORT, SUPER, replace(SHORT, num_classes=2)):
        with subtests.test(config):
            key = jax.random.key(0)
            made = jax.eval_shape(UNet(config).init, key, *example(config))["params"]
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
    x = np.arange(8.0, dtype=np.float32).reshape(1, 2, 4, 1)
    up = np.asarray(blocks.upsample(x))
    assert up.shape == (1, 4, 8, 1)
    assert up[0, 1, :, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert blocks.downsample(x)[0, :, :, 0].tolist() == [[2.5, 4.5]]
    assert (blocks.downsample(up) == x).all()


def test_an_odd_embedding_ends_in_zeros():
    embedding = jax.jit(blocks.timestep_embedding, static_argnums=1)(np.float32([0, 3.5]), 5)
    assert embedding.shape == (2, 5) and (embedding[:, -1] == 0).all()
    np.testing.assert_allclose(embedding[0], [1, 1, 0, 0, 0])


def test_dropout_acts_in_training_alone():
    config = replace(SMALL, num_res_blocks=0, channel_mult=(1,), num_classes=1)
    params, dropped = random_params(config), replace(config, dropout=0.5)
    inputs = np.ones((1, 8, 8, 3), np.float32), np.zeros(1, np.float32), np.zeros(1, int)

    @partial(jax.jit, compiler_options=HURRY)
    def train(key):
        rngs = {"dropout": key}
        return UNet(dropped).apply({"params": params}, *inputs, train=True, rngs=rngs)

    one, again, other = (np.asarray(train(jax.random.key(seed))) for seed in (0, 0, 1))
    assert (one == again).all() and (one != other).any()

    def program(config):
        return jax.jit(UNet(config).apply).lower({"params": params}, *inputs).as_text()

    assert program(dropped) == program(config)


def test_heads_follow_the_config():
    assert replace(SMALL, num_head_channels=16).heads(64) == 4
    assert SMALL.heads(64) == SMALL.heads(64, decoder=True) == 2
    assert replace(SMALL, num_heads_upsample=8).heads(64, decoder=True) == 8
    assert replace(SMALL, num_heads_upsample=8).heads(64) == 2
