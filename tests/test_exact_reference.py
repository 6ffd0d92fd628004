"""The flow solved to the last digits, and laws by algebra: against closed forms and samples."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import padded

from skipjax import grids, plans, schedules
from skipjax.denoisers import Prediction
from skipjax.evaluation import exact
from skipjax.plans import Plan
from skipjax.sampling import integrate

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
LINEAR = schedules.linear()
COV = [[0.25, 0.1, 0.0], [0.1, 0.5, -0.2], [0.0, -0.2, 1.3]]
GAUSSIAN = exact.Gaussian([0.3, -0.5, 0.1], COV)
MIXTURE = exact.Mixture([0.4, 0.3, 0.3], [[1, 0.8], [-1.2, 0.6], [-0.5, -1]], [0.35, 0.1, 0.2])
START = tuple(map(float, LINEAR.at(999)))
LEVELS = {
    "linear": (START, (1.0, 0.0)),
    "pure noise": ((0.0, 1.0), (1.0, 0.0)),
    "variance exploding": ((1.0, 80.0), (1.0, 0.002)),
    "half way": ((0.2, 0.98), (0.8, 0.6)),
    "back to noise": ((1.0, 0.0), (0.0, 1.0)),
}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@partial(jax.jit, static_argnames="denoise")
def run(plan, x, keys, noise=None, *, denoise=GAUSSIAN.denoise):
    return integrate(plan, denoise, x, keys, noise=noise)


def test_reference_is_the_closed_form_of_a_gaussian(subtests):
    for name, (start, end) in LEVELS.items():
        with subtests.test(name):
            x = start[0] * GAUSSIAN.mean + np.hypot(*start) * normal(5, 3)
            # Written out with matrices: x_t = alpha_t m + V_t^{1/2} V_s^{-1/2} (x_s - alpha_s m).
            variances, axes = np.linalg.eigh(COV)
            v_s, v_t = (a**2 * variances + s**2 for a, s in (start, end))
            map_ = axes @ np.diag(np.sqrt(v_t / v_s)) @ axes.T
            expected = end[0] * GAUSSIAN.mean + (x - start[0] * GAUSSIAN.mean) @ map_
            solved = exact.reference(GAUSSIAN.denoise, x, start, end)
            assert solved.dtype == np.float64
            np.testing.assert_allclose(solved, expected, rtol=0, atol=1e-9)
            np.testing.assert_allclose(GAUSSIAN.flow(x, start, end), expected, rtol=0, atol=1e-12)


def test_what_is_certain_stays_so_along_the_flow():
    flat = exact.Gaussian([1.0, 2.0], np.diag([1.0, 0.0]))
    moved = flat.flow([[1.5, 2.0]], (1.0, 0.0), (0.6, 0.8))
    np.testing.assert_allclose(moved, [[0.6 + 0.5, 1.2]], rtol=0, atol=1e-15)


def test_low_rank_flows_in_closed_form_on_and_off_its_axes():
    axes, _ = np.linalg.qr(normal(8, 2))
    target = exact.low_rank(np.linspace(-1, 1, 8), axes, [2.0, 0.3], 0.05)
    x = normal(4, 2, 2, 2)
    solved = exact.reference(target.denoise, x, START)
    np.testing.assert_allclose(solved, target.flow(x, START), rtol=0, atol=1e-9)
    full = exact.Gaussian(target.mean, target.cov)
    np.testing.assert_allclose(target.flow(x, START), full.flow(x, START), rtol=0, atol=1e-12)


def test_reference_runs_back_to_where_it_came_from():
    x = normal(20, 2)
    data = exact.reference(MIXTURE.denoise, x, START)
    back = exact.reference(MIXTURE.denoise, data, (1.0, 0.0), START)
    # The flow contracts to narrow modes: on the way back errors grow.
    np.testing.assert_allclose(back, x, rtol=0, atol=1e-8)


def test_reference_is_the_same_in_every_group_and_scale():
    x = normal(10, 2)
    together = exact.reference(MIXTURE.denoise, x, START)
    for group in (1, 4):
        apart = exact.reference(MIXTURE.denoise, x, START, group=group)
        np.testing.assert_allclose(apart, together, rtol=0, atol=1e-9)
    # x / sqrt(alpha^2 + sigma^2) is what flows: variance exploding and preserving are one flow.
    exploding = exact.reference(MIXTURE.denoise, x / START[0], (1.0, START[1] / START[0]))
    np.testing.assert_allclose(exploding, together, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_reference_takes_the_law_of_noise_to_that_of_the_data():
    x = normal(20_000, 2)
    data = exact.reference(MIXTURE.denoise, x, (0.0, 1.0), rtol=1e-6, group=20_000)
    assert exact.mode_error(MIXTURE, data) < 0.015
    cov = MIXTURE.weights @ MIXTURE.stds**2 * np.eye(2)
    mean = MIXTURE.weights @ MIXTURE.means
    off = MIXTURE.means - mean
    cov += (off.T * MIXTURE.weights) @ off
    np.testing.assert_allclose(data.mean(axis=0), mean, rtol=0, atol=0.03)
    np.testing.assert_allclose(np.cov(data.T), cov, rtol=0, atol=0.03)


@pytest.mark.parametrize(
    "bias", [pytest.param(0.0, marks=pytest.mark.slow), 0.1], ids=["exact", "perturbed"]
)
def test_ddim_comes_to_the_reference_with_order_one(float64, bias):
    denoise = exact.perturbed(MIXTURE.denoise, bias)
    x, keys = normal(16, 2, seed=1), jax.random.split(jax.random.key(0), 16)
    solved = exact.reference(denoise, x, START)
    errors = []
    for nfe in (250, 500, 1000):
        plan = padded(plans.ddim(LINEAR, grids.trailing(1000, nfe)), 1000, history=1)
        errors.append(exact.path_rmse(run(plan, x, keys, denoise=denoise), solved))
    assert errors[2] < 0.01
    assert 1.7 < errors[0] / errors[1] < 2.4 and 1.7 < errors[1] / errors[2] < 2.6


def test_reference_where_nothing_is_to_be_done():
    x = normal(3, 2)
    np.testing.assert_array_equal(exact.reference(MIXTURE.denoise, x, (0.6, 0.8), (0.6, 0.8)), x)


REFUSED = [
    ({"start": (0.0, 0.0)}, r"start is \(alpha, sigma\) = \(0.0, 0.0\)"),
    ({"start": (0.5, np.inf)}, "start is"),
    ({"start": START, "end": (1.0, -0.1)}, "end is"),
    ({"start": START, "rtol": 1e-16}, "rtol is 1e-16"),
    ({"start": START, "group": 0}, "group is 0"),
]


def test_what_no_flow_can_follow_is_refused(subtests):
    for options, says in REFUSED:
        with subtests.test(says), pytest.raises(ValueError, match=says):
            exact.reference(MIXTURE.denoise, np.zeros((2, 2)), **options)


def test_a_denoiser_that_knows_no_answer_is_not_followed():
    def torn(x, point):
        return Prediction(x, jnp.where(point.sigma > 0.5, x, jnp.nan))

    with pytest.raises(RuntimeError, match="not finite at alpha 0.[89]"):
        exact.reference(torn, np.ones((1, 1)), START)
    with pytest.raises(ValueError, match="not finite"):
        exact.reference(MIXTURE.denoise, [[np.nan, 0.0]], START)


def test_a_flow_that_leaves_all_bounds_is_not_followed():
    # Downwards in phi this is y' = 5 cos(phi) y^2, which is infinite at sin(phi) = 0.8.
    with pytest.raises(RuntimeError, match="cannot be followed"):
        exact.reference(lambda x, _: Prediction(0 * x, -5 * x**2), [[1.0]], (0.0, 1.0))


def test_without_scipy_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.integrate", None)
    with pytest.raises(ImportError, match="pip install scipy"):
        exact.reference(MIXTURE.denoise, np.zeros((2, 2)), START)


def third_order():
    """A table of K = 3 with noise, of no use but for its law."""
    plan = plans.ddim(LINEAR, grids.trailing(1000, 8), 0.5)
    mix = np.stack([1.5 * plan.mix[:, 0], -0.7 * plan.mix[:, 0], 0.2 * plan.mix[:, 0]], axis=1)
    mix[0, 1:] = mix[1, 2] = 0
    return plan.t, plan.alpha, plan.sigma, plan.keep, mix, plan.noise


@pytest.mark.parametrize("space", ["x_0", "eps"])
def test_law_is_what_integrate_makes_of_each_unit_of_noise(float64, space):
    """The sampler is affine in x and every z: its value at 0 is the mean, its slopes the cov."""
    plan = Plan(*third_order(), space)
    num, dim = plan.nfe, 3
    units = (num + 1) * dim
    noise = np.eye(units)[:, dim:].reshape(units, num, dim).transpose(1, 0, 2)
    noise = np.concatenate([np.zeros((num, 1, dim)), noise], axis=1)
    keys = jax.random.split(jax.random.key(0), units + 1)
    for std in (1.0, 1.7):
        x = np.concatenate([np.zeros((1, dim)), std * np.eye(units, dim)])
        out = np.asarray(run(plan, x, keys, noise))
        slopes = out[1:] - out[0]
        ours = exact.law(plan, GAUSSIAN, std=std)
        np.testing.assert_allclose(ours.mean, out[0], rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(ours.cov, slopes.T @ slopes, rtol=1e-9, atol=1e-10)


def test_law_of_low_rank_is_that_of_its_covariance():
    axes, _ = np.linalg.qr(normal(6, 2))
    target = exact.low_rank(np.linspace(-1, 1, 6), axes, [2.0, 0.3], 0.05)
    whole = exact.Gaussian(target.mean, target.cov)
    for space in ("x_0", "eps"):
        plan = Plan(*third_order(), space)
        ours, full = exact.law(plan, target), exact.law(plan, whole)
        np.testing.assert_allclose(ours.mean, full.mean, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(ours.cov, full.cov, rtol=1e-9, atol=1e-10)


def test_100000_samples_of_a_noisy_plan_follow_the_law():
    plan, num = plans.ddim(LINEAR, grids.trailing(1000, 6), 0.7), 100_000
    keys = jax.random.split(jax.random.key(1), num)
    x = np.float32(normal(num, 3, seed=2))
    out = np.asarray(run(plan, x, keys), np.float64)
    ours = exact.law(plan, GAUSSIAN)
    var = np.diag(ours.cov)
    assert (np.abs(out.mean(axis=0) - ours.mean) < 5 * np.sqrt(var / num)).all()
    error = np.abs(np.cov(out.T) - ours.cov)
    assert (error < 5 * np.sqrt((np.outer(var, var) + ours.cov**2) / num)).all()


def test_law_of_a_learned_variance_is_refused():
    plan = plans.ddpm(LINEAR, grids.trailing(1000, 5), "learned_range")
    with pytest.raises(ValueError, match="'small' or 'large'"):
        exact.law(plan, GAUSSIAN)


def test_flow_law_is_the_law_of_the_closed_form():
    start, end = (0.3, 0.9), (0.9, 0.2)
    ours = exact.flow_law(GAUSSIAN, start, end)
    out = GAUSSIAN.flow(np.concatenate([np.zeros((1, 3)), np.eye(3)]), start, end)
    slopes = out[1:] - out[0]
    np.testing.assert_allclose(ours.mean, out[0], rtol=0, atol=1e-13)
    np.testing.assert_allclose(ours.cov, slopes.T @ slopes, rtol=0, atol=1e-13)


def test_ddim_s_law_comes_to_that_of_the_flow():
    start = tuple(LINEAR.at(999))
    laws = [exact.law(plans.ddim(LINEAR, grids.trailing(1000, n)), GAUSSIAN) for n in (250, 1000)]
    far, near = (exact.w2(ours, exact.flow_law(GAUSSIAN, start)) for ours in laws)
    assert near < 0.02 and 3 < far / near < 5.5
