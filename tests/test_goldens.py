"""The networks against guided-diffusion's numbers: small ones of every kind, block by block."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import HURRY
from reference import CASES, Case, labelled

from skipjax.models import UNet, blocks, network


@pytest.fixture(scope="module", params=CASES)
def case(request, goldens):
    return Case(goldens / CASES[request.param])


# One of either way to resample, and one with a gradient, by the programs that people run too.
AS_EVER = ("unet_a", "unet_c", "classifier_f")
AS_EVER = [pytest.param((name, "as_ever"), marks=pytest.mark.slow) for name in AS_EVER]
FEW = ("unet_a", "classifier_f")  # for every day
IN_A_HURRY = [
    pytest.param((name, "in_a_hurry"), marks=() if name in FEW else pytest.mark.slow)
    for name in CASES
]
RUNS = [*IN_A_HURRY, *AS_EVER]
CLASSIFIERS = [run for run in RUNS if "classifier" in str(run)]


@pytest.fixture(scope="module", params=RUNS, ids=str)
def run(request, goldens):
    """A case, and what its one run gave."""
    name, way = request.param
    case = Case(goldens / CASES[name])
    return case, case.recorded(way)


@pytest.fixture(scope="module")
def unet_a(goldens):
    return Case(goldens / CASES["unet_a"])


def test_output_equals_guided_diffusions(run):
    case, (out, *_) = run
    assert out.dtype == jnp.float32 and out.shape == case.out.shape
    np.testing.assert_allclose(out, case.out, rtol=0, atol=5e-5)


def test_activations_of_every_block_equal_guided_diffusions(run):
    case, (_, state, *_) = run
    errors = case.activation_errors(state["intermediates"])
    assert len(errors) == len(case.activations) - 2
    assert max(errors.values()) < 5e-5, errors


@pytest.mark.parametrize("run", CLASSIFIERS, ids=str, indirect=True)
def test_log_probabilities_and_their_gradient_equal_guided_diffusions(run):
    case, (*_, values, gradient) = run
    np.testing.assert_allclose(values, case.io["log_prob_y"], rtol=0, atol=5e-5)
    expected = case.io["grad_x_of_sum_log_prob_y"]
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=5e-5)
    # The gradients are small numbers: this is what sets them apart from 0.
    assert np.abs(gradient - expected).max() < 1e-4 * np.abs(expected).max()


def test_timestep_embedding_equals_guided_diffusions(case):
    ours = jax.jit(blocks.timestep_embedding, static_argnums=1)
    out = ours(case.inputs[1], case.config.model_channels)
    np.testing.assert_allclose(out, case.activations["timestep_embedding"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["up4", "up_odd", "nearest2"])
def test_enlarging_equals_torchs(goldens, name):
    reference = np.load(goldens / "diffusion" / "bilinear.npz")
    low, expected = (np.moveaxis(reference[name], 1, -1) for name in ("low", name))
    _, height, width, _ = expected.shape
    out = blocks.upsample(low) if name == "nearest2" else blocks.enlarge(low, height, width)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet_a", "unet_b"])
def test_the_wrong_attention_order_shows(goldens, name):
    case = Case(goldens / CASES[name])
    wrong = replace(case.config, use_new_attention_order=not case.config.use_new_attention_order)
    assert np.abs(case.run(wrong, options=HURRY) - case.out).max() > 0.02


@pytest.mark.slow
def test_bfloat16_compute_gives_float32_near_the_truth(unet_a):
    case, out = unet_a, unet_a.run(dtype=jnp.bfloat16)
    assert out.dtype == jnp.float32
    error = np.abs(out - case.out)
    assert 1e-4 < error.max() < 0.05 * np.abs(case.out).max()
    assert np.sqrt(np.mean(error**2)) < 0.04 * np.std(case.out)


@pytest.mark.slow
def test_bfloat16_guides_nearly_the_same_way(goldens):
    case = Case(goldens / CASES["classifier_f"])
    (x, t), y = case.inputs, case.io["in_y"]

    def total(x):
        logits = network(case.config, jnp.bfloat16).apply({"params": case.params}, x, t)
        return labelled(logits, y).sum(), logits

    gradient = jax.jit(jax.grad(total, has_aux=True), compiler_options=HURRY)
    (ours, logits), expected = gradient(x), case.io["grad_x_of_sum_log_prob_y"]
    assert logits.dtype == jnp.float32
    assert ours.dtype == jnp.float32
    cosine = (ours * expected).sum() / np.linalg.norm(ours) / np.linalg.norm(expected)
    assert 0.99 < cosine < 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet_a", "unet_c", "classifier_f", "classifier_g"])
def test_params_of_half_precision_are_cast_up_where_it_counts(goldens, name):
    # These weights are bfloat16 numbers: only arithmetic in bfloat16 could change the result.
    case = Case(goldens / CASES[name])
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), case.params)
    for dtype in (jnp.float32, jnp.bfloat16):
        expected = case.run(dtype=dtype, options=HURRY)
        out = case.run(dtype=dtype, params=half, options=HURRY)
        assert out.dtype == jnp.float32
        np.testing.assert_array_equal(out, expected)


@pytest.mark.slow
def test_dropout_acts_in_training_alone(unet_a):
    variables, unet = {"params": unet_a.params}, UNet(unet_a.config)

    @partial(jax.jit, compiler_options=HURRY)
    def train(key):
        return unet.apply(variables, *unet_a.inputs, train=True, rngs={"dropout": key})

    one, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    assert (one == again).all() and (one != other).any()
