"""The law of each sampler on a Gaussian, against recursions written out from the papers."""

import numpy as np
import pytest

from skipjax import grids, plans, schedules
from skipjax.evaluation.exact import Gaussian, law

LINEAR = schedules.linear()
SCHEDULES = {
    "linear": LINEAR,
    "scaled_linear": schedules.scaled_linear(),
    "cosine": schedules.cosine(),
}
MEAN = np.array([0.3, -0.5, 0.1])
SPECTRUM = np.array([0.04, 0.3, 1.7])
AXES, _ = np.linalg.qr(np.array([[1.0, 2.0, 0.5], [-1.0, 0.3, 2.0], [0.2, 1.0, 1.0]]))
TARGET = Gaussian(MEAN, AXES @ np.diag(SPECTRUM) @ AXES.T)


def levels(schedule, times):
    abar = schedule.alpha[times] ** 2
    return zip(times, abar, np.append(abar[1:], 1.0), strict=True)


def ddpm_law(schedule, times, variance):
    """Ho et al. 2020, equations 6, 7 and 11, along each principal axis, on the chain of times."""
    off, var = -schedule.alpha[times[0]], np.ones(3)
    for i, (_, abar, before) in enumerate(levels(schedule, times)):
        alpha, beta = abar / before, 1 - abar / before
        eps = np.sqrt(1 - abar) / (abar * SPECTRUM + 1 - abar)
        gain = (1 - beta / np.sqrt(1 - abar) * eps) / np.sqrt(alpha)
        small = (1 - before) / (1 - abar) * beta
        added = beta if variance == "large" and i < len(times) - 1 else small
        off, var = gain * off, gain**2 * var + added
    return MEAN + AXES @ (off * (AXES.T @ MEAN)), AXES @ np.diag(var) @ AXES.T


def ddim_law(schedule, times, eta):
    """Song et al. 2021, equations 12 and 16; eta is a function of the time."""
    off, var = -schedule.alpha[times[0]], np.ones(3)
    for t, abar, before in levels(schedule, times):
        sigma2 = eta(t) ** 2 * (1 - before) / (1 - abar) * (1 - abar / before)
        eps = np.sqrt(1 - abar) / (abar * SPECTRUM + 1 - abar)
        x_0 = (1 - np.sqrt(1 - abar) * eps) / np.sqrt(abar)
        gain = np.sqrt(before) * x_0 + np.sqrt(max(1 - before - sigma2, 0)) * eps
        off, var = gain * off, gain**2 * var + sigma2
    return MEAN + AXES @ (off * (AXES.T @ MEAN)), AXES @ np.diag(var) @ AXES.T


def assert_law(plan, expected, case):
    ours = law(plan, TARGET)
    np.testing.assert_allclose(ours.mean, expected[0], rtol=0, atol=1e-10, err_msg=case)
    np.testing.assert_allclose(ours.cov, expected[1], rtol=0, atol=1e-10, err_msg=case)


# A schedule and the times of every n-th step.
CASES = [
    (f"{name}, skip {skip}", schedule, skip, grids.skipped(1000, skip))
    for name, schedule in SCHEDULES.items()
    for skip in (1, 7, 20, 50, 333)
]


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_has_the_law_of_its_paper(variance):
    for case, schedule, _, times in CASES:
        plan = plans.ddpm(schedule, times, variance)
        assert_law(plan, ddpm_law(schedule, times, variance), case)


def test_skipped_has_the_law_of_ddpm_on_its_times():
    for case, schedule, skip, times in CASES:
        assert_law(plans.skipped(schedule, skip), ddpm_law(schedule, times, "small"), case)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_has_the_law_of_its_paper(eta):
    for case, schedule, _, times in CASES:
        plan = plans.ddim(schedule, times, eta)
        assert_law(plan, ddim_law(schedule, times, lambda t: eta), case)


@pytest.mark.parametrize("cutoff", [200, 500, 799])
def test_hybrid_has_the_law_of_two_papers(cutoff):
    for case, schedule, skip, times in CASES:
        expected = ddim_law(schedule, times, lambda t: float(t >= cutoff))
        assert_law(plans.skipped(schedule, skip, cutoff), expected, case)


def test_share_of_the_variance_that_is_reached():
    target = Gaussian(np.zeros(2), 0.25 * np.eye(2))

    def share(skip, cutoff):
        cov = law(plans.skipped(LINEAR, skip, cutoff), target).cov
        np.testing.assert_allclose(cov, cov[0, 0] * np.eye(2), atol=1e-15)
        return round(cov[0, 0] / 0.25, 4)

    # Without a cutoff, of DDIM alone, and of a hybrid.
    assert {skip: [share(skip, cutoff) for cutoff in (0, 1000, 500)] for skip in (100, 10, 1)} == {
        100: [0.4448, 0.5475, 0.5448],
        10: [0.8769, 0.9426, 0.9421],
        1: [0.9845, 0.9940, 0.9939],
    }


def test_more_calls_come_nearer_to_the_target():
    def error(skip):
        ours = law(plans.ddim(LINEAR, grids.skipped(1000, skip)), TARGET)
        return np.abs(ours.cov - TARGET.cov).max()

    errors = [error(skip) for skip in (100, 50, 20, 10, 5, 1)]
    assert (np.diff(errors) < 0).all()


def test_with_an_exact_prediction_noise_does_not_pay():
    # Narrower than the noise is where errors count: target of variance 1/4.
    target = Gaussian(np.zeros(1), [[0.25]])
    for skip in (100, 50, 20, 10):
        times = grids.skipped(1000, skip)
        errors = [0.25 - law(plans.ddim(LINEAR, times, eta), target).cov for eta in (0, 0.5, 1)]
        assert 0 < errors[0] < errors[1] < errors[2], skip
