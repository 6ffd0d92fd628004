"""A network of diffusion and the consistency model that is distilled from it, both exact.

The data are numbers, a mixture of two Gaussians. In one dimension the probability flow takes every
point to the one of the same quantile, which is all that a consistency function does.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from skipjax import Pretrained, Process
from skipjax.evaluation.exact import Mixture
from skipjax.process import Edm, Point, as_schedule

TARGET = Mixture([0.35, 0.65], [[-0.6], [0.5]], [0.15, 0.25])
LEAST, DATA = 0.002, 0.5  # sigma_min and sigma_data
SCHEDULE = as_schedule("variance_exploding")


def tails(x, sigma):
    """log P(X < x) - log P(X > x) of X = x_0 + sigma eps."""
    weights, means = (jnp.asarray(a, x.dtype) for a in (TARGET.weights, TARGET.means[:, 0]))
    std = jnp.sqrt(jnp.asarray(TARGET.stds, x.dtype) ** 2 + sigma[..., None] ** 2)
    z, log_weights = (x[..., None] - means) / std, jnp.log(weights)
    below, above = (jax.nn.logsumexp(log_weights + norm.logcdf(side), axis=-1) for side in (z, -z))
    return below - above


def ends(x, sigma):
    """Where the probability flow through x at sigma comes to LEAST, by bisection."""
    wanted, least = tails(x, sigma), jnp.full_like(sigma, LEAST)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        short = tails(middle, least) < wanted
        return jnp.where(short, middle, low), jnp.where(short, high, middle)

    low, high = jax.lax.fori_loop(0, 40, halve, (jnp.full_like(x, -4.0), jnp.full_like(x, 4.0)))
    return (low + high) / 2


@dataclass(frozen=True)
class Exact:
    """F(c_in x, 250 log sigma) of either."""

    student: bool
    shape: tuple[int, ...] = (1,)

    def init(self, key):
        return {}

    def apply(self, params, x, t, condition=None, *, dtype=jnp.float32):
        with jax.numpy_rank_promotion("allow"):
            sigma = jnp.exp(t / 250)[:, None]
            x = x * jnp.sqrt(sigma**2 + DATA**2)
            teacher = TARGET.denoise(x, Point(t, jnp.ones_like(sigma), sigma)).x_0
            x_0 = ends(x, sigma) if self.student else teacher
            above = sigma - LEAST if self.student else sigma
            c_skip = DATA**2 / (above**2 + DATA**2)
            c_out = above * DATA / jnp.sqrt(sigma**2 + DATA**2)
            return jnp.where(above > 1e-6, (x_0 - c_skip * x) / c_out, 0)


def pretrained(student: bool) -> Pretrained:
    kind = "consistency" if student else "edm"
    process = Process(SCHEDULE, kind, Edm(DATA, 250.0), bounds=None)
    return Pretrained({}, Exact(student), process, name="student" if student else "teacher")


def off(samples) -> float:
    """Kolmogorov and Smirnov's distance of samples [B, 1] from the data's law."""
    x = np.sort(np.asarray(samples, np.float64)[:, 0])
    z = (x[:, None] - TARGET.means[:, 0]) / TARGET.stds
    law = np.asarray(norm.cdf(z)) @ TARGET.weights
    steps = np.arange(len(x) + 1) / len(x)
    return float(max((steps[1:] - law).max(), (law - steps[:-1]).max()))
