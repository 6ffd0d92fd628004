"""The classifier: its configs, its pools, and what it takes."""

from dataclasses import MISSING, fields, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import HURRY
from reference import random_params

from skipjax.models import Classifier, ClassifierConfig, UNetConfig, example, param_shapes
from skipjax.models.classifier import POOLS
from skipjax.weights import adm

SMALL = ClassifierConfig(
    image_size=8,
    in_channels=3,
    model_channels=32,
    out_channels=5,
    num_res_blocks=1,
    attention_resolutions=(2,),
    channel_mult=(1, 2),
    num_head_channels=16,
)


def test_defaults_are_guided_diffusions():
    ours = {f.name: f.default for f in fields(ClassifierConfig) if f.default is not MISSING}
    theirs = {f.name: f.default for f in fields(UNetConfig) if f.default is not MISSING}
    assert ours == {
        name: value
        for name, value in theirs.items()
        if name not in ("num_classes", "low_res_channels", "concat_channels")
    } | {"pool": "adaptive"}


def test_a_config_hashes_and_is_not_a_unets():
    lists = replace(SMALL, channel_mult=[1, 2], attention_resolutions=[2])
    assert lists == SMALL and hash(lists) == hash(SMALL)
    same = {name: value for name, value in vars(SMALL).items() if name != "pool"}
    assert UNetConfig(**same) != SMALL


def test_configs_that_no_network_has_are_refused(subtests):
    for change, message in [
        ({"pool": "mean"}, "pool is 'mean': it must be one of adaptive, attention, spatial"),
        ({"pool": "attention", "num_head_channels": -1}, "num_head_channels is -1"),
        ({"pool": "attention", "num_head_channels": 24}, "do not split into heads"),
        ({"pool": "attention", "image_size": 9}, "image_size is 9: .* a multiple of 2"),
        ({"model_channels": 48}, "level 0 has 48 channels"),
        ({"dropout": 1.5}, "dropout is 1.5"),
    ]:
        with subtests.test(change), pytest.raises(ValueError, match=message):
            replace(SMALL, **change)


# Widths of the input blocks of SMALL, one of them a downsampling, and of the middle.
FEATURES = 32 + 32 + 32 + 64 + 64
POOLED = {
    "adaptive": {
        "out.0.weight": (64,),
        "out.0.bias": (64,),
        "out.3.weight": (5, 64, 1, 1),
        "out.3.bias": (5,),
    },
    "attention": {
        "out.0.weight": (64,),
        "out.0.bias": (64,),
        "out.2.positional_embedding": (64, 17),
        "out.2.qkv_proj.weight": (192, 64, 1),
        "out.2.qkv_proj.bias": (192,),
        "out.2.c_proj.weight": (5, 64, 1),
        "out.2.c_proj.bias": (5,),
    },
    "spatial": {
        "out.0.weight": (2048, FEATURES),
        "out.0.bias": (2048,),
        "out.2.weight": (5, 2048),
        "out.2.bias": (5,),
    },
    "spatial_v2": {
        "out.0.weight": (2048, FEATURES),
        "out.0.bias": (2048,),
        "out.1.weight": (2048,),
        "out.1.bias": (2048,),
        "out.3.weight": (5, 2048),
        "out.3.bias": (5,),
    },
}
each_pool = pytest.mark.parametrize("pool", POOLS)


@each_pool
def test_every_pool_has_guided_diffusions_names_and_shapes(pool):
    zeros = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), param_shapes(replace(SMALL, pool=pool))
    )
    ours = {name: value.shape for name, value in adm.state_dict(zeros).items()}
    assert {name: shape for name, shape in ours.items() if name.startswith("out.")} == POOLED[pool]


# Of the others guided-diffusion's numbers are known.
LEAST = {"num_res_blocks": 0, "channel_mult": (1,), "attention_resolutions": ()}
LEAST = [replace(SMALL, pool=pool, **LEAST) for pool in ("spatial", "spatial_v2")]
WHOLE = [
    pytest.param(replace(SMALL, pool=pool), id=pool, marks=pytest.mark.slow) for pool in POOLS
]


@pytest.mark.parametrize("config", [*LEAST, *WHOLE])
def test_every_pool_gives_logits_and_a_gradient_for_every_picture_and_time(config):
    params, rng = random_params(config), np.random.default_rng(1)
    x, t = rng.normal(size=(2, 8, 8, 3)).astype(np.float32), np.float32([3, 700])

    @partial(jax.jit, compiler_options=HURRY)
    def evaluate(x, t):
        out, pull = jax.vjp(lambda x, t: Classifier(config).apply({"params": params}, x, t), x, t)
        return out, *pull(jnp.ones_like(out))

    out, *gradients = map(np.asarray, evaluate(x, t))
    assert out.shape == (2, 5) and out.dtype == np.float32
    for value in (out, *gradients):
        assert np.isfinite(value).all() and (np.abs(value).reshape(2, -1).max(axis=1) > 0).all()


@each_pool
def test_an_example_and_the_shapes_of_params_fit_the_network(pool):
    config = replace(SMALL, pool=pool)
    made = jax.eval_shape(Classifier(config).init, jax.random.key(0), *example(config))["params"]
    assert param_shapes(config) == made


def evaluated(config, *shape):
    x, t = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)
    return jax.eval_shape(Classifier(config).init_with_output, jax.random.key(0), x, t)[0].shape


@pytest.mark.parametrize("pool", ["adaptive", "spatial", "spatial_v2"])
def test_pools_of_means_take_any_size(pool):
    assert evaluated(replace(SMALL, pool=pool), 2, 12, 6, 3) == (2, 5)


def test_pictures_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"x is \[2, 8, 8, 1\]: it must be .*, 3\]"):
        evaluated(SMALL, 2, 8, 8, 1)
    with pytest.raises(ValueError, match="height and width must be multiples of 2"):
        evaluated(SMALL, 2, 8, 7, 3)
    attention = replace(SMALL, pool="attention")
    assert evaluated(attention, 2, 8, 8, 3) == (2, 5)
    with pytest.raises(ValueError, match=r"x is 8 x 16 pixels: .* 8 x 8 alone \(image_size = 8\)"):
        evaluated(attention, 2, 8, 16, 3)


def test_dropout_acts_in_training_alone():
    plain, dropped = LEAST[0], replace(LEAST[0], dropout=0.5)
    params = random_params(plain)
    x, t = np.ones((1, 8, 8, 3), np.float32), np.zeros(1, np.float32)

    @partial(jax.jit, compiler_options=HURRY)
    def train(key):
        rngs = {"dropout": key}
        return Classifier(dropped).apply({"params": params}, x, t, train=True, rngs=rngs)

    one, again, other = (np.asarray(train(jax.random.key(seed))) for seed in (0, 0, 1))
    assert (one == again).all() and (one != other).any()

    def program(config):
        return jax.jit(Classifier(config).apply).lower({"params": params}, x, t).as_text()

    assert program(dropped) == program(plain)
