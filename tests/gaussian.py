"""A Gaussian target, whose every quantity is known in closed form."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from skipjax.denoisers import Denoise, Prediction
from skipjax.plans import Plan


class Law(NamedTuple):
    """N(mean, cov)."""

    mean: np.ndarray
    cov: np.ndarray


class Gaussian:
    """The data are N(mean, cov) in D dimensions, cov of any kind."""

    def __init__(self, mean, cov):
        self.mean, self.cov = np.asarray(mean, float), np.asarray(cov, float)
        # Variances along the principal axes, and the axes as columns.
        self.spectrum, self.axes = np.linalg.eigh(self.cov)

    def expectation(self, alpha: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        """gain and offset of E[x_0 | x] = gain x + offset, where x = alpha x_0 + sigma eps."""
        of_x = alpha**2 * self.cov + sigma**2 * np.eye(len(self.mean))
        gain = np.linalg.solve(of_x, alpha * self.cov).T
        return gain, self.mean - alpha * gain @ self.mean

    @property
    def denoise(self) -> Denoise:
        """The exact denoiser of pictures [B, ...] with D values each."""

        def denoise(x, point):
            axes, mean, spectrum = (
                jnp.asarray(table, x.dtype) for table in (self.axes, self.mean, self.spectrum)
            )
            flat = x.reshape(len(x), -1)
            off = (flat - point.alpha * mean[None]) @ axes
            off = off / (point.alpha**2 * spectrum + point.sigma**2)[None]
            x_0 = mean[None] + (point.alpha * spectrum[None] * off) @ axes.T
            eps = (point.sigma * off) @ axes.T
            return Prediction(x_0.reshape(x.shape), eps.reshape(x.shape))

        return denoise


def law(plan: Plan, target: Gaussian) -> Law:
    """The law of x_N, started from N(0, I), with the exact prediction at every row.

    The state (x_i, m_{i-1}, ..., m_{i-K+1}) is Gaussian, and every row maps it affinely.
    """
    size, k = len(target.mean), plan.history
    unit = np.eye(size)
    mean, cov = np.zeros(k * size), np.zeros((k * size, k * size))
    cov[:size, :size] = unit
    for i in range(plan.nfe):
        alpha, sigma = plan.alpha[i], plan.sigma[i]
        gain, offset = target.expectation(alpha, sigma)
        if plan.space == "eps":
            gain, offset = (unit - alpha * gain) / sigma, -alpha * offset / sigma
        move, shift = np.zeros_like(cov), np.zeros_like(mean)
        move[:size, :size] = plan.keep[i] * unit + plan.mix[i, 0] * gain
        shift[:size] = plan.mix[i, 0] * offset
        for j in range(1, k):
            here = slice(j * size, (j + 1) * size)
            move[:size, here] = plan.mix[i, j] * unit
            if j == 1:
                move[here, :size], shift[here] = gain, offset
            else:
                move[here, (j - 1) * size : j * size] = unit
        mean, cov = move @ mean + shift, move @ cov @ move.T
        cov[:size, :size] += plan.noise[i] ** 2 * unit
    return Law(mean[:size], cov[:size, :size])
