"""Guided samplers: what their algorithms say, and the law that they sample from.

The law is known where the likelihood is, and so the posterior: the data are N(m, s^2), and y = x_0
+ r noise was seen. By Bayes' rule x_0 given y is N again.
"""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guides import SCALE, SHAPE, B, keys, log_prob, pictures, slope
from tables import padded

from skipjax import grids, guidance, plans, schedules
from skipjax.denoisers import Point, steered
from skipjax.evaluation.exact import Gaussian, law
from skipjax.sampling import integrate

pytestmark = pytest.mark.usefixtures("float64", "compiled_in_a_hurry")
M, S2, Y, R2 = 0.3, 0.64, 1.1, 0.25
PRIOR = Gaussian([M], [[S2]])
POSTERIOR = Gaussian([M + S2 / (S2 + R2) * (Y - M)], [[S2 * R2 / (S2 + R2)]])
LINEAR = schedules.linear()


def likelihood(alphas, sigmas):
    """log p(y | x_t): y given x_t is normal about E[x_0 | x_t], wider by what x_t leaves open."""

    def log_prob(x, t):
        t = t.astype(int).reshape(-1, 1, 1, 1)
        alpha, sigma = jnp.asarray(alphas)[t], jnp.asarray(sigmas)[t]
        of_x = alpha**2 * S2 + sigma**2
        x_0 = M + alpha * S2 / of_x * (x - alpha * M)
        left = S2 * sigma**2 / of_x
        return (-0.5 * (Y - x_0) ** 2 / (left + R2)).sum((1, 2, 3))

    return log_prob


ROWS = 500
START = np.eye(ROWS + 2, 1, -1).reshape(-1, 1, 1, 1)
NOISE = np.eye(ROWS, ROWS + 2, 2).reshape(ROWS, -1, 1, 1, 1)


@jax.jit
def run(plan, alphas, sigmas):
    """What comes of nothing, of x alone and of every z alone."""
    denoise = guidance.classifier(PRIOR.denoise, likelihood(alphas, sigmas), 1.0)
    return integrate(plan, denoise, jnp.asarray(START), keys(ROWS + 2), noise=jnp.asarray(NOISE))


def guided_law(schedule, plan):
    """Mean and variance of what `integrate` gives: it is affine in x and every z."""
    levels = (np.pad(column, (0, 1000 - schedule.T)) for column in schedule)
    out = np.asarray(run(padded(plan, ROWS, 1), *levels)).ravel()
    return out[0], ((out[1:] - out[0]) ** 2).sum()


def error(schedule, plan):
    mean, variance = guided_law(schedule, plan)
    return abs(mean - POSTERIOR.mean[0]) + abs(variance - POSTERIOR.cov[0, 0])


def test_the_guided_prediction_is_the_posterior_s_own():
    x = np.linspace(-3, 3, 7).reshape(-1, 1, 1, 1)

    @jax.jit
    def guided(point):
        denoise = guidance.classifier(PRIOR.denoise, likelihood(LINEAR.alpha, LINEAR.sigma), 1.0)
        return steered(denoise(jnp.asarray(x), point), point), POSTERIOR.denoise(x, point)

    for t in (0, 50, 400, 999):
        ours, exact = guided(Point(float(t), *LINEAR.at(t)))
        np.testing.assert_allclose(ours.x_0, exact.x_0, rtol=0, atol=1e-11, err_msg=str(t))
        np.testing.assert_allclose(ours.eps, exact.eps, rtol=0, atol=1e-11, err_msg=str(t))


def test_guided_ddim_has_the_law_of_ddim_on_the_posterior():
    for steps, eta in product(("ddim50", "7"), (0.0, 0.5, 1.0)):
        plan = plans.ddim(LINEAR, grids.respaced(1000, steps), eta)
        ours, expected, case = guided_law(LINEAR, plan), law(plan, POSTERIOR), f"{steps}, {eta}"
        np.testing.assert_allclose(ours[0], expected.mean[0], rtol=0, atol=1e-11, err_msg=case)
        np.testing.assert_allclose(ours[1], expected.cov[0, 0], rtol=0, atol=1e-11, err_msg=case)


def test_guided_ddpm_comes_to_the_posterior_as_its_steps_get_finer():
    for variance in ("small", "large"):
        errors = []
        for T in (60, 120, 240, 480):
            schedule = schedules.linear(T)
            errors.append(error(schedule, plans.ddpm(schedule, np.arange(T)[::-1], variance)))
        finer = errors[0] > 1.7 * errors[1] > 1.7**2 * errors[2] > 1.7**3 * errors[3]
        assert finer and errors[3] < 0.02, variance


