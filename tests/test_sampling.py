"""integrate(): it does what the table says, for every plan, however it is run."""

from dataclasses import replace
from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import grids, plans, schedules
from skipjax.denoisers import Prediction
from skipjax.evaluation.exact import Gaussian, law
from skipjax.plans import Plan, Tape
from skipjax.sampling import integrate, starting_noise, trajectory

LINEAR = schedules.linear()
TIMES = grids.skipped(1000, 100)
TARGET = Gaussian([0.3, -0.5, 0.1], [[0.25, 0.1, 0.0], [0.1, 0.5, -0.2], [0.0, -0.2, 0.3]])


def adams():
    """Adams and Bashforth's second-order rule for d(x / alpha) = eps d(sigma / alpha)."""
    tape = Tape(LINEAR, "eps")
    x, older = tape.start(), None
    for t, s in pairwise([*TIMES, schedules.DATA]):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = LINEAR.at(t), LINEAR.at(s)
        x_t, _, eps = tape.call(x, t)
        slope = eps if older is None else 1.5 * eps - 0.5 * older
        x = alpha_s / alpha_t * x_t + (sigma_s - alpha_s / alpha_t * sigma_t) * slope
        x, older = x + 0.05 * sigma_s * tape.noise(), eps
    return tape.plan(x)


PLANS = {
    "ddpm_small": plans.ddpm(LINEAR, TIMES),
    "ddpm_large": plans.ddpm(LINEAR, TIMES, "large"),
    "skipped": plans.skipped(LINEAR, 100),
    "skipped_uneven": plans.skipped(LINEAR, 333),
    "skipped_cutoff": plans.skipped(LINEAR, 100, cutoff=500),
    "ddim": plans.ddim(LINEAR, TIMES),
    "ddim_eta_0.3": plans.ddim(LINEAR, TIMES, 0.3),
    "ddim_eta_1": plans.ddim(LINEAR, TIMES, 1.0),
    "hybrid": plans.hybrid(LINEAR, grids.respaced(1000, "4,3,3"), 400),
    "cosine": plans.hybrid(schedules.cosine(), TIMES, 400),
    "one_call": plans.ddim(LINEAR, [999]),
    "adams": adams(),
}
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def keys_of(ids, seed=0):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(ids))


@jax.jit
def run(plan, x, keys):
    return integrate(plan, TARGET.denoise, x, keys)


@jax.jit
def run_each(plans, x, keys):
    return jax.vmap(run, (0, None, None))(plans, x, keys)


@every_plan
def test_contract(plan):
    keys = keys_of(range(4))
    x = starting_noise(keys, (1, 1, 3))
    out = run(plan, x, keys)
    chex.assert_shape(out, x.shape)
    chex.assert_type(out, jnp.float32)
    chex.assert_tree_all_finite(out)
    assert (out == run(plan, x, keys)).all()
    assert (out != run(plan, x, keys_of(range(4), seed=1))).any() == plan.noise.any()
    half = run(plan, x.astype(jnp.bfloat16), keys)
    chex.assert_type(half, jnp.float32)


@every_plan
def test_a_trajectory_passes_through_what_each_row_leads_to(plan):
    keys = keys_of(range(4))
    x = starting_noise(keys, (1, 1, 3))
    points = jax.jit(lambda plan, x: trajectory(plan, TARGET.denoise, x, keys))(plan, x)
    chex.assert_shape(points, (plan.nfe, *x.shape))
    assert (points[-1] == run(plan, x, keys)).all()
    middle = plan.nfe // 2  # a plan whose later rows leave the point alone ends there
    kept = np.arange(plan.nfe) < middle
    stopped = replace(
        plan,
        keep=np.where(kept, plan.keep, 1.0),
        mix=plan.mix * kept[:, None],
        noise=plan.noise * kept,
    )
    expected = run(stopped, x, keys) if middle else x
    chex.assert_trees_all_close([x, *points][middle], expected, rtol=1e-6)


@every_plan
def test_integrate_equals_a_loop_over_the_table(plan, float64):
    keys = keys_of(range(5))
    x = jax.random.normal(jax.random.key(3), (5, 3), jnp.float64)
    out = run(plan, x, keys)
    assert out.dtype == jnp.float64
    x, history = np.asarray(x), []
    for i in range(plan.nfe):
        alpha, sigma = plan.alpha[i], plan.sigma[i]
        of_x = alpha**2 * TARGET.cov + sigma**2 * np.eye(3)
        x_0 = TARGET.mean + (x - alpha * TARGET.mean) @ np.linalg.solve(of_x, alpha * TARGET.cov)
        eps = (x - alpha * x_0) / sigma
        history.insert(0, {"x_0": x_0, "eps": eps}[plan.space])
        z = [jax.random.normal(jax.random.fold_in(key, i), (3,), jnp.float64) for key in keys]
        x = plan.keep[i] * x + plan.noise[i] * np.stack(z)
        x = x + sum(w * m for w, m in zip(plan.mix[i], history, strict=False))
    np.testing.assert_allclose(out, x, rtol=0, atol=1e-12)


