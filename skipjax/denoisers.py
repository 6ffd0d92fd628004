"""From what a network outputs to what a sampler asks: x_0 and eps at a point.

With x = alpha x_0 + sigma eps, either of x_0 and eps follows from the other; so do both from
v = alpha eps - sigma x_0 (Salimans & Ho 2022, arXiv:2202.00512). What changes a prediction, such
as clipping, wraps a denoiser and is one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Point(NamedTuple):
    """Where a sampler stands: the time told to the network, and the level of x.

    Scalars while sampling; t may also be one per picture, [B], with alpha and sigma that
    broadcast against x, [B, 1, ...].
    """

    t: jax.Array
    alpha: jax.Array
    sigma: jax.Array


class Prediction(NamedTuple):
    """What a denoiser says at one point; x = alpha x_0 + sigma eps holds between the two."""

    x_0: jax.Array  # [B, ...]
    eps: jax.Array  # [B, ...]


Network = Callable[[jax.Array, jax.Array], jax.Array]  # (x [B, ...], t [B]) -> [B, ...]
Denoise = Callable[[jax.Array, Point], Prediction]


def from_eps(network: Network) -> Denoise:
    """A denoiser of a network that predicts the noise: x_0 = (x - sigma eps) / alpha."""

    def denoise(x, point):
        eps = _call(network, x, point)
        return Prediction((x - point.sigma * eps) / point.alpha, eps)

    return denoise


def from_x_0(network: Network) -> Denoise:
    """A denoiser of a network that predicts the data: eps = (x - alpha x_0) / sigma."""

    def denoise(x, point):
        return _of_x_0(x, _call(network, x, point), point)

    return denoise


def from_v(network: Network) -> Denoise:
    """A denoiser of a network that predicts v = alpha eps - sigma x_0.

    x_0 = alpha x - sigma v and eps = sigma x + alpha v, for alpha^2 + sigma^2 = 1.
    """

    def denoise(x, point):
        v = _call(network, x, point)
        return Prediction(point.alpha * x - point.sigma * v, point.sigma * x + point.alpha * v)

    return denoise


def clip(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Keeps x_0 within low .. high, and makes eps agree with it, as ADM does.

    Without the second half a sampler that uses eps (DDIM) would undo the clipping.
    """

    def clipped(x, point):
        return _of_x_0(x, jnp.clip(denoise(x, point).x_0, low, high), point)

    return clipped


def _of_x_0(x: jax.Array, x_0: jax.Array, point: Point) -> Prediction:
    return Prediction(x_0, (x - point.alpha * x_0) / point.sigma)


def _call(network: Network, x: jax.Array, point: Point) -> jax.Array:
    return network(x, jnp.broadcast_to(point.t, x.shape[:1]))