def test_guided_ddim_comes_to_the_posterior_as_its_steps_get_finer():
    errors = [error(LINEAR, plans.skipped(LINEAR, skip, cutoff=1000)) for skip in (20, 8, 2)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 0.01


def test_every_hybrid_is_guided_towards_the_posterior():
    for cutoff in (0, 300, 700):
        far, near = (error(LINEAR, plans.skipped(LINEAR, skip, cutoff)) for skip in (20, 4))
        assert near < 0.03 and near < far / 3, cutoff


TIMES = np.array([900, 640, 500, 330, 170, 20])
TARGET = Gaussian(np.linspace(-0.4, 0.4, 8), np.diag(np.linspace(0.1, 0.9, 8)))


def by_hand(times, row, z):
    """A sampler in NumPy: `row` gives x_s from x_0, eps, the gradient and the levels."""
    x = pictures(3)
    for i, t in enumerate(times):
        bar = LINEAR.alpha[t] ** 2
        before = LINEAR.alpha[times[i + 1]] ** 2 if i + 1 < len(times) else 1.0
        spectrum, mean = np.diag(TARGET.cov).reshape(SHAPE), TARGET.mean.reshape(SHAPE)
        eps = np.sqrt(1 - bar) * (x - np.sqrt(bar) * mean) / (bar * spectrum + 1 - bar)
        x = row(x, eps, SCALE * slope(x, t), t, bar, before, z[i])
    return x


def mean_shift(variance):
    """Dhariwal & Nichol, algorithm 1, on Ho et al.'s chain."""

    def row(x, eps, gradient, t, bar, before, z):
        alpha, beta = bar / before, 1 - bar / before
        mean = (x - beta / np.sqrt(1 - bar) * eps) / np.sqrt(alpha)
        small = (1 - before) / (1 - bar) * beta
        if variance == "small":
            return mean + small * gradient + np.sqrt(small) * z
        last = before == 1.0
        a, b = (LINEAR.alpha[TIMES[i]] ** 2 for i in (-2, -1))
        squared = (1 - b) / (1 - a) * (1 - a / b) if last else beta
        return mean + squared * gradient + (not last) * np.sqrt(squared) * z

    return row


def eps_shift(eta):
    """Dhariwal & Nichol, algorithm 2, in Song et al.'s equations 12 and 16."""

    def row(x, eps, gradient, t, bar, before, z):
        eps = eps - np.sqrt(1 - bar) * gradient
        x_0 = (x - np.sqrt(1 - bar) * eps) / np.sqrt(bar)
        std = eta * np.sqrt((1 - before) / (1 - bar) * (1 - bar / before))
        return np.sqrt(before) * x_0 + np.sqrt(1 - before - std**2) * eps + std * z

    return row


def either(cutoff, variance):
    above, below = mean_shift(variance), eps_shift(0.0)
    return lambda x, eps, g, t, *rest: (above if t >= cutoff else below)(x, eps, g, t, *rest)


FORMS = {
    "ddpm_small": (plans.ddpm(LINEAR, TIMES), mean_shift("small")),
    "ddpm_large": (plans.ddpm(LINEAR, TIMES, "large"), mean_shift("large")),
    "ddim": (plans.ddim(LINEAR, TIMES), eps_shift(0.0)),
    "ddim_eta_0.6": (plans.ddim(LINEAR, TIMES, 0.6), eps_shift(0.6)),
    "hybrid_small": (plans.hybrid(LINEAR, TIMES, 400), either(400, "small")),
    "hybrid_large": (plans.hybrid(LINEAR, TIMES, 500, "large"), either(500, "large")),
}


def test_a_guided_sampler_does_what_its_algorithm_says():
    x, z = pictures(3), np.random.default_rng(4).normal(size=(len(TIMES), B, *SHAPE))
    guided = guidance.classifier(TARGET.denoise, log_prob, SCALE)
    run = jax.jit(lambda plan: integrate(plan, guided, jnp.asarray(x), keys(), noise=z))
    for name, (plan, row) in FORMS.items():
        expected = by_hand(TIMES, row, z)
        np.testing.assert_allclose(run(plan), expected, rtol=0, atol=1e-12, err_msg=name)
