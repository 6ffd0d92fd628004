"""Levels inside a program, one per picture: at whole times, and at any log_snr between them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.denoisers import Point
from skipjax.schedules import DATA, Schedule


class Table(NamedTuple):
    """A schedule on the device, [T + 1]; the data come last, where their time -1 finds them."""

    alpha: jax.Array
    sigma: jax.Array
    log_snr: jax.Array

    def at(self, t: jax.Array, x: jax.Array) -> Point:
        """Where pictures x [B, ...] stand at the times t, int [B]."""
        return Point(t.astype(x.dtype), over(self.alpha[t], x), over(self.sigma[t], x))


def table(schedule: Schedule, dtype: jnp.dtype) -> Table:
    """The levels of all whole times and the data, rounded to dtype once."""
    times = np.append(np.arange(schedule.T), DATA)
    columns = *schedule.at(times), schedule.log_snr(times)
    return Table(*(jnp.asarray(column, dtype) for column in columns))


def between(schedule: Schedule, dtype: jnp.dtype) -> Callable[[jax.Array, jax.Array], Point]:
    """From log_snr [B] and pictures x [B, ...] to where they stand.

    alpha and sigma follow from log_snr = log(alpha / sigma) by what the process preserves, and
    the time from what is linear in it between two whole times:

        alpha^2 + sigma^2 = 1     log alpha is linear
        alpha = 1                 log sigma
        alpha + sigma = 1         sigma

    Raises:
        ValueError: If the schedule preserves none of the three.
    """
    times = jnp.arange(schedule.T, dtype=dtype)

    def interpolated(value: jax.Array, known: np.ndarray) -> jax.Array:
        return jnp.interp(value, jnp.asarray(known, dtype), times)

    if schedule.preserves_variance:
        with np.errstate(divide="ignore"):
            known = -np.log(schedule.alpha)
        # Of zero SNR at T-1, which no level between is interpolated from.
        known[~np.isfinite(known)] = np.finfo(jnp.dtype(dtype)).max

        def level(log_snr):
            minus_log_alpha = jax.nn.softplus(-2 * log_snr) / 2
            sigma = jnp.exp(-jax.nn.softplus(2 * log_snr) / 2)
            return interpolated(minus_log_alpha, known), jnp.exp(-minus_log_alpha), sigma

    elif np.all(schedule.alpha == 1):

        def level(log_snr):
            t = interpolated(-log_snr, np.log(schedule.sigma))
            return t, jnp.ones_like(log_snr), jnp.exp(-log_snr)

    elif np.allclose(schedule.alpha + schedule.sigma, 1, rtol=0, atol=1e-9):

        def level(log_snr):
            sigma = jax.nn.sigmoid(-log_snr)
            return interpolated(sigma, schedule.sigma), jax.nn.sigmoid(log_snr), sigma

    else:
        raise ValueError(
            "the schedule is none of variance-preserving, variance-exploding (alpha = 1) and "
            "rectified flow (alpha + sigma = 1): its levels between times are not known here"
        )

    def at(log_snr: jax.Array, x: jax.Array) -> Point:
        t, alpha, sigma = level(log_snr)
        return Point(t, over(alpha, x), over(sigma, x))

    return at


def over(value: jax.Array, x: jax.Array) -> jax.Array:
    """One number per picture, [B], made to broadcast against x [B, ...]."""
    return value.reshape(-1, *[1] * (x.ndim - 1))


def rms(x: jax.Array) -> jax.Array:
    """Root mean square of each picture, [B, ...] to [B]."""
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=tuple(range(1, x.ndim))))


def carried(x: jax.Array) -> jax.Array:
    """x in the precision that it is carried in: float32, or float64 where it is that.

    Raises:
        ValueError: If x is not a batch of pictures.
    """
    if x.ndim < 2:
        raise ValueError(f"x has shape {x.shape}: it must be a batch, [B, ...]")
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
