"""The hybrid loss against guided-diffusion's, and with the weights of min-SNR."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from skipjax import grids, schedules
from skipjax.process import PARAMETERIZATIONS
from skipjax.schedules import Schedule
from skipjax.training import losses, objective
from skipjax.training.run import Run

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
CHAINS = {
    "linear1000_full_range": (schedules.linear(), ""),
    "linear1000_250_range": (schedules.linear(), "250"),
    "linear1000_ddim25_range": (schedules.linear(), "ddim25"),
    "cosine1000_ddim25_range": (schedules.cosine(), "ddim25"),
}
# At t = 0 of the full chain one picture has bins five deviations out, of mass 1e-6, which the
# reference computes as differences of numbers near 1.
REFERENCE_IS_OFF = {"linear1000_full_range": 3e-5}

diffuse = jax.jit(losses.diffuse)


def inputs(golden, dtype=np.float32):
    names = ("model_output6", "x_start", "noise")
    return [np.moveaxis(golden[name], 1, -1).astype(dtype) for name in names]


def chain_of(tag, dtype=jnp.float32):
    schedule, steps = CHAINS[tag]
    times = grids.respaced(1000, steps)[::-1]
    return losses.chain(Schedule(schedule.alpha[times], schedule.sigma[times]), dtype)


@jax.jit
def loss_of(chain, t, output, x_0, eps):
    return losses.hybrid(chain, output, x_0, losses.diffuse(chain, x_0, t, eps), t, eps)


def test_hybrid_loss_equals_guided_diffusions(goldens, subtests, float64):
    golden = np.load(goldens / "diffusion" / "steps.npz")
    names = ("RESCALED_MSE/loss", "RESCALED_MSE/mse", "RESCALED_MSE/vb", "KL/loss")

    def found(tag, t, dtype):
        chain = chain_of(tag, dtype)
        loss = loss_of(chain, t, *inputs(golden, dtype))
        weight = len(chain.alpha) / 1000
        assert loss.total.dtype == loss.bound.dtype == dtype
        of = (loss.total, loss.mse, weight * np.asarray(loss.bound), loss.bound)
        return np.stack(of).astype(np.float64)

    for tag in CHAINS:
        with subtests.test(tag):
            t = golden[f"{tag}/t"]
            ours, exact = found(tag, t, np.float32), found(tag, t, np.float64)
            theirs = np.stack([golden[f"{tag}/training_losses/{name}"] for name in names])
            np.testing.assert_allclose(ours, exact, rtol=1e-6)
            np.testing.assert_allclose(theirs[:, t > 0], exact[:, t > 0], rtol=1e-6)
            off = REFERENCE_IS_OFF.get(tag, 1e-6)
            np.testing.assert_allclose(theirs[:, t == 0], exact[:, t == 0], rtol=off)


def test_diffuse_equals_guided_diffusions(goldens):
    golden = np.load(goldens / "diffusion" / "steps.npz")
    _, x_0, eps = inputs(golden)
    for tag in CHAINS:
        x_t = diffuse(chain_of(tag), x_0, golden[f"{tag}/t"], eps)
        theirs = np.moveaxis(golden[f"{tag}/q_sample"], 1, -1)
        np.testing.assert_allclose(x_t, theirs, rtol=0, atol=1e-6)


def test_the_bound_trains_the_variance_alone(goldens):
    golden = np.load(goldens / "diffusion" / "steps.npz")
    chain, t = chain_of("linear1000_full_range"), np.array([0, 1, 2, 500, 998, 999])

    @jax.jit
    def gradients(output, x_0, eps):
        _, pull = jax.vjp(lambda output: loss_of(chain, t, output, x_0, eps), output)
        one, none = jnp.ones(len(t)), jnp.zeros(len(t))
        of = losses.Losses(none, one, none), losses.Losses(none, none, one)
        return [pull(part)[0] for part in of]

    of_mse, of_bound = (np.split(part, 2, axis=-1) for part in gradients(*inputs(golden)))
    for_eps, for_v = of_bound
    assert (for_eps == 0).all() and (np.abs(for_v).max(axis=(1, 2, 3)) > 0).all()
    for_eps, for_v = of_mse
    assert (np.abs(for_eps).max(axis=(1, 2, 3)) > 0).all() and (for_v == 0).all()


def test_a_perfect_prediction_with_the_posterior_variance_costs_nothing():
    chain = losses.chain(schedules.linear())
    t = np.array([1, 2, 10, 20, 50, 100])
    rng = np.random.default_rng(0)
    x_0 = (np.round(rng.uniform(0, 255, (6, 4, 5, 3))) / 127.5 - 1).astype(np.float32)
    eps = rng.normal(size=x_0.shape).astype(np.float32)
    loss, worse = (
        loss_of(chain, t, np.concatenate([eps, place * np.ones_like(eps)], axis=-1), x_0, eps)
        for place in (np.float32(-1), np.float32(1))
    )
    assert (loss.mse == 0).all()
    np.testing.assert_allclose(loss.bound, 0, atol=1e-5)
    assert (worse.bound > loss.bound).all()


def test_min_snr_weighs_the_error_of_x_0_whatever_is_predicted():
    schedule = schedules.linear()
    alpha, sigma = schedule
    of_x_0 = np.minimum((alpha / sigma) ** 2, 4.0)
    # How far x_0 moves with what is predicted.
    for prediction, slope in {"eps": sigma / alpha, "x_0": 1.0, "v": sigma}.items():
        weight = losses.min_snr_weight(schedule, PARAMETERIZATIONS[prediction], 4.0)
        np.testing.assert_allclose(weight, of_x_0 * slope**2, rtol=1e-6, err_msg=prediction)


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_min_snr_hybrid_weights_the_error_and_leaves_the_bound(prediction):
    run = Run(network=tiny.config(), loss="min_snr_hybrid", prediction=prediction, gamma=3.0)
    t = jnp.asarray([0, 100, 500, 999])
    output, x_0, eps = jnp.split(jax.random.normal(jax.random.key(0), (4, 8, 8, 12)), [6, 9], -1)
    x_t = diffuse(losses.chain(run.process.schedule), x_0, t, eps)

    def of(loss):
        tables = objective.tables(replace(run, loss=loss))
        return objective.evaluate(loss, run.process.row, tables, output, x_0, x_t, t, eps, eps)

    plain, weighted = of("hybrid"), of("min_snr_hybrid")
    np.testing.assert_array_equal(weighted.bound, plain.bound)
    np.testing.assert_array_equal(weighted.mse, plain.mse)
    weight = losses.min_snr_weight(run.process.schedule, run.process.row, 3.0)[t]
    expected = weight * plain.mse + plain.bound
    np.testing.assert_allclose(weighted.total, expected, rtol=1e-6)
    assert run.model().process.variance == "learned_range"


def test_min_snr_hybrid_is_checked_like_its_parts():
    run = Run(network=tiny.config(), loss="min_snr_hybrid")
    with pytest.raises(ValueError, match="gamma is 0.0"):
        replace(run, gamma=0.0)
    with pytest.raises(ValueError, match="has 3 output channels, .*'min_snr_hybrid' .* wants 6"):
        replace(run, network=replace(tiny.config(), out_channels=3))
