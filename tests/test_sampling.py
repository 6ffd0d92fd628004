"""integrate(): it does what the table says, for every plan, however it is run."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import loop

from skipjax import grids, plans, schedules
from skipjax.denoisers import Prediction
from skipjax.evaluation.exact import Gaussian, law
from skipjax.plans import Plan, Tape
from skipjax.sampling import integrate, starting_noise, trajectory

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
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
    "skipped_uneven": plans.skipped(LINEAR, 105),
    "skipped_cutoff": plans.skipped(LINEAR, 100, cutoff=500),
    "ddim": plans.ddim(LINEAR, TIMES),
    "ddim_eta_0.3": plans.ddim(LINEAR, TIMES, 0.3),
    "ddim_eta_1": plans.ddim(LINEAR, TIMES, 1.0),
    "hybrid": plans.hybrid(LINEAR, grids.respaced(1000, "4,3,3"), 400),
    "cosine": plans.hybrid(schedules.cosine(), TIMES, 400),
    "one_call": plans.ddim(LINEAR, [999]),
    "adams": adams(),
}
PICTURES = np.random.default_rng(3).normal(size=(4, 3))


def keys_of(ids, seed=0):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(ids))


KEYS = keys_of(range(4))


@jax.jit
def run(plan, x, keys):
    return integrate(plan, TARGET.denoise, x, keys)


@jax.jit
def path(plan, x, keys):
    return trajectory(plan, TARGET.denoise, x, keys)


@jax.jit
def drawn(keys):
    """z_i of the pictures of keys, [10, B, 3], as `integrate` is said to draw them."""
    each = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))(keys, jnp.arange(10))
    return jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (3,), jnp.float64)))(each)


def test_every_plan_gives_pictures_that_its_keys_decide():
    x, others = starting_noise(KEYS, (3,)), keys_of(range(4), seed=1)
    for name, plan in PLANS.items():
        out = run(plan, x, KEYS)
        chex.assert_shape(out, x.shape)
        chex.assert_type(out, jnp.float32)
        assert np.isfinite(out).all(), name
        assert (out == run(plan, x, KEYS)).all(), name
        assert (out != run(plan, x, others)).any() == plan.noise.any(), name
        chex.assert_type(jax.eval_shape(run, plan, x.astype(jnp.bfloat16), KEYS), jnp.float32)


def test_pictures_may_have_any_number_of_axes():
    x = starting_noise(KEYS, (1, 1, 3))
    out = run(PLANS["skipped"], x, KEYS)
    chex.assert_shape(out, (4, 1, 1, 3))
    np.testing.assert_allclose(out[:, 0, 0], run(PLANS["skipped"], x[:, 0, 0], KEYS), atol=1e-6)


def test_a_trajectory_passes_through_what_each_row_leads_to():
    x = starting_noise(KEYS, (3,))
    for name, plan in PLANS.items():
        points = path(plan, x, KEYS)
        chex.assert_shape(points, (plan.nfe, *x.shape))
        assert (points[-1] == run(plan, x, KEYS)).all(), name
        middle = plan.nfe // 2  # a plan whose later rows leave the point alone ends there
        kept = np.arange(plan.nfe) < middle
        stopped = replace(
            plan,
            keep=np.where(kept, plan.keep, 1.0),
            mix=plan.mix * kept[:, None],
            noise=plan.noise * kept,
        )
        expected = run(stopped, x, KEYS) if middle else x
        np.testing.assert_allclose([x, *points][middle], expected, rtol=1e-6, err_msg=name)


def test_integrate_equals_a_loop_over_the_table(float64):
    z = np.asarray(drawn(KEYS))

    def predict(x, t, alpha, sigma, space):
        of_x = alpha**2 * TARGET.cov + sigma**2 * np.eye(3)
        x_0 = TARGET.mean + (x - alpha * TARGET.mean) @ np.linalg.solve(of_x, alpha * TARGET.cov)
        return x_0 if space == "x_0" else (x - alpha * x_0) / sigma

    for name, plan in PLANS.items():
        out = run(plan, PICTURES, KEYS)
        assert out.dtype == jnp.float64, name
        expected = loop(plan, partial(predict, space=plan.space), PICTURES, z)
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12, err_msg=name)


def measured_law(plan):
    """Law of x_N read off integrate itself, which is affine in x and in the noises it draws."""
    silent = replace(plan, noise=np.zeros(plan.nfe))
    x = np.eye(4, 3, -1)
    out = np.asarray(run(silent, x, KEYS))
    mean, of_x = out[0], (out[1:] - out[0]).T
    cov = of_x @ of_x.T

    # One plan for each row's noise alone; the z that were drawn are known.
    for i, z in enumerate(np.asarray(drawn(KEYS))[: plan.nfe]):
        alone = replace(plan, noise=plan.noise * (np.arange(plan.nfe) == i))
        moved = np.asarray(run(alone, np.zeros_like(x), KEYS)) - mean
        of_z, *_ = np.linalg.lstsq(z, moved, rcond=None)
        cov += of_z.T @ of_z
    return mean, cov


def test_law_on_a_gaussian_is_that_of_the_table(float64):
    for name, plan in PLANS.items():
        mean, cov = measured_law(plan)
        expected = law(plan, TARGET)
        np.testing.assert_allclose(mean, expected.mean, rtol=0, atol=1e-10, err_msg=name)
        np.testing.assert_allclose(cov, expected.cov, rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize(
    ("names", "num"),
    [
        (["skipped_cutoff"], 20_000),
        pytest.param(
            ["skipped", "ddim", "skipped_cutoff", "adams"], 100_000, marks=pytest.mark.slow
        ),
    ],
    ids=["few", "many"],
)
def test_samples_follow_the_law(names, num):
    keys = keys_of(np.arange(num))
    x = starting_noise(keys, (3,))
    for plan in map(PLANS.get, names):
        out = np.asarray(run(plan, x, keys), np.float64)
        expected = law(plan, TARGET)
        var = np.diag(expected.cov)
        error = np.abs(out.mean(0) - expected.mean)
        assert (error < 5 * np.sqrt(var / num)).all()
        error = np.abs(np.cov(out.T) - expected.cov)
        assert (error < 5 * np.sqrt((np.outer(var, var) + expected.cov**2) / num)).all()


@pytest.fixture(scope="module")
def noises():
    """z_0 .. z_6 of three pictures as integrate draws them: a table that keeps nothing else."""
    ones, zeros = np.ones(7), np.zeros(7)
    plan = Plan(ones, ones, ones, zeros, zeros[:, None], ones)
    draw = jax.jit(lambda x, keys: trajectory(plan, lambda x, _: Prediction(x, x), x, keys))
    return np.asarray(draw(jnp.ones((3, 4, 4, 3)), KEYS[:3]))


@pytest.fixture(scope="module")
def starts():
    """What the three start from."""
    return np.asarray(jax.jit(starting_noise, static_argnums=1)(KEYS[:3], (4, 4, 3)))


def test_noise_is_drawn_with_the_pictures_key_and_a_number_of_the_step_or_the_start(
    noises, starts
):
    normal = jax.jit(lambda key, i: jax.random.normal(jax.random.fold_in(key, i), (4, 4, 3)))
    for i, found in [(0, noises[0]), (6, noises[6]), (2**32 - 1, starts)]:
        for key, ours in zip(KEYS[:3], found, strict=True):
            assert (ours == normal(key, np.uint32(i))).all(), i


def test_noise_differs_between_steps_pictures_and_the_start(noises, starts):
    assert len({z.tobytes() for z in (*noises[0], *noises[1], *starts)}) == 9


def test_on_step_hears_of_every_row_once():
    seen = []

    @jax.jit
    def sample(x):
        return integrate(
            PLANS["skipped"], TARGET.denoise, x, KEYS, on_step=lambda i: seen.append(int(i))
        )

    sample(starting_noise(KEYS, (3,))).block_until_ready()
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
    with pytest.raises(AssertionError, match="traced > 1 times"):
        sample(plans.skipped(LINEAR, 200), jax.random.key(0))


def test_stacked_plans_draw_as_one_by_one():
    many = [plans.skipped(LINEAR, 100, cutoff) for cutoff in (0, 300, 700, 1000)]
    x = starting_noise(KEYS, (3,))
    out = jax.jit(jax.vmap(run, (0, None, None)))(plans.stack(many), x, KEYS)
    assert out.shape == (4, 4, 3)
    for plan, ours in zip(many, out, strict=True):
        np.testing.assert_allclose(ours, run(plan, x, KEYS), atol=1e-6, err_msg=repr(plan))
