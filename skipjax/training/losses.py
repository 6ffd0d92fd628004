"""What a network is trained to make small.

The squared error of what is predicted, weighted or not; ADM's hybrid loss (Nichol & Dhariwal 2021,
arXiv:2102.09672, section 3.1), which adds the variational bound, with its mean held fixed so that
it trains the variance alone; and S^2-DM's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.process import PARAMETERIZATIONS, Parameterization, Point
from skipjax.schedules import Form, Schedule, posterior

EPS = PARAMETERIZATIONS["eps"]


class Chain(NamedTuple):
    """What the bound needs of the Markov chain over a schedule's times, [T] each."""

    alpha: jax.Array
    sigma: jax.Array
    keep: jax.Array
    mix: jax.Array
    log_small: jax.Array  # of the posterior variance; at t = 0, where it is 0, that of t = 1
    log_large: jax.Array  # of beta


class Losses(NamedTuple):
    """Per picture, float32 [B]: `total` is what is trained, `mse` and `bound` are its parts.

    `bound` is None where no variance is learned.
    """

    total: jax.Array
    mse: jax.Array
    bound: jax.Array | None = None


def chain(schedule: Schedule, dtype: jnp.dtype = jnp.float32) -> Chain:
    """Tables of the chain that visits every time of the schedule, computed in float64."""
    t = np.arange(schedule.T)
    jump = posterior(schedule, t, t - 1)
    small = np.append(jump.variance[1:2], jump.variance[1:])
    logs = np.log(small), np.log(jump.added)
    tables = (schedule.alpha, schedule.sigma, jump.keep, jump.mix, *logs)
    return Chain(*(jnp.asarray(table, dtype) for table in tables))


