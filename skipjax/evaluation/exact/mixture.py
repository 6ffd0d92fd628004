"""A mixture of Gaussians: the plainest target whose flow is not linear."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from skipjax.denoisers import Denoise, Point, Prediction
from skipjax.evaluation.exact.levels import column, flat


class Mixture:
    """The data are N(means_k, stds_k^2 I) with probability weights_k, in D dimensions.

    With x = alpha x_0 + sigma eps, v_k = alpha^2 stds_k^2 + sigma^2, and r_k the probability that
    x came from component k,

        r_k = softmax_k(log weights_k - D/2 log v_k - |x - alpha means_k|^2 / (2 v_k))
        E[x_0 | x] = sum_k r_k (sigma^2 means_k + alpha stds_k^2 x) / v_k
        E[eps | x] = sum_k r_k sigma (x - alpha means_k) / v_k

    which hold at both ends, alpha = 0 and sigma = 0. A point is a row of D values, or a picture
    that holds as many.

    Attributes:
        weights: float64 [K].
        means: float64 [K, D].
        stds: float64 [K].
        denoise: The exact denoiser; one function, which `jit` compiles once for a shape.

    Args:
        weights: [K], each > 0, of sum 1.
        means: [K, D].
        stds: Standard deviation of every component, or one for each, [K]; > 0.

    Raises:
        ValueError: If the shapes do not match, or a number is out of its range.
    """

    def __init__(self, weights: npt.ArrayLike, means: npt.ArrayLike, stds: npt.ArrayLike):
        self.weights, self.means, stds = (
            np.asarray(a, np.float64) for a in (weights, means, stds)
        )
        shape = self.weights.shape
        fits = self.means.ndim == 2 and self.weights.ndim == 1 and len(self.means) == shape[0]
        if not fits or stds.shape not in ((), shape):
            raise ValueError(
                f"weights have shape {shape}, means {self.means.shape} and stds {stds.shape}: "
                "expected [K], [K, D] and [K], or one number for stds"
            )
        self.stds = np.broadcast_to(stds, shape)
        if not (self.weights > 0).all() or abs(self.weights.sum() - 1) > 1e-9:
            raise ValueError(f"weights are {self.weights}: expected numbers > 0 of sum 1")
        if not (self.stds > 0).all():
            raise ValueError(f"stds are {stds}: each must be > 0")
        self.denoise: Denoise = self._predict

    @property
    def dim(self) -> int:
        """D."""
        return self.means.shape[1]

    def _predict(self, x: jax.Array, point: Point) -> Prediction:
        """The exact prediction at a point."""
        points, alpha, sigma = self._columns(x, point.alpha, point.sigma)
        means, stds = self._tables(x.dtype)
        v = jnp.square(alpha * stds) + jnp.square(sigma)
        share = jax.nn.softmax(self._logits(points, alpha, v), axis=0) / v
        pull = means.T @ share
        stay = (share * jnp.square(stds)).sum(axis=0, keepdims=True)
        x_0 = jnp.square(sigma) * pull + alpha * stay * points
        eps = sigma * (share.sum(axis=0, keepdims=True) * points - alpha * pull)
        return Prediction(x_0.T.reshape(x.shape), eps.T.reshape(x.shape))

    def responsibilities(
        self, x: jax.Array, alpha: ArrayLike = 1.0, sigma: ArrayLike = 0.0
    ) -> jax.Array:
        """r_k, the probability that x came from component k, [B, K].

        Args:
            x: Points, [B, ...].
            alpha: One number, or one per point, [B, 1, ...].
            sigma: As alpha; the two are those of the data by default.

        Raises:
            ValueError: If a point does not hold D values.
        """
        return jax.nn.softmax(self._joint(x, alpha, sigma), axis=0).T

    def log_density(self, x: jax.Array, alpha: ArrayLike, sigma: ArrayLike) -> jax.Array:
        """log p(x) of x = alpha x_0 + sigma eps, [B].

        Over a set of levels, `jax.vmap(mixture.log_density, (None, 0, 0))` gives [L, B].

        Args:
            x: Points, [B, ...].
            alpha: One number, or one per point, [B, 1, ...].
            sigma: As alpha.

        Raises:
            ValueError: If a point does not hold D values.
        """
        return jax.nn.logsumexp(self._joint(x, alpha, sigma), axis=0) - (
            self.dim / 2 * np.log(2 * np.pi)
        )

    def draw(self, key: jax.Array, num: int, dtype: jnp.dtype = jnp.float32) -> jax.Array:
        """Independent data, [num, D]."""
        which, noise = jax.random.split(key)
        logits = jnp.asarray(np.log(self.weights), dtype)
        k = jax.random.categorical(which, logits, shape=(num,))
        means, stds = jnp.asarray(self.means, dtype), jnp.asarray(self.stds, dtype)
        return means[k] + stds[k][:, None] * jax.random.normal(noise, (num, self.dim), dtype)

    def _columns(self, x: jax.Array, alpha: ArrayLike, sigma: ArrayLike) -> tuple[jax.Array, ...]:
        """x as [D, B], and a level that goes with it.

        Points lie along the last axis, which a CPU works through several at a time: components
        are few.
        """
        level = (column(alpha, x.dtype).T, column(sigma, x.dtype).T)
        return flat(x, self.dim).T, *level

    def _joint(self, x: jax.Array, alpha: ArrayLike, sigma: ArrayLike) -> jax.Array:
        points, alpha, sigma = self._columns(x, alpha, sigma)
        _, stds = self._tables(x.dtype)
        return self._logits(points, alpha, jnp.square(alpha * stds) + jnp.square(sigma))

    def _logits(self, points: jax.Array, alpha: jax.Array, v: jax.Array) -> jax.Array:
        """log of weights_k N(x; alpha means_k, v_k), less D/2 log(2 pi); [K, B].

        The differences are taken before they are squared: |x|^2 - 2 x.m + |m|^2 would lose the
        digits that tell near components apart.
        """
        means, _ = self._tables(points.dtype)
        if self.dim < 8:  # along the points, and along the values where there are many
            square = sum(
                jnp.square(p[None] - alpha * m[:, None])
                for p, m in zip(points, means.T, strict=True)
            )
        else:
            scaled = (alpha.T[..., None] if alpha.ndim else alpha) * means[None]
            square = jnp.square(points.T[:, None] - scaled).sum(axis=2).T
        weights = jnp.asarray(np.log(self.weights), points.dtype)[:, None]
        return weights - self.dim / 2 * jnp.log(v) - square / (2 * v)

    def _tables(self, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
        """Means [K, D] and standard deviations [K, 1] on the device."""
        return jnp.asarray(self.means, dtype), jnp.asarray(self.stds, dtype)[:, None]
