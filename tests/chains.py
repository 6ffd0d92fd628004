"""Langevin-Gibbs chains on exact laws, compiled once for each way to move them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from skipjax import adaptive, schedules
from skipjax.evaluation.exact import Mixture

LEVELS = schedules.variance_exploding(8, 0.5, 4.0)
ONE_LEVEL = schedules.Schedule(np.ones(1), np.full(1, 0.6))
TARGET = Mixture([0.3, 0.7], [[-2.0, 1.0], [2.0, 0.0]], [0.6, 0.8])


def density(target):
    return lambda x, sigma: target.log_density(x, 1.0, sigma)


def keys_of(num, seed=0):
    return jax.random.split(jax.random.key(seed), num)


def stationary(num, seed=1):
    """Chains that begin with the law p(x, sigma) itself."""
    rng = np.random.default_rng(seed)
    t, k = rng.integers(LEVELS.T, size=num), rng.choice(2, num, p=TARGET.weights)
    x = TARGET.means[k] + TARGET.stds[k][:, None] * rng.normal(size=(num, 2))
    x += LEVELS.sigma[t][:, None] * rng.normal(size=(num, 2))
    return adaptive.start(jnp.asarray(x, jnp.float32), t)


def moved(chain, keys, target=TARGET, **settings):
    return mover(target, *settings.items())(chain, keys)


@functools.cache
def mover(target, *settings):
    schedule = LEVELS if target is TARGET else ONE_LEVEL
    log_levels = adaptive.by_density(schedule, density(target))

    @jax.jit
    def run(chain, keys):
        return adaptive.langevin_gibbs(
            schedule, target.denoise, log_levels, chain, keys, **dict(settings)
        )

    return run


def descended(x, t, schedule, denoise, steps):
    return jax.jit(lambda x, t: adaptive.descend(schedule, denoise, x, t, steps=steps))(x, t)
