"""A Gaussian target, held by its principal axes: quick in thousands of dimensions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from skipjax.denoisers import Denoise, Point, Prediction
from skipjax.evaluation.exact.levels import column, flat


class Gaussian:
    """The data are N(mean, cov) in D dimensions.

        cov = axes diag(spectrum) axes^T + rest (1 - axes axes^T)

    Everything follows axis by axis. With x = alpha x_0 + sigma eps, lambda the variance of the
    data along an axis and v = alpha^2 lambda + sigma^2 that of x,

        E[x_0 | x] = mean + alpha lambda / v (x - alpha mean)
        E[eps | x] = sigma / v (x - alpha mean)

    which hold at both ends, alpha = 0 and sigma = 0. Where v = 0, x is certain and eps is taken
    to be 0. A point is a row of D values, or a picture that holds as many.

    Attributes:
        mean: float64 [D].
        axes: R <= D orthonormal axes as columns, float64 [D, R].
        spectrum: Variances along them, float64 [R], each >= 0.
        rest: Variance along every direction off the axes.
        denoise: The exact denoiser; one function, which `jit` compiles once for a shape.

    Args:
        mean: [D].
        cov: Symmetric, without negative eigenvalues, [D, D].

    Raises:
        ValueError: If the shapes do not match, or cov is not a covariance.
    """

    def __init__(self, mean: npt.ArrayLike, cov: npt.ArrayLike):
        mean, cov = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
        if mean.ndim != 1 or not mean.size or cov.shape != 2 * mean.shape:
            raise ValueError(
                f"mean has shape {mean.shape} and cov {cov.shape}: expected [D] and [D, D], D >= 1"
            )
        if not np.allclose(cov, cov.T, rtol=1e-10, atol=0):
            raise ValueError("cov is not symmetric, or not finite: it must equal its transpose")
        spectrum, axes = np.linalg.eigh(cov)
        # What rounding makes of an eigenvalue 0.
        spectrum[np.abs(spectrum) < 1e-14 * len(mean) * np.abs(spectrum).max()] = 0
        self._set(mean, axes, spectrum, 0.0)

    def _set(self, mean: np.ndarray, axes: np.ndarray, spectrum: np.ndarray, rest: float) -> None:
        least = min(spectrum.min(initial=np.inf), rest)
        if not least >= 0:
            raise ValueError(f"the smallest variance is {least:.3g}: none may be negative")
        self.mean, self.axes, self.spectrum, self.rest = mean, axes, spectrum, rest
        self.denoise: Denoise = self._predict

    @property
    def dim(self) -> int:
        """D."""
        return len(self.mean)

    @property
    def cov(self) -> np.ndarray:
        """The covariance, float64 [D, D]."""
        off = self.spectrum - self.rest
        return (self.axes * off) @ self.axes.T + self.rest * np.eye(self.dim)

    def like(self, mean: np.ndarray, spectrum: np.ndarray, rest: float) -> Gaussian:
        """Another Gaussian on the same axes."""
        other = object.__new__(Gaussian)
        other._set(mean, self.axes, spectrum, rest)
        return other

    def _predict(self, x: jax.Array, point: Point) -> Prediction:
        """The exact prediction at a point."""
        alpha, sigma = column(point.alpha, x.dtype), column(point.sigma, x.dtype)
        mean = jnp.asarray(self.mean, x.dtype)[None]
        on, off, v, v_off = self._parts(x, alpha, sigma)
        spectrum = jnp.asarray(self.spectrum, x.dtype)[None]
        on, off = on * _inverse(v), off * _inverse(v_off)
        back = jnp.asarray(self.axes.T, x.dtype)
        x_0 = mean + alpha * ((spectrum * on) @ back + self.rest * off)
        eps = sigma * (on @ back + off)
        return Prediction(x_0.reshape(x.shape), eps.reshape(x.shape))

    def log_density(self, x: jax.Array, alpha: ArrayLike, sigma: ArrayLike) -> jax.Array:
        """log p(x) of x = alpha x_0 + sigma eps, [B].

        Args:
            x: Points, [B, ...].
            alpha: One number, or one per point, [B, 1, ...].
            sigma: As alpha; > 0 where the data have an axis without variance.

        Raises:
            ValueError: If a point does not hold D values.
        """
        on, off, v, v_off = self._parts(x, column(alpha, x.dtype), column(sigma, x.dtype))
        energy = (jnp.square(on) / v + jnp.log(2 * jnp.pi * v)).sum(axis=1)
        if num := self.dim - len(self.spectrum):
            square = jnp.square(off).sum(axis=1, keepdims=True)
            energy += (square / v_off + num * jnp.log(2 * jnp.pi * v_off))[:, 0]
        return -energy / 2

    def draw(self, key: jax.Array, num: int, dtype: jnp.dtype = jnp.float32) -> jax.Array:
        """Independent data, [num, D]."""
        inside, outside = jax.random.split(key)
        stds = jnp.asarray(np.sqrt(self.spectrum), dtype)[None]
        axes = jnp.asarray(self.axes, dtype)
        x = (stds * jax.random.normal(inside, (num, len(self.spectrum)), dtype)) @ axes.T
        if self.rest:
            z = jax.random.normal(outside, (num, self.dim), dtype)
            x += self.rest**0.5 * (z - (z @ axes) @ axes.T)
        return x + jnp.asarray(self.mean, dtype)[None]

    def flow(
        self, x: npt.ArrayLike, start: tuple[float, float], end: tuple[float, float] = (1.0, 0.0)
    ) -> np.ndarray:
        """Where the probability-flow ODE takes x, in closed form:

            x_end = alpha_end mean + sqrt(V_end / V_start) (x - alpha_start mean)

        with V = alpha^2 cov + sigma^2, axis by axis.

        Args:
            x: Points, [B, ...].
            start: (alpha, sigma) where x stands.
            end: (alpha, sigma) to go to; the data by default.

        Returns:
            float64 [B, ...].
        """
        x = np.asarray(x, np.float64)
        off = x.reshape(len(x), -1) - start[0] * self.mean
        on = off @ self.axes
        off = off - on @ self.axes.T

        moved = (stretch(self.spectrum, start, end) * on) @ self.axes.T
        moved += stretch(self.rest, start, end) * off
        return (end[0] * self.mean + moved).reshape(x.shape)

    def _parts(self, x: jax.Array, alpha: jax.Array, sigma: jax.Array) -> tuple[jax.Array, ...]:
        """x - alpha mean on the axes [B, R] and off them [B, D]; the variance of x on each."""
        rows = flat(x, self.dim) - alpha * jnp.asarray(self.mean, x.dtype)[None]
        axes, spectrum = (jnp.asarray(a, x.dtype) for a in (self.axes, self.spectrum))
        on = rows @ axes
        off = rows - on @ axes.T if len(spectrum) < self.dim else jnp.zeros_like(rows)
        variance = jnp.square(alpha) * spectrum[None] + jnp.square(sigma)
        return on, off, variance, jnp.square(alpha) * self.rest + jnp.square(sigma)


def low_rank(
    mean: npt.ArrayLike, axes: npt.ArrayLike, spectrum: npt.ArrayLike, rest: float
) -> Gaussian:
    """A Gaussian that varies along R axes, and by `rest` in every other direction.

    Nothing of size D x D is formed.

    Args:
        mean: [D].
        axes: Orthonormal, as columns, [D, R].
        spectrum: Variances along them, [R], each >= 0.
        rest: Variance off them, >= 0.

    Raises:
        ValueError: If the shapes do not match, the axes are not orthonormal, or a variance is
            negative.
    """
    mean, axes, spectrum = (np.asarray(a, np.float64) for a in (mean, axes, spectrum))
    if mean.ndim != 1 or spectrum.ndim != 1 or axes.shape != (len(mean), len(spectrum)):
        raise ValueError(
            f"mean has shape {mean.shape}, axes {axes.shape} and spectrum {spectrum.shape}: "
            "expected [D], [D, R] and [R]"
        )
    if not np.allclose(axes.T @ axes, np.eye(len(spectrum)), rtol=0, atol=1e-10):
        raise ValueError("axes are not orthonormal: np.linalg.qr(axes)[0] makes them so")
    target = object.__new__(Gaussian)
    target._set(mean, axes, spectrum, float(rest))
    return target


def stretch(
    variance: npt.ArrayLike, start: tuple[float, float], end: tuple[float, float]
) -> np.ndarray:
    """By how much the probability flow widens x along an axis of the data of that variance.

    Where x has no variance to start from, it stays at its mean: 0.
    """
    before, after = (a**2 * np.asarray(variance, np.float64) + s**2 for a, s in (start, end))
    return np.sqrt(np.divide(after, before, out=np.zeros_like(before), where=before > 0))


def _inverse(v: jax.Array) -> jax.Array:
    """1 / v, and 0 for v = 0."""
    return jnp.where(v > 0, 1 / jnp.where(v > 0, v, 1), 0)
