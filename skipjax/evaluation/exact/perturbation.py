"""A denoiser that errs as a trained network does: by a little, smoothly, always the same."""

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.denoisers import Denoise, Prediction
from skipjax.evaluation.exact.levels import column


def perturbed(denoise: Denoise, size: float, *, seed: int = 0) -> Denoise:
    """Bends what a denoiser says by a smooth bias. With r = sqrt(alpha^2 + sigma^2),

        eps' = eps + size alpha / r g(x / r, angle),   x_0' = x_0 - size sigma / r g(x / r, angle)

    so that x = alpha x_0' + sigma eps' still holds, without a division at either end. Where r = 1
    this is an error of v = alpha eps - sigma x_0 by size g. The components of g come in pairs,

        g = sqrt(2) (cos theta_1, sin theta_1, cos theta_2, sin theta_2, ...)

    with theta_j affine in x / r and in the angle arctan(sigma / alpha), which is arctan of
    SNR^{-1/2}: its rms over the D values is 1 at every point, where D is even. The rms of the bias
    is thereby size alpha / r in eps, whose own rms is about 1: `size` near the data, and less
    where a network's task is easier. All its derivatives are bounded, so that a sampler keeps
    the order with which it converges to the flow of this denoiser.

    Args:
        denoise: The exact denoiser.
        size: rms of the bias, >= 0; 0.05 is a network that errs by 5 %.
        seed: What the directions and phases of theta follow from.

    Raises:
        ValueError: If size is negative, or not finite.
    """
    if not 0 <= size < np.inf:
        raise ValueError(f"size is {size}: it must be a number >= 0")

    def bent(x, point):
        prediction = denoise(x, point)
        alpha, sigma = column(point.alpha, x.dtype), column(point.sigma, x.dtype)
        r = jnp.hypot(alpha, sigma)
        bias = size * _bias(x.reshape(len(x), -1) / r, jnp.arctan2(sigma, alpha), seed)
        x_0 = prediction.x_0 - (sigma / r * bias).reshape(x.shape)
        eps = prediction.eps + (alpha / r * bias).reshape(x.shape)
        return Prediction(x_0, eps)

    return bent


def _bias(y: jax.Array, angle: jax.Array, seed: int) -> jax.Array:
    """g, [B, D], at y [B, D] and an angle in 0 .. pi/2."""
    dim = y.shape[1]
    random, pairs = np.random.default_rng(seed), (dim + 1) // 2
    # theta turns by about 1 over the spread of y, and by about 2 over all levels.
    towards = random.normal(size=(dim, pairs)) / np.sqrt(dim)
    speed, phase = random.normal(size=pairs), random.uniform(0, 2 * np.pi, pairs)
    towards, speed, phase = (jnp.asarray(a, y.dtype) for a in (towards, speed, phase))
    theta = y @ towards + angle * speed[None] + phase[None]
    both = jnp.stack([jnp.cos(theta), jnp.sin(theta)], axis=2).reshape(len(y), -1)
    return 2**0.5 * both[:, :dim]
