"""Multistep consistency sampling: as a table, as a law, and with networks that are exact."""

import exact_consistency as exact
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import SCHEDULES, loop

import skipjax
from skipjax import grids, plans, schedules
from skipjax.evaluation.exact import reference
from skipjax.process import Edm, Point, Process, consistency
from skipjax.schedules import DATA

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
KEY = jax.random.key(4)
VE = exact.SCHEDULE
LEAST = 0.002
ONE = jax.local_devices()[:1]
NUM = 4096
CHANCE = 1.95 / np.sqrt(NUM)  # by which a law of so many is off, 1 time in 1000
# Of openai/consistency_models: which times, of how many.
RELEASED = [((0, 22, 39), 40), ((0, 17, 39), 40), ((0, 106, 200), 201), ((0, 62, 150), 151)]


@pytest.fixture(scope="module")
def teacher():
    return exact.pretrained(student=False)


@pytest.fixture(scope="module")
def student():
    return exact.pretrained(student=True)


def released_loop(f, x, ts, steps, noise):
    """The loop of openai/consistency_models, with its own arithmetic of times."""
    top, bottom = 80 ** (1 / 7), LEAST ** (1 / 7)
    level = [(top + i / (steps - 1) * (bottom - top)) ** 7 for i in ts]
    level[-1] = LEAST  # and not a rounding beside it, which would be noise of 3e-10
    for i in range(len(ts) - 1):
        x_0 = f(x, level[i])
        following = np.clip(level[i + 1], LEAST, 80)
        x = x_0 + noise[i] * np.sqrt(following**2 - LEAST**2)
    return x


@pytest.mark.parametrize(("ts", "steps"), [*RELEASED, ((0, 9, 17, 30, 39), 40)])
def test_the_table_is_the_released_loop(ts, steps):
    times = grids.karras(VE, steps)[list(ts)]
    plan = plans.consistency(VE, times[:-1], end=times[-1])
    to_the_data = plans.consistency(VE, times[:-1])
    x, *noise = np.random.default_rng(0).normal(size=(len(ts), 50))

    def f(x, sigma):
        return np.tanh(x / (1 + sigma)) + 0.1 * np.sin(sigma)

    expected = released_loop(f, 80 * x, ts, steps, noise)
    for ours in (plan, to_the_data):
        found = loop(ours, lambda x, t, alpha, sigma: f(x, sigma), 80 * x, noise)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        assert ours.nfe == len(ts) - 1 and not ours.noise[-1] and not ours.keep.any()


def test_where_variance_is_preserved_noise_fills_up_the_level():
    linear, times = SCHEDULES["linear"], [999, 600, 20.5]
    plan = plans.consistency(linear, times)
    alpha, sigma = linear.at(times)
    np.testing.assert_allclose(plan.mix[:, 0], [*alpha[1:], 1], rtol=1e-15)
    np.testing.assert_allclose(plan.noise, [*sigma[1:], 0], rtol=1e-15)
    assert plans.write("lcm", linear, times).origin.method == "consistency"
    zero = schedules.zero_terminal_snr(linear)
    assert np.isfinite(plans.consistency(zero, [999, 500]).mix).all()


def test_every_point_has_the_law_of_its_level():
    """Of Gaussian data, whose consistency function is linear, at any times."""
    mean, variance = 0.7, 0.3
    rng = np.random.default_rng(1)
    for name in ("variance_exploding", "linear", "rectified_flow"):
        schedule = SCHEDULES[name]
        times = np.sort(rng.uniform(0, 980, 6))[::-1]
        least = LEAST if name == "variance_exploding" else 0.0
        for sigma_min, end in ((None, DATA), (least, times[-1] / 2), (least / 3, DATA)):
            plan = plans.consistency(schedule, times, sigma_min=sigma_min, end=end)
            left = (least if sigma_min is None else sigma_min) ** 2
            m, v = plan.alpha[0] * mean, plan.alpha[0] ** 2 * variance + plan.sigma[0] ** 2
            after = [*zip(plan.alpha[1:], plan.sigma[1:], strict=True), schedule.at(end)]
            for i, (alpha, sigma) in enumerate(after):
                a, s = plan.alpha[i], plan.sigma[i]
                shrink = np.sqrt((variance + left) / (a**2 * variance + s**2))
                m, v = mean + shrink * (m - a * mean), shrink**2 * v
                m, v = plan.mix[i, 0] * m, plan.mix[i, 0] ** 2 * v + plan.noise[i] ** 2
                np.testing.assert_allclose(m, alpha * mean, rtol=1e-12)
                level = alpha**2 * variance + max(sigma**2, alpha**2 * left)
                np.testing.assert_allclose(v, level, rtol=1e-12)