def diffuse(chain: Chain, x_0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
    """x_t = alpha_t x_0 + sigma_t eps; x_0 and eps [B, ..., C], t int [B]."""
    return _at(chain.alpha, t, x_0.ndim) * x_0 + _at(chain.sigma, t, x_0.ndim) * eps


def point(chain: Chain, t: jax.Array, ndim: int) -> Point:
    """The points at times t, int [B], with levels that broadcast against x of so many axes."""
    return Point(t, _at(chain.alpha, t, ndim), _at(chain.sigma, t, ndim))


def hybrid(
    chain: Chain,
    output: jax.Array,
    x_0: jax.Array,
    x_t: jax.Array,
    t: jax.Array,
    eps: jax.Array,
    row: Parameterization = EPS,
    weight: jax.Array | float = 1.0,
) -> Losses:
    """ADM's loss for a network that predicts eps and a variance (`RESCALED_MSE`, `LEARNED_RANGE`).

        total = weight * mean (eps - eps_theta)^2 + T / 1000 * bound

    and the same with what else is predicted in the place of eps.

    Args:
        chain: Tables of the schedule trained on.
        output: What the network said, [B, ..., 2C]: the prediction, then where between the
            posterior variance and beta the log-variance lies, as a number in [-1, 1].
        x_0: Samples, [B, ..., C] in [-1, 1], quantised to 256 levels.
        x_t: Noisy samples, [B, ..., C].
        t: Times, int [B] in 0 .. T-1.
        eps: The noise in x_t, [B, ..., C].
        row: Of `parameterizations`: what is predicted.
        weight: Of each sample's squared error, [B]; ADM's is 1.

    Returns:
        Losses per sample; `bound` in bits per dimension.
    """
    predicted, place = jnp.split(output, 2, axis=-1)
    x_0_theta, _ = row.predict(predicted, x_t, point(chain, t, x_t.ndim))
    error = mse(chain, predicted, x_0, t, eps, row)
    bound = variational_bound(chain, jax.lax.stop_gradient(x_0_theta), place, x_0, x_t, t)
    return Losses(weight * error + len(chain.alpha) / 1000 * bound, error, bound)


def mse(
    chain: Chain,
    predicted: jax.Array,
    x_0: jax.Array,
    t: jax.Array,
    eps: jax.Array,
    row: Parameterization = EPS,
) -> jax.Array:
    """mean (target - predicted)^2 per sample, float32 [B].

    Args:
        chain: Tables of the schedule trained on.
        predicted: What the network said of it, [B, ..., C].
        x_0: Samples, [B, ..., C] in [-1, 1].
        t: Times, int [B] in 0 .. T-1.
        eps: The noise in x_t, [B, ..., C].
        row: Of `parameterizations`, whose target is learned: eps (Ho et al. 2020,
            arXiv:2006.11239, equation 14), v (Salimans & Ho 2022, arXiv:2202.00512, section 4), or
            another.
    """
    target = row.target(x_0, eps, point(chain, t, x_0.ndim))
    return _mean(jnp.square(target - predicted))


def min_snr_weight(
    schedule: Schedule, row: Parameterization = EPS, gamma: float = 5.0
) -> jax.Array:
    """Weight of each time's squared error, float32 [T]; with snr = (alpha_t / sigma_t)^2,

        min(snr, gamma) (d x_0 / d output)^2

    which is  / snr  of eps and  / (snr + 1)  of v, so that no time's gradient drowns those of
    others. Source: Hang et al. 2023 (arXiv:2303.09556), section 3.4.
    """
    alpha, sigma = np.asarray(schedule.alpha), np.asarray(schedule.sigma)
    snr = (alpha / sigma) ** 2
    # x_0 is linear in the output, of which one unit makes so much. Where it makes infinitely much,
    # at zero SNR, the product is that of the limit.
    with np.errstate(divide="ignore", invalid="ignore"), jax.enable_x64(True):
        at = Point(*map(jnp.asarray, (np.arange(schedule.T), alpha, sigma)))
        unit, _ = row.predict(jnp.ones(schedule.T), jnp.zeros(schedule.T), at)
        weight = np.minimum(snr, gamma) * np.asarray(unit) ** 2
    return jnp.asarray(np.where(np.isfinite(weight), weight, 1.0), jnp.float32)


def skip_step(
    output: jax.Array,
    t: jax.Array,
    eps: jax.Array,
    other: jax.Array,
    ratio: jax.Array,
    *,
    skip: jax.typing.ArrayLike = 9,
    tau: jax.typing.ArrayLike = 0.99,
    form: Form = "released",
) -> jax.Array:
    """S^2-DM's loss, in the two forms that `schedules.skip_loss` tells apart.

        tau mean (eps - e)^2 + (1 - tau) mean (eps' - c_t e)^2

    Args:
        output: e, what the network said of the noise, [B, ..., C].
        t: Times, int [B] in 0 .. T-1.
        eps: The noise in x_t, [B, ..., C].
        other: eps' of "released", noise that is independent of x_t, [B, ..., C]. "paper" takes
            eps itself.
        ratio: c of every time, `schedules.skip_ratio`, [T].
        skip: Steps jumped over; below, "released" is the first term alone, with weight 1.
        tau: Weight of the first term, in (0, 1].
        form: "released" or "paper".

    Returns:
        Per picture, float32 [B].

    Source: Wang & Li 2024 (arXiv:2401.01520), equation 13, and the code published with it.
    """
    first = _mean(jnp.square(eps - output))
    second = _mean(
        jnp.square((other if form == "released" else eps) - _at(ratio, t, output.ndim) * output)
    )
    both = tau * first + (1 - tau) * second
    return jnp.where(t < skip, first, both) if form == "released" else jnp.asarray(both)


def variational_bound(
    chain: Chain,
    x_0_theta: jax.Array,
    place: jax.Array,
    x_0: jax.Array,
    x_t: jax.Array,
    t: jax.Array,
) -> jax.Array:
    """One term of the bound: KL(q(x_{t-1} | x_t, x_0) || p_theta), or the decoder's at t = 0.

    Source: arXiv:2006.11239, equation 5; arXiv:2102.09672, equations 4 to 7 and 15.

    Returns:
        Bits per dimension, float32 [B].
    """
    tables = (chain.keep, chain.mix, chain.log_small, chain.log_large)
    keep, mix, small, large = (_at(table, t, x_0.ndim) for table in tables)
    mean_theta = keep * x_t + mix * x_0_theta
    log_variance = small + (place + 1) / 2 * (large - small)

    mean = keep * x_t + mix * x_0
    kl = 0.5 * (
        log_variance
        - small
        - 1
        + jnp.exp(small - log_variance)
        + jnp.square(mean - mean_theta) * jnp.exp(-log_variance)
    )
    decoder = -_log_likelihood(x_0, mean_theta, 0.5 * log_variance)
    return _mean(jnp.where(_spread(t, x_0.ndim) == 0, decoder, kl)) / jnp.log(2.0)


def _log_likelihood(x: jax.Array, mean: jax.Array, log_scale: jax.Array) -> jax.Array:
    """log p of an 8-bit level under a Gaussian: the mass of its bin, the outer bins open."""
    inverse, half = jnp.exp(-log_scale), 1 / 255
    # A bin has the mass of its mirror image, and in the lower tail float32 can tell bins apart.
    below = -jnp.abs(x - mean)
    inner = _cdf(inverse * (below + half)) - _cdf(inverse * (below - half))
    lowest = _cdf(inverse * (x - mean + half))
    highest = _cdf(inverse * (mean - x + half))
    mass = jnp.where(x < -0.999, lowest, jnp.where(x > 0.999, highest, inner))
    return jnp.log(jnp.maximum(mass, 1e-12))


def _cdf(z: jax.Array) -> jax.Array:
    """The normal distribution function, (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))) / 2."""
    return jax.nn.sigmoid(2 * jnp.sqrt(2 / jnp.pi) * (z + 0.044715 * z**3))


def _at(table: jax.Array, t: jax.Array, ndim: int) -> jax.Array:
    return _spread(table[t], ndim)


def _spread(values: jax.Array, ndim: int) -> jax.Array:
    return values.reshape(-1, *(1,) * (ndim - 1))


def _mean(x: jax.Array) -> jax.Array:
    return x.mean(axis=tuple(range(1, x.ndim)))
