"""What a network's output means, and what it is to learn: one table for sampling and training.

With x = alpha x_0 + sigma eps, a network's output is one of

    eps, x_0
    score       grad log p(x) = -eps / sigma        (Song et al. 2021, arXiv:2011.13456)
    neg_eps     sigma times the score, -eps         (likewise, of networks that explode variance)
    v           alpha eps - sigma x_0               (Salimans & Ho 2022, arXiv:2202.00512)
    velocity    eps - x_0                           (Liu et al. 2023, arXiv:2209.03003)
    data_velocity   x_0 - eps, where time runs to the data  (Ma et al. 2024, arXiv:2401.08740)
    edm         F, of x_0 = c_skip x + c_out F      (Karras et al. 2022, arXiv:2206.00364)
    consistency F, of x_0 = c_skip x + c_out F      (Song et al. 2023, arXiv:2303.01469)

and x_0 and eps follow from it. eps and the score say nothing of x_0 where alpha = 0, at zero
terminal SNR; the others do.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Point(NamedTuple):
    """Where a sampler stands: the time, and the level of x.

    Scalars while sampling; t may also be one per sample, [B], with alpha and sigma that broadcast
    against x, [B, 1, ...].
    """

    t: jax.Array
    alpha: jax.Array
    sigma: jax.Array


Pair = tuple[jax.Array, jax.Array]


class Parameterization(NamedTuple):
    """A row of the table; every array [B, ...] but the point's.

    Attributes:
        predict: (output, x, point) -> (x_0, eps), such that x = alpha x_0 + sigma eps.
        target: (x_0, eps, point) -> the output that says just these.
        x_0_anywhere: Whether x_0 follows also where alpha = 0.
    """

    predict: Callable[[jax.Array, jax.Array, Point], Pair]
    target: Callable[[jax.Array, jax.Array, Point], jax.Array]
    x_0_anywhere: bool = True


def eps_of(x: jax.Array, x_0: jax.Array, point: Point) -> jax.Array:
    """The noise that x and x_0 leave: (x - alpha x_0) / sigma."""
    return (x - point.alpha * x_0) / point.sigma


def _from_eps(eps: jax.Array, x: jax.Array, point: Point) -> Pair:
    return (x - point.sigma * eps) / point.alpha, eps


def _from_x_0(x_0: jax.Array, x: jax.Array, point: Point) -> Pair:
    return x_0, eps_of(x, x_0, point)


def _from_score(score: jax.Array, x: jax.Array, point: Point) -> Pair:
    return _from_eps(-point.sigma * score, x, point)


def _from_neg_eps(neg_eps: jax.Array, x: jax.Array, point: Point) -> Pair:
    return _from_eps(-neg_eps, x, point)


def _from_v(v: jax.Array, x: jax.Array, point: Point) -> Pair:
    return point.alpha * x - point.sigma * v, point.sigma * x + point.alpha * v


def _from_velocity(velocity: jax.Array, x: jax.Array, point: Point) -> Pair:
    total = point.alpha + point.sigma
    return (x - point.sigma * velocity) / total, (x + point.alpha * velocity) / total


def _from_data_velocity(velocity: jax.Array, x: jax.Array, point: Point) -> Pair:
    return _from_velocity(-velocity, x, point)


def edm(sigma_data: float = 0.5) -> Parameterization:
    """EDM's F. For alpha = 1 its x_0 = c_skip x + c_out F is

        c_skip = sigma_data^2 / (sigma^2 + sigma_data^2)
        c_out  = sigma sigma_data / sqrt(sigma^2 + sigma_data^2)

    and elsewhere the same of x / alpha at the level sigma / alpha. Source: Karras et al. 2022
    (arXiv:2206.00364), equation 7 and table 1.

    Args:
        sigma_data: Standard deviation of the data.
    """

    def predict(F: jax.Array, x: jax.Array, point: Point) -> Pair:
        power = point.sigma**2 + (point.alpha * sigma_data) ** 2
        root = jnp.sqrt(power)
        x_0 = point.alpha * sigma_data**2 / power * x + point.sigma * sigma_data / root * F
        return x_0, point.sigma / power * x - point.alpha * sigma_data / root * F

    def target(x_0: jax.Array, eps: jax.Array, point: Point) -> jax.Array:
        root = jnp.sqrt(point.sigma**2 + (point.alpha * sigma_data) ** 2)
        return (point.sigma * x_0 - point.alpha * sigma_data**2 * eps) / (sigma_data * root)

    return Parameterization(predict, target)


def consistency(sigma_data: float = 0.5, sigma_min: float = 0.002) -> Parameterization:
    """F of a consistency model: EDM's, but for a boundary at which x_0 is x itself.

    For alpha = 1 its x_0 = c_skip x + c_out F is

        c_skip = sigma_data^2 / ((sigma - sigma_min)^2 + sigma_data^2)
        c_out  = (sigma - sigma_min) sigma_data / sqrt(sigma^2 + sigma_data^2)

    and elsewhere the same of x / alpha at the level sigma / alpha. x_0 stands at sigma_min, where
    the probability flow that leads through x ends; below, it is x. Source: Song et al. 2023
    (arXiv:2303.01469), appendix C.

    Args:
        sigma_data: Standard deviation of the data.
        sigma_min: The boundary: least level of the noise.
    """

    def scales(point: Point) -> tuple[jax.Array, jax.Array, jax.Array]:
        above = jnp.maximum(point.sigma - point.alpha * sigma_min, 0)
        power = above**2 + (point.alpha * sigma_data) ** 2
        c_out = above * sigma_data / jnp.sqrt(point.sigma**2 + (point.alpha * sigma_data) ** 2)
        return above, power, c_out

    def predict(F: jax.Array, x: jax.Array, point: Point) -> Pair:
        above, power, c_out = scales(point)
        x_0 = point.alpha * sigma_data**2 / power * x + c_out * F
        return x_0, (above**2 / power * x - point.alpha * c_out * F) / point.sigma

    def target(x_0: jax.Array, eps: jax.Array, point: Point) -> jax.Array:
        above, power, c_out = scales(point)
        left = (above**2 * x_0 - point.alpha * point.sigma * sigma_data**2 * eps) / power
        # At the boundary x_0 is x, whatever F says.
        return jnp.where(c_out > 0, left / jnp.where(c_out > 0, c_out, 1), 0)

    return Parameterization(predict, target)


PARAMETERIZATIONS = {
    "eps": Parameterization(_from_eps, lambda x_0, eps, point: eps, x_0_anywhere=False),
    "x_0": Parameterization(_from_x_0, lambda x_0, eps, point: x_0),
    "v": Parameterization(_from_v, lambda x_0, eps, point: point.alpha * eps - point.sigma * x_0),
    "score": Parameterization(
        _from_score, lambda x_0, eps, point: -eps / point.sigma, x_0_anywhere=False
    ),
    "neg_eps": Parameterization(_from_neg_eps, lambda x_0, eps, point: -eps, x_0_anywhere=False),
    "velocity": Parameterization(_from_velocity, lambda x_0, eps, point: eps - x_0),
    "data_velocity": Parameterization(_from_data_velocity, lambda x_0, eps, point: x_0 - eps),
    "edm": edm(),
    "consistency": consistency(),
}