def test_a_sigma_min_that_does_not_fit_is_refused():
    for wrong in (-0.1, 0.5, np.nan):
        with pytest.raises(ValueError, match="sigma_min is .*it must be in 0 .. 0.002, the least"):
            plans.consistency(VE, [999, 0], sigma_min=wrong)


def test_the_parameterization_is_the_papers():
    rng = np.random.default_rng(2)
    x, F = rng.normal(size=(2, 40, 3)).astype(np.float32)
    sigma = np.geomspace(LEAST, 80, 40)[:, None]
    process, told = Process("variance_exploding", "consistency", Edm(0.5, 250.0)), Edm(0.5, 250.0)
    c_skip = 0.25 / ((sigma - LEAST) ** 2 + 0.25)
    c_out = (sigma - LEAST) * 0.5 / np.sqrt(sigma**2 + 0.25)
    for scale in (1.0, 0.3):  # of alpha: the same of x / alpha
        levels = (np.float32(scale * a) for a in (np.ones_like(sigma), sigma))
        point = Point(np.arange(40.0), *levels)
        x_0, eps = process.row.predict(F, scale * x, point)
        np.testing.assert_allclose(x_0, c_skip * x + c_out * F, rtol=1e-5, atol=1e-5)
        back = point.alpha * x_0 + point.sigma * eps
        np.testing.assert_allclose(back, scale * x, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(told.c_noise(point), 250 * np.log(sigma), rtol=1e-5, atol=1e-3)
        # where float32 can tell sigma from sigma_min
        target = process.row.target(x_0, eps, point)
        np.testing.assert_allclose(target[4:], F[4:], rtol=1e-2, atol=1e-2)


def test_at_the_boundary_x_is_the_answer_whatever_the_network_says():
    process = Process("variance_exploding", "consistency", Edm(0.5, 250.0))
    sigma = jnp.float32(process.schedule.sigma[0])
    for level in (sigma, sigma / 2):
        point, x = Point(jnp.float32(0), jnp.float32(1), level), jnp.array([[0.3, -2.0]])
        x_0, eps = process.row.predict(jnp.array([[1e6, -1e6]]), x, point)
        np.testing.assert_array_equal(x_0, x)
        np.testing.assert_array_equal(eps, 0 * x)
        assert np.isfinite(process.row.target(x, eps, point)).all()
    other = process.replace(schedule=schedules.variance_exploding(100, 0.01))
    ours, given = other.row.predict(x, x, point), consistency(0.5, 0.01).predict(x, x, point)
    np.testing.assert_array_equal(ours, given)


def drawn(model, plan):
    return np.asarray(skipjax.sample(model, KEY, num=NUM, plan=plan, devices=ONE))


def relayed(*legs):
    return np.asarray(skipjax.relay(legs, KEY, num=NUM, devices=ONE))


@pytest.fixture(scope="module")
def flow():
    """Where the probability flow takes the first 64 of what sampling starts from."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(64))
    start = 80 * np.asarray(skipjax.sampling.starting_noise(keys, (1,)))
    return reference(exact.TARGET.denoise, start, (1.0, 80.0), (1.0, LEAST), rtol=1e-9)


def test_one_call_ends_where_the_flow_does(student, flow):
    ours = drawn(student, plans.consistency(VE, [999]))
    np.testing.assert_allclose(ours[:64], flow, rtol=0, atol=5e-6)


@pytest.mark.slow
def test_a_solver_above_and_one_call_below_end_where_the_flow_does(teacher, student, flow):
    for above, steps, within in (("heun", 40, 1e-3), ("heun", 80, 2e-4), ("ddim", 80, 2e-3)):
        times = grids.karras(VE, steps)
        first, _ = plans.split(VE, times, times[steps // 2], above)
        ours = relayed((teacher, first), (student, plans.consistency(VE, [first.origin.end])))
        off = np.sqrt(np.mean(np.square(ours[:64] - flow)))
        assert off < within, (above, steps, off)


@pytest.mark.slow
def test_more_calls_keep_the_law_of_the_data(teacher, student):
    times = grids.karras(VE, 40)
    for at in ([0, 22], [0, 15]):
        plan = plans.consistency(VE, times[at])
        assert exact.off(drawn(student, plan)) < CHANCE
    # Of a network of diffusion it makes something else.
    assert exact.off(drawn(teacher, plan)) > 4 * CHANCE


@pytest.mark.slow
def test_skipped_step_above_and_consistency_below_keep_the_law_of_the_data(teacher, student):
    times = grids.karras(VE, 200)
    above, _ = plans.split(VE, times, times[119], "skipped")
    for below in ([120], [120, 150]):
        ours = relayed((teacher, above), (student, plans.consistency(VE, times[below])))
        assert exact.off(ours) < CHANCE
    # Without the student, as many calls of the teacher leave more undone.
    assert exact.off(drawn(teacher, plans.ddpm(VE, times[:121]))) > 2 * CHANCE