def measured_law(plan):
    """Law of x_N read off integrate itself, which is affine in x and in the noises it draws."""
    size, n = len(TARGET.mean), plan.nfe
    keys = keys_of(range(size + 1))
    silent = replace(plan, noise=np.zeros(n))
    x = jnp.concatenate([jnp.zeros((1, size)), jnp.eye(size)])
    out = np.asarray(run(silent, x, keys))
    mean, of_x = out[0], (out[1:] - out[0]).T
    cov = of_x @ of_x.T

    # One plan for each row's noise alone; the z that were drawn are known.
    alone = jax.tree.map(lambda column: np.broadcast_to(column, (n, *column.shape)), plan)
    alone = replace(alone, noise=np.diag(plan.noise))
    start = jnp.zeros_like(x)
    moved = np.asarray(run_each(alone, start, keys)) - mean
    for i in range(n):
        z = [jax.random.normal(jax.random.fold_in(key, i), (size,), jnp.float64) for key in keys]
        of_z, *_ = np.linalg.lstsq(np.stack(z), moved[i], rcond=None)
        cov += of_z.T @ of_z
    return mean, cov


@every_plan
def test_law_on_a_gaussian_is_that_of_the_table(plan, float64):
    mean, cov = measured_law(plan)
    expected = law(plan, TARGET)
    np.testing.assert_allclose(mean, expected.mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(cov, expected.cov, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["skipped", "ddim", "skipped_cutoff", "adams"])
def test_100000_samples_follow_the_law(name):
    plan, num = PLANS[name], 100_000
    keys = keys_of(np.arange(num))
    out = np.asarray(run(plan, starting_noise(keys, (3,)), keys), np.float64)
    expected = law(plan, TARGET)
    var = np.diag(expected.cov)
    error = np.abs(out.mean(0) - expected.mean)
    assert (error < 5 * np.sqrt(var / num)).all()
    error = np.abs(np.cov(out.T) - expected.cov)
    assert (error < 5 * np.sqrt((np.outer(var, var) + expected.cov**2) / num)).all()


def noise_of_row(i, keys, shape=(4, 4, 3)):
    """z_i as integrate draws it: the picture of a table that keeps nothing else."""
    ones, zeros = np.ones(i + 1), np.zeros(i + 1)
    plan = Plan(ones, ones, ones, zeros, zeros[:, None], ones)
    x = jnp.ones((len(keys), *shape))
    draw = jax.jit(lambda x, keys: integrate(plan, lambda x, _: Prediction(x, x), x, keys))
    return draw(x, keys)


@pytest.mark.parametrize("i", [0, 6])
def test_noise_of_a_step_is_drawn_with_the_pictures_key_and_the_step(i):
    keys = keys_of(range(3))
    z = noise_of_row(i, keys)
    for key, ours in zip(keys, z, strict=True):
        theirs = jax.random.normal(jax.random.fold_in(key, i), (4, 4, 3))
        assert (ours == theirs).all()


def test_a_picture_starts_from_its_key_and_a_number_that_no_step_has():
    key = jax.random.key(11)
    theirs = jax.random.normal(jax.random.fold_in(key, 2**32 - 1), (4, 4, 3))
    assert (starting_noise(key[None], (4, 4, 3))[0] == theirs).all()


def test_noise_differs_between_steps_pictures_and_the_start():
    keys = keys_of(range(2))
    drawn = [*noise_of_row(0, keys), *noise_of_row(1, keys), *starting_noise(keys, (4, 4, 3))]
    assert len({np.asarray(z).tobytes() for z in drawn}) == 6


def test_on_step_hears_of_every_row_once():
    seen = []
    plan = PLANS["skipped"]
    keys = keys_of(range(2))

    @jax.jit
    def sample(x):
        return integrate(plan, TARGET.denoise, x, keys, on_step=lambda i: seen.append(int(i)))

    sample(starting_noise(keys, (3,))).block_until_ready()
    jax.effects_barrier()
    assert sorted(seen) == list(range(10))


def test_one_program_serves_every_plan_of_one_shape():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def sample(plan, key):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(4))
        return integrate(plan, TARGET.denoise, starting_noise(keys, (3,)), keys)

    out = [sample(PLANS["skipped"], jax.random.key(seed)) for seed in range(2)]
    for plan in [
        plans.ddpm(LINEAR, TIMES),
        plans.ddpm(LINEAR, TIMES, "large"),
        plans.skipped(LINEAR, 100, cutoff=300),
        plans.skipped(LINEAR, 100, cutoff=700),
        plans.ddim(LINEAR, TIMES, 0.0),
        plans.ddim(LINEAR, TIMES, 0.6),
        plans.ddim(schedules.cosine(), grids.leading(1000, 10), 1.0),
        plans.hybrid(LINEAR, TIMES, 500),
    ]:
        out.append(sample(plan, jax.random.key(0)))
    assert len({np.asarray(x).tobytes() for x in out}) >= 8


def test_a_plan_of_another_length_is_another_program():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def sample(plan, keys):
        return integrate(plan, TARGET.denoise, starting_noise(keys, (3,)), keys)

    sample(plans.skipped(LINEAR, 100), keys_of([0]))
    with pytest.raises(AssertionError, match="traced > 1 times"):
        sample(plans.skipped(LINEAR, 200), keys_of([0]))
