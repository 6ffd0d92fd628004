"""EDM's sampler as a table against its own loop, in float64."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import SCHEDULES, loop

from skipjax import generation, grids, plans, schedules
from skipjax.denoisers import Point
from skipjax.evaluation.exact import Gaussian
from skipjax.plans import Plan
from skipjax.process import Edm, Process

VE = schedules.variance_exploding()
RNG = np.random.default_rng(0)
COV = np.cov(RNG.normal(size=(4, 9)))
TARGET = Gaussian([0.3, -1.0, 0.4, 2.0], COV)
SETTINGS = [
    (18, {}),
    (40, {"churn": 10.0, "s_noise": 1.01}),
    (256, {"churn": 40.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003}),
    (20, {"churn": 80.0}),  # as much as there may be
    (12, {"churn": 3.0, "s_max": 1.0, "s_noise": 0.0}),
]


def x_0_of(x, sigma):
    """E[x_0 | x] of the target, for rows of x at alpha = 1."""
    gain = COV @ np.linalg.inv(COV + sigma**2 * np.eye(4))
    return TARGET.mean + (x - TARGET.mean) @ gain.T


def edm_sampler(x, sigmas, noise, churn=0.0, s_min=0.0, s_max=np.inf, s_noise=1.0):
    """Algorithm 2 of arXiv:2206.00364, with D the exact denoiser; x stands at sigmas[0]."""
    num = len(sigmas)
    for i, (sigma, after) in enumerate(zip(sigmas, [*sigmas[1:], 0.0], strict=True)):
        gamma = min(churn / num, np.sqrt(2) - 1) if s_min <= sigma <= s_max else 0.0
        raised = sigma + gamma * sigma
        x = x + np.sqrt(raised**2 - sigma**2) * s_noise * noise[i]
        slope = (x - x_0_of(x, raised)) / raised
        end = x + (after - raised) * slope
        if after:
            other = (end - x_0_of(end, after)) / after
            end = x + (after - raised) * (slope / 2 + other / 2)
        x = end
    return x


def by_table(plan, x):
    """What a plan makes of x with no noise but what is given to it."""
    return lambda noise: loop(
        plan, lambda x, _t, _a, sigma: (x - x_0_of(x, sigma)) / sigma, x, noise
    )


def test_it_is_edms_loop_on_an_exact_gaussian():
    for num, options in SETTINGS:
        # EDM's own formula for its levels.
        ends = 80 ** (1 / 7), 0.002 ** (1 / 7)
        sigmas = (ends[0] + np.arange(num) / (num - 1) * (ends[1] - ends[0])) ** 7
        times = grids.karras(VE, num)
        np.testing.assert_allclose(VE.at(times)[1], sigmas, rtol=1e-12)
        plan = plans.edm(VE, times, **options)
        assert plan.nfe == 2 * num - 1 and plan.belongs(VE)
        x, z = 80 * RNG.normal(size=(3, 4)), RNG.normal(size=(num, 3, 4))
        theirs = edm_sampler(x, sigmas, z, **options)
        # The first step's noise is in what the table starts from, that of others in odd rows.
        first = plan.sigma[0]
        start = x + np.sqrt(first**2 - 80.0**2) * options.get("s_noise", 1.0) * z[0]
        noise = np.zeros((plan.nfe, 3, 4))
        noise[1::2] = z[1:]
        ours = by_table(plan, start)(noise)
        assert np.abs(ours - theirs).max() < 1e-10 * np.abs(theirs).max(), (num, options)


def test_without_churn_it_is_heun():
    for schedule, end in product(SCHEDULES.values(), (-1, 0)):
        times = grids.uniform_log_snr(schedule, 9, start=950, last=3)
        ours, heun = plans.edm(schedule, times, end=end), plans.heun(schedule, times, end=end)
        quiet = plans.edm(schedule, times, churn=9.0, s_min=1e9, end=end)
        for other in (heun, quiet):
            for column in ("t", "alpha", "sigma", "keep", "mix", "noise"):
                np.testing.assert_array_equal(getattr(ours, column), getattr(other, column))
        assert (ours.origin.method, heun.origin.method) == ("edm", "heun")
        assert ours.prior_std is None


def test_a_raised_level_is_one_of_the_schedule():
    for name, schedule in SCHEDULES.items():
        times = grids.uniform_log_snr(schedule, 7, start=900, last=3)
        plan = plans.edm(schedule, times, churn=1.4)
        rho = plan.sigma / plan.alpha
        alpha, sigma = schedule.at(times)
        np.testing.assert_allclose(rho[::2], 1.2 * sigma / alpha, rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(rho[1::2], (sigma / alpha)[1:], rtol=1e-12, err_msg=name)
        for column, ours in zip(schedule.at(plan.t), (plan.alpha, plan.sigma), strict=True):
            np.testing.assert_allclose(ours, column, rtol=1e-9, err_msg=name)
        assert plan.noise[1::2].all() and not plan.noise[::2].any()


def test_noise_is_at_its_level_at_every_call():
    """Where x_0 is predicted to be 0, x has the variance of the level, on every schedule."""
    for name, schedule in SCHEDULES.items():
        times = grids.uniform_log_snr(schedule, 7, start=900, last=3)
        plan = plans.edm(schedule, times, churn=2.0, end=0)
        z = np.eye(plan.nfe + 1)  # the start and every noise, each on an axis of its own
        levels = []

        def predict(x, _t, _alpha, sigma, levels=levels):
            levels.append((np.linalg.norm(x), sigma))
            return x / sigma

        loop(plan, predict, plan.sigma[0] * z[0], z[1:])
        np.testing.assert_allclose(*np.array(levels).T, rtol=1e-9, err_msg=name)


def test_above_the_schedule_time_goes_on_or_stops():
    plan = plans.edm(VE, grids.karras(VE, 5), churn=50.0)
    np.testing.assert_allclose(plan.sigma[0], 80 * np.sqrt(2))
    slope = np.log(VE.sigma[-1] / VE.sigma[-2])
    np.testing.assert_allclose(plan.t[0], 999 + np.log(2) / 2 / slope)
    assert plan.prior_std is None  # the process says sigma
    linear = schedules.linear()
    plan = plans.edm(linear, grids.karras(linear, 5), churn=50.0)
    assert plan.t[0] == 999
    again = Plan.from_json(plans.edm(VE, grids.karras(VE, 5), churn=50.0, s_noise=1.1).to_json())
    np.testing.assert_allclose(again.prior_std, np.hypot(80, 1.1 * 80))


def test_it_starts_from_noise_that_is_raised_too(float64):
    """Of many samples of `generate`'s prior the standard deviation."""
    model = type("Model", (), {"process": Process(VE, "edm", Edm(), bounds=None)})()
    keys = jax.random.split(jax.random.key(0), 4)
    for s_noise, expected in [(1.0, 80 * np.sqrt(2)), (1.5, np.hypot(80, 120))]:
        plan = plans.edm(VE, grids.karras(VE, 5), churn=50.0, s_noise=s_noise)
        drawn = generation.prior(model, plan, keys, (50, 50))
        assert abs(np.std(drawn) / expected - 1) < 0.03


