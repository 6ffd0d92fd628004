"""Guidance by a likelihood that is known exactly, towards a posterior that is known exactly.

The data are N(m, s^2), and y = x_0 + r noise was seen. By Bayes' rule x_0 given y is N again.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import grids, guidance, plans, schedules
from skipjax.denoisers import Point, steered
from skipjax.evaluation.exact import Gaussian, law
from skipjax.sampling import integrate

M, S2, Y, R2 = 0.3, 0.64, 1.1, 0.25
PRIOR = Gaussian([M], [[S2]])
POSTERIOR = Gaussian([M + S2 / (S2 + R2) * (Y - M)], [[S2 * R2 / (S2 + R2)]])
LINEAR = schedules.linear()


def likelihood(schedule):
    """log p(y | x_t): y given x_t is normal about E[x_0 | x_t], wider by what x_t leaves open."""
    alphas, sigmas = jnp.asarray(schedule.alpha), jnp.asarray(schedule.sigma)

    def log_prob(x, t):
        t = t.astype(int).reshape(-1, 1, 1, 1)
        alpha, sigma = alphas[t], sigmas[t]
        of_x = alpha**2 * S2 + sigma**2
        x_0 = M + alpha * S2 / of_x * (x - alpha * M)
        left = S2 * sigma**2 / of_x
        return (-0.5 * (Y - x_0) ** 2 / (left + R2)).sum((1, 2, 3))

    return log_prob


def guided_law(schedule, plan, scale=1.0):
    """Mean and variance of what `integrate` gives: it is affine in x and every z."""
    num = plan.nfe
    x = jnp.zeros((num + 2, 1, 1, 1)).at[1].set(1.0)
    noise = jnp.eye(num, num + 2, 2).reshape(num, num + 2, 1, 1, 1)
    denoise = guidance.classifier(PRIOR.denoise, likelihood(schedule), scale)
    keys = jax.random.split(jax.random.key(0), num + 2)
    run = jax.jit(lambda plan, x, noise: integrate(plan, denoise, x, keys, noise=noise))
    out = np.asarray(run(plan, x, noise)).ravel()
    return out[0], ((out[1:] - out[0]) ** 2).sum()


def error(schedule, plan):
    mean, variance = guided_law(schedule, plan)
    return abs(mean - POSTERIOR.mean[0]) + abs(variance - POSTERIOR.cov[0, 0])


@pytest.mark.parametrize("t", [0, 50, 400, 999])
def test_the_guided_prediction_is_the_posterior_s_own(float64, t):
    point = Point(float(t), *LINEAR.at(t))
    x = jnp.linspace(-3, 3, 7).reshape(-1, 1, 1, 1)
    guided = guidance.classifier(PRIOR.denoise, likelihood(LINEAR), 1.0)(x, point)
    ours, exact = steered(guided, point), POSTERIOR.denoise(x, point)
    np.testing.assert_allclose(ours.x_0, exact.x_0, rtol=0, atol=1e-11)
    np.testing.assert_allclose(ours.eps, exact.eps, rtol=0, atol=1e-11)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", ["ddim50", "7"])
def test_guided_ddim_has_the_law_of_ddim_on_the_posterior(float64, steps, eta):
    plan = plans.ddim(LINEAR, grids.respaced(1000, steps), eta)
    ours, expected = guided_law(LINEAR, plan), law(plan, POSTERIOR)
    np.testing.assert_allclose(ours[0], expected.mean[0], rtol=0, atol=1e-11)
    np.testing.assert_allclose(ours[1], expected.cov[0, 0], rtol=0, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("variance", ["small", "large"])
def test_guided_ddpm_comes_to_the_posterior_as_its_steps_get_finer(float64, variance):
    errors = []
    for T in (60, 120, 240, 480):
        schedule = schedules.linear(T)
        errors.append(error(schedule, plans.ddpm(schedule, np.arange(T)[::-1], variance)))
    assert errors[0] > 1.7 * errors[1] > 1.7**2 * errors[2] > 1.7**3 * errors[3]
    assert errors[3] < 0.02


def test_guided_ddim_comes_to_the_posterior_as_its_steps_get_finer(float64):
    errors = [error(LINEAR, plans.skipped(LINEAR, skip, cutoff=1000)) for skip in (20, 8, 2)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 0.01


@pytest.mark.parametrize("cutoff", [0, 300, 700])
def test_every_hybrid_is_guided_towards_the_posterior(float64, cutoff):
    far, near = (error(LINEAR, plans.skipped(LINEAR, skip, cutoff)) for skip in (20, 4))
    assert near < 0.03 and near < far / 3
