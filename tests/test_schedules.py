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


@pytest.mark.parametrize(
    "case", ["linear_100", "linear_1000", "linear_4000"] + ["cosine_1000", "cosine_4000"]
)
def test_schedule_equals_guided_diffusions(goldens, case):
    golden = np.load(goldens / "diffusion" / "schedules.npz")
    kind, T = case.split("_")
    ours = tables_of(MAKE[kind](int(T)), np.arange(int(T)))
    names = [key.split("/")[1] for key in golden if key.startswith(f"{case}/")]
    assert len(names) == (2 if T == "4000" else 9)
    for name in names:
        np.testing.assert_allclose(ours[name], golden[f"{case}/{name}"], **EXACT, err_msg=name)


@pytest.mark.parametrize(
    "case",
    ["linear|1000|250", "linear|1000|ddim25", "linear|1000|25", "linear|1000|10,10,15,15"]
    + ["cosine|1000|250", "cosine|1000|ddim25"],
)
def test_posterior_of_jumps_equals_the_respaced_chain(goldens, case):
    golden = np.load(goldens / "diffusion" / "respaced_schedules.npz")
    kind, T, _ = case.split("|")
    ours = tables_of(MAKE[kind](int(T)), golden[f"{case}/timestep_map"])
    names = [key.rsplit("/", 1)[1] for key in golden if key.startswith(f"{case}/")]
    assert len(names) == 7
    for name in set(names) - {"timestep_map"}:
        np.testing.assert_allclose(ours[name], golden[f"{case}/{name}"], **EXACT, err_msg=name)


@pytest.mark.parametrize(
    "make", [schedules.linear, schedules.scaled_linear, schedules.cosine], ids=lambda f: f.__name__
)
def test_levels_are_monotone_and_preserve_variance(make):
    schedule = make(1000)
    assert schedule.T == 1000
    assert schedule.alpha.dtype == schedule.sigma.dtype == np.float64
    assert (np.diff(schedule.alpha) < 0).all() and (np.diff(schedule.sigma) > 0).all()
    np.testing.assert_allclose(schedule.alpha**2 + schedule.sigma**2, 1, rtol=1e-14)


def test_scaled_linear_is_linear_in_the_root_of_beta():
    abar = schedules.scaled_linear(1000).alpha ** 2
    betas = 1 - abar / np.append(1.0, abar[:-1])
    assert betas[0] == pytest.approx(0.00085) and betas[-1] == pytest.approx(0.012)
    assert np.abs(np.diff(np.sqrt(betas), 2)).max() < 1e-13


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


@pytest.mark.parametrize("T", [0, -5])
@pytest.mark.parametrize("make", [schedules.linear, schedules.scaled_linear, schedules.cosine])
def test_a_schedule_without_times_is_refused(make, T):
    with pytest.raises(ValueError, match=f"T is {T}: .*at least one"):
        make(T)


@pytest.mark.parametrize(
    "betas", [[], [0.1, 0.0], [1.0, 0.1], [-0.1], [np.nan], [[0.1, 0.2]], 0.1], ids=str
)
def test_betas_outside_0_1_are_refused(betas):
    with pytest.raises(ValueError, match="betas must be"):
        schedules.from_betas(betas)
