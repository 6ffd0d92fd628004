"""What EDM's baselines are told of a point: VP, VE and iDDPM (Karras et al. 2022, table 1).

All are functions of rho = sigma / alpha, the noise in x / alpha, and c_in x is what each was
trained on: x of unit variance for VP and iDDPM, x / alpha itself for VE. In x / alpha their
c_skip is 1 and c_out is -rho (VP, iDDPM) or rho (VE): x_0 = x / alpha -+ rho F says that F is
eps, and for VE -eps.
"""

from dataclasses import dataclass
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.process.parameterizations import Point


@dataclass(frozen=True)
class Vp:
    """x of unit variance, at (M - 1) t, where rho^2 = exp(beta_d t^2 / 2 + beta_min t) - 1.

    Args:
        beta_d: How much beta grows with t, from `beta_min` on.
        beta_min: beta at t = 0.
        M: Number of times of the discrete chain.
    """

    beta_d: float = 19.9
    beta_min: float = 0.1
    M: int = 1000

    def c_in(self, point: Point) -> jax.Array:
        return 1 / jnp.hypot(point.sigma, point.alpha)

    def c_noise(self, point: Point) -> jax.Array:
        log = jnp.log1p(jnp.square(point.sigma / point.alpha))
        root = jnp.sqrt(self.beta_min**2 + 2 * self.beta_d * log)
        return (self.M - 1) * (2 * log / (root + self.beta_min))  # root - beta_min, but precise

    def rho(self, t: float) -> float:
        """sigma / alpha at a time in 0 .. 1."""
        with np.errstate(all="ignore"):
            return float(np.sqrt(np.expm1(0.5 * self.beta_d * t**2 + self.beta_min * t)))


@dataclass(frozen=True)
class Ve:
    """x / alpha as it is, at log(rho / 2)."""

    def c_in(self, point: Point) -> jax.Array:
        return 1 / point.alpha

    def c_noise(self, point: Point) -> jax.Array:
        return jnp.log(0.5 * (point.sigma / point.alpha))


@dataclass(frozen=True)
class Iddpm:
    """x of unit variance, at M - 1 - j, where j is the nearest of the levels u_0 > u_1 > ... > u_M
    that the network was trained at:

        u_M = 0,  u_{j-1}^2 = (u_j^2 + 1) / max(abar_{j-1} / abar_j, C_1) - 1
        abar_j = sin^2(pi / 2 j / (M (1 + C_2)))

    Args:
        C_1: Least ratio of two abar.
        C_2: Offset of the cosine schedule.
        M: Number of levels but the last.
    """

    C_1: float = 0.001
    C_2: float = 0.008
    M: int = 1000

    def c_in(self, point: Point) -> jax.Array:
        return 1 / jnp.hypot(point.sigma, point.alpha)

    def c_noise(self, point: Point) -> jax.Array:
        rho = jnp.asarray(point.sigma / point.alpha)
        levels = jnp.asarray(self.levels(), jnp.float32)
        apart = jnp.abs(jnp.ravel(rho)[:, None] - levels[None, :])
        nearest = jnp.argmin(apart, axis=1).reshape(rho.shape)
        return (self.M - 1 - nearest).astype(jnp.float32)

    def levels(self) -> np.ndarray:
        """u_0 .. u_M, float64 [M + 1]."""
        return _levels(self.C_1, self.C_2, self.M)


@lru_cache(maxsize=8)
def _levels(C_1: float, C_2: float, M: int) -> np.ndarray:
    u = np.zeros(M + 1)
    with np.errstate(all="ignore"):  # what is no level is refused where a schedule is made of it
        abar = np.sin(0.5 * np.pi * np.arange(M + 1) / M / (C_2 + 1)) ** 2
        for j in range(M, 0, -1):
            u[j - 1] = np.sqrt((u[j] ** 2 + 1) / max(abar[j - 1] / abar[j], C_1) - 1)
    u.setflags(write=False)
    return u