def test_it_draws_the_target():
    """4,096 samples of an exact Gaussian, with churn: mean and covariance."""
    plan = plans.edm(VE, grids.karras(VE, 40), churn=20.0)
    z = np.random.default_rng(1).normal(size=(plan.nfe + 1, 4096, 4))
    drawn = by_table(plan, plan.sigma[0] * z[0])(z[1:])
    np.testing.assert_allclose(drawn.mean(0), TARGET.mean, atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), COV, atol=0.1)


def test_order_two_without_churn():
    x = TARGET.mean + 80 * RNG.normal(size=(5, 4))
    start, end = (1.0, float(VE.sigma[-1])), (1.0, float(VE.sigma[0]))
    exact = TARGET.flow(x, start, end)
    errors = []
    for num in (40, 80, 160):
        times = grids.uniform_log_snr(VE, num + 1)
        plan = plans.edm(VE, times[:-1], end=times[-1])
        errors.append(np.abs(by_table(plan, x)(np.zeros((plan.nfe, 1, 4))) - exact).max())
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert (orders > 1.8).all() and (orders < 2.3).all(), orders


def test_numbers_that_cannot_be_are_refused():
    for name in ("churn", "s_min", "s_max", "s_noise"):
        for value in (-1.0, np.nan):
            with pytest.raises(ValueError, match=f"{name} is .*: it must be a number that is not"):
                plans.edm(VE, grids.karras(VE, 5), **{name: value})


def test_baselines_of_edm_say_eps():
    """With F = eps, or -eps of VE, D = c_skip x + c_out F (table 1) is x_0, on any schedule."""
    rng = np.random.default_rng(3)
    x_0, eps = rng.normal(size=(2, 3, 4)).astype(np.float32)
    for name, sign in (("eps", 1), ("neg_eps", -1)):
        for alpha, sigma in ((1.0, 3.0), (0.6, 0.8)):
            point = Point(jnp.float32(0), jnp.float32(alpha), jnp.float32(sigma))
            row = Process(VE, name).row
            F, rho = sign * eps, sigma / alpha
            D = (x_0 + rho * eps) - sign * rho * F  # c_skip = 1, c_out = -+rho, in x / alpha
            got = row.predict(F, alpha * x_0 + sigma * eps, point)
            np.testing.assert_allclose(got[0], D, atol=1e-5)
            np.testing.assert_allclose(got[1], eps, atol=1e-5)
            np.testing.assert_array_equal(row.target(x_0, eps, point), F)
