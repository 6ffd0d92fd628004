"""Schedules and their posteriors against guided-diffusion's tables."""

import numpy as np
import pytest

from skipjax import schedules

MAKE = {"linear": schedules.linear, "cosine": schedules.cosine}
EXACT = dict(rtol=1e-12, atol=1e-12)


def tables_of(schedule, times):
    """guided-diffusion's tables of the chain that visits `times` (increasing)."""
    s = np.append(schedules.DATA, times[:-1])
    jump = schedules.posterior(schedule, times, s)
    alpha, sigma = schedule.at(times)
    return {
        "betas": jump.added,
        "alphas_cumprod": alpha**2,
        "alphas_cumprod_prev": schedule.at(s)[0] ** 2,
        "posterior_variance": jump.variance,
        "posterior_log_variance_clipped": np.log(np.append(jump.variance[1], jump.variance[1:])),
        "posterior_mean_coef1": jump.mix,
        "posterior_mean_coef2": jump.keep,
        "sqrt_recip_alphas_cumprod": 1 / alpha,
        "sqrt_recipm1_alphas_cumprod": sigma / alpha,
    }


def test_schedule_equals_guided_diffusions(goldens):
    golden = np.load(goldens / "diffusion" / "schedules.npz")
    for case in ("linear_100", "linear_1000", "linear_4000", "cosine_1000", "cosine_4000"):
        kind, T = case.split("_")
        ours = tables_of(MAKE[kind](int(T)), np.arange(int(T)))
        names = [key.split("/")[1] for key in golden if key.startswith(f"{case}/")]
        assert len(names) == (2 if T == "4000" else 9)
        for name in names:
            theirs = golden[f"{case}/{name}"]
            np.testing.assert_allclose(ours[name], theirs, **EXACT, err_msg=f"{case}, {name}")


def test_posterior_of_jumps_equals_the_respaced_chain(goldens):
    golden = np.load(goldens / "diffusion" / "respaced_schedules.npz")
    for case in (
        *("linear|1000|250", "linear|1000|ddim25", "linear|1000|25", "linear|1000|10,10,15,15"),
        *("cosine|1000|250", "cosine|1000|ddim25"),
    ):
        kind, T, _ = case.split("|")
        ours = tables_of(MAKE[kind](int(T)), golden[f"{case}/timestep_map"])
        names = [key.rsplit("/", 1)[1] for key in golden if key.startswith(f"{case}/")]
        assert len(names) == 7
        for name in set(names) - {"timestep_map"}:
            theirs = golden[f"{case}/{name}"]
            np.testing.assert_allclose(ours[name], theirs, **EXACT, err_msg=f"{case}, {name}")


def test_levels_are_monotone_and_preserve_variance():
    for make in (schedules.linear, schedules.scaled_linear, schedules.cosine):
        schedule, name = make(1000), make.__name__
        assert schedule.T == 1000, name
        assert schedule.alpha.dtype == schedule.sigma.dtype == np.float64, name
        assert (np.diff(schedule.alpha) < 0).all() and (np.diff(schedule.sigma) > 0).all(), name
        total = schedule.alpha**2 + schedule.sigma**2
        np.testing.assert_allclose(total, 1, rtol=1e-14, err_msg=name)


def test_scaled_linear_is_linear_in_the_root_of_beta():
    abar = schedules.scaled_linear(1000).alpha ** 2
    betas = 1 - abar / np.append(1.0, abar[:-1])
    assert betas[0] == pytest.approx(0.00085) and betas[-1] == pytest.approx(0.012)
    assert np.abs(np.diff(np.sqrt(betas), 2)).max() < 1e-13


def test_sigmoid_has_betas_on_a_logistic_curve():
    abar = schedules.sigmoid(1000, 1e-4, 0.02).alpha ** 2
    part = (1 - abar / np.append(1.0, abar[:-1]) - 1e-4) / (0.02 - 1e-4)
    np.testing.assert_allclose(np.log(part / (1 - part)), np.linspace(-6, 6, 1000), rtol=1e-7)


def test_time_before_the_first_is_the_data():
    schedule = schedules.linear(10, 1e-4, 2e-3)
    alpha, sigma = schedule.at(np.array([schedules.DATA, 0, 9]))
    assert alpha[0] == 1 and sigma[0] == 0
    assert alpha[2] == schedule.alpha[9] and sigma[2] == schedule.sigma[9]


def test_posterior_agrees_with_bayes_on_any_gaussian_process():
    # alpha^2 + sigma^2 is not 1 here.
    schedule = schedules.Schedule(np.array([1.0, 0.9, 0.5]), np.array([0.2, 0.7, 3.0]))
    jump = schedules.posterior(schedule, 2, 0)
    x_0, x_t, ratio = 0.3, -1.1, 0.5 / 1.0
    added = 3.0**2 - ratio**2 * 0.2**2
    precision = ratio**2 / added + 1 / 0.2**2
    mean = (ratio * x_t / added + 1.0 * x_0 / 0.2**2) / precision
    assert jump.added == pytest.approx(added)
    assert jump.variance == pytest.approx(1 / precision)
    assert jump.keep * x_t + jump.mix * x_0 == pytest.approx(mean)


def test_posterior_of_the_last_jump_is_the_data_itself():
    jump = schedules.posterior(schedules.linear(), np.array([0, 19]), np.array([-1, -1]))
    assert (jump.keep == 0).all() and (jump.variance == 0).all()
    np.testing.assert_allclose(jump.mix, 1, rtol=1e-15)
