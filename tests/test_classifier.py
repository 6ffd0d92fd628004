"""The classifier against guided-diffusion's numbers."""

from dataclasses import MISSING, fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import CASES, Case, random_params

from skipjax.models import Classifier, ClassifierConfig, UNetConfig, example, network, param_shapes
from skipjax.models.config import POOLS
from skipjax.weights import adm

CLASSIFIERS = ["classifier_f", "classifier_g"]
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


@pytest.fixture(scope="module", params=CLASSIFIERS)
def case(request, goldens):
    return Case(goldens / CASES[request.param])


def log_prob(config, params, x, t, y, dtype=jnp.float32):
    """Log-probability of each label, [B]."""
    logits = network(config, dtype).apply({"params": params}, x, t)
    return jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)[:, 0]


def test_logits_equal_guided_diffusions(case):
    out, _ = case.recorded
    assert out.dtype == jnp.float32 and out.shape == case.out.shape
    np.testing.assert_allclose(out, case.out, rtol=0, atol=5e-5)


def test_activations_of_every_block_equal_guided_diffusions(case):
    errors = case.activation_errors()
    assert len(errors) == len(case.activations) - 2
    assert max(errors.values()) < 5e-5, errors


def test_log_probabilities_and_their_gradient_equal_guided_diffusions(case):
    (x, t), y = case.inputs, case.io["in_y"]

    @jax.jit
    def guide(x):
        values = log_prob(case.config, case.params, x, t, y)
        return values.sum(), values

    gradient, values = jax.jit(jax.grad(guide, has_aux=True))(x)
    np.testing.assert_allclose(values, case.io["log_prob_y"], rtol=0, atol=5e-5)
    expected = case.io["grad_x_of_sum_log_prob_y"]
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=5e-5)
    # The gradients are small numbers: this is what sets them apart from 0.
    assert np.abs(gradient - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.slow
def test_bfloat16_guides_nearly_the_same_way(goldens):
    case = Case(goldens / CASES["classifier_f"])
    (x, t), y = case.inputs, case.io["in_y"]
    assert case.run(dtype=jnp.bfloat16).dtype == jnp.float32

    @jax.jit
    def gradient(x):
        def total(x):
            return log_prob(case.config, case.params, x, t, y, jnp.bfloat16).sum()

        return jax.grad(total)(x)

    ours, expected = gradient(x), case.io["grad_x_of_sum_log_prob_y"]
    assert ours.dtype == jnp.float32
    cosine = (ours * expected).sum() / np.linalg.norm(ours) / np.linalg.norm(expected)
    assert 0.99 < cosine < 1


def test_defaults_are_guided_diffusions():
    ours = {f.name: f.default for f in fields(ClassifierConfig) if f.default is not MISSING}
    theirs = {f.name: f.default for f in fields(UNetConfig) if f.default is not MISSING}
    assert ours == {
        name: value
        for name, value in theirs.items()
        if name not in ("num_classes", "low_res_channels")
    } | {"pool": "adaptive"}


def test_a_config_hashes_and_is_not_a_unets():
    lists = replace(SMALL, channel_mult=[1, 2], attention_resolutions=[2])
    assert lists == SMALL and hash(lists) == hash(SMALL)
    same = {name: value for name, value in vars(SMALL).items() if name != "pool"}
    assert UNetConfig(**same) != SMALL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool": "mean"}, "pool is 'mean': it must be one of adaptive, attention, spatial"),
        ({"pool": "attention", "num_head_channels": -1}, "num_head_channels is -1"),
        ({"pool": "attention", "num_head_channels": 24}, "do not split into heads"),
        ({"pool": "attention", "image_size": 9}, "image_size is 9: .* a multiple of 2"),
        ({"model_channels": 48}, "level 0 has 48 channels"),
        ({"dropout": 1.5}, "dropout is 1.5"),
    ],
    ids=str,
)
def test_configs_that_no_network_has_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
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


@pytest.mark.parametrize("pool", POOLS)
def test_every_pool_has_guided_diffusions_names_and_shapes(pool):
    zeros = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), param_shapes(replace(SMALL, pool=pool))
    )
    ours = {name: value.shape for name, value in adm.state_dict(zeros).items()}
    assert {name: shape for name, shape in ours.items() if name.startswith("out.")} == POOLED[pool]


@pytest.mark.parametrize("pool", POOLS)
def test_every_pool_gives_logits_and_a_gradient_for_every_picture_and_time(pool):
    config = replace(SMALL, pool=pool)
    params, rng = random_params(config), np.random.default_rng(1)
    x, t = rng.normal(size=(2, 8, 8, 3)).astype(np.float32), np.float32([3, 700])

    @jax.jit
    def evaluate(x, t):
        out, pull = jax.vjp(lambda x, t: Classifier(config).apply({"params": params}, x, t), x, t)
        return out, *pull(jnp.ones_like(out))

    out, *gradients = evaluate(x, t)
    assert out.shape == (2, 5) and out.dtype == jnp.float32
    for value in (out, *gradients):
        assert np.isfinite(value).all() and (np.abs(value).reshape(2, -1).max(axis=1) > 0).all()


@pytest.mark.parametrize("pool", POOLS)
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
    config = replace(SMALL, dropout=0.5)
    params = random_params(config)
    x, t = jnp.ones((1, 8, 8, 3)), jnp.zeros(1)

    @jax.jit
    def train(key):
        dropout = {"dropout": key}
        return Classifier(config).apply({"params": params}, x, t, train=True, rngs=dropout)

    one, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    assert (one == again).all() and (one != other).any()
    plain = jax.jit(Classifier(config).apply)({"params": params}, x, t)
    assert (plain == jax.jit(Classifier(SMALL).apply)({"params": params}, x, t)).all()
