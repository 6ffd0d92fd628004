"""How well a network predicts the noise."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from skipjax.checks import whole
from skipjax.evaluation.arrays import pictures
from skipjax.sampling import gaussian
from skipjax.schedules import Schedule

# (x_t [B, ...], t float32 [B] in 0 .. T-1, y int32 [B] or None) -> eps [B, ...]
Predict = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


class Estimate(NamedTuple):
    """A mean over pictures, and the standard error it has as an estimate for all such pictures."""

    mean: float
    standard_error: float


def eps_mse(
    predict: Predict,
    schedule: Schedule,
    images: ArrayLike,
    labels: ArrayLike | None,
    key: jax.Array,
    *,
    draws: int = 8,
    batch: int = 64,
) -> Estimate:
    """The error of a network that predicts the noise, over all times and the given pictures:

        mean (eps - eps_theta(x_t, t, y))^2,   x_t = alpha_t x_0 + sigma_t eps

    Each picture is seen at `draws` times, one drawn from each of `draws` equal parts of 0 .. T-1,
    so that every time is as likely as any other. The standard error comes from how the means of
    single pictures scatter, and so counts pictures, times and noise alike; it holds where the
    pictures are independent. Noise and times of picture i follow from fold_in(key, i): they
    depend neither on `batch` nor on the pictures after it.

    Args:
        predict: The network, as `(x_t, t, y) -> eps`, of x_t's shape: drop a learned variance
            first. Given as `jax.tree_util.Partial(f, params)` it is compiled once for all params;
            a plain function is compiled once for each function object.
        schedule: The forward process the network was trained on.
        images: Pictures x_0, float [N, H, W, C] in [-1, 1], N >= 2.
        labels: Classes, int [N]; None for an unconditional network, whose y is None.
        key: Randomness of noise and times.
        draws: Noisy versions of each picture, at least 1.
        batch: Pictures the network is given at once, at least 1; no part of the result.

    Raises:
        ValueError: If pictures and labels do not match, there are fewer than 2 pictures, or
            what is predicted has another shape than x_t.
    """
    images = pictures(images, "images", 2).astype(np.float32)
    labels = _labels(labels, len(images))
    draws = whole("draws", draws, 1)
    batch = min(whole("batch", batch, 1), len(images))
    predict = predict if isinstance(predict, Partial) else Partial(predict)
    tables = jnp.asarray(schedule.alpha, jnp.float32), jnp.asarray(schedule.sigma, jnp.float32)

    means = []
    for start in range(0, len(images), batch):
        # The last batch is filled with its last picture, so that one program serves them all.
        index = np.minimum(np.arange(start, start + batch), len(images) - 1)
        y = None if labels is None else labels[index]
        errors = _errors(predict, tables, images[index], y, key, index, jnp.arange(draws))
        means.append(np.asarray(errors, np.float64)[:, : len(images) - start].mean(axis=0))
    means = np.concatenate(means)
    return Estimate(float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means))))


@jax.jit
def _errors(
    predict: Partial,
    tables: tuple[jax.Array, jax.Array],
    x_0: jax.Array,
    y: jax.Array | None,
    key: jax.Array,
    index: jax.Array,
    parts: jax.Array,
) -> jax.Array:
    """(eps - eps_theta)^2 of each draw and picture, float32 [draws, B]."""
    alpha, sigma = tables
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)

    def draw(part):
        time, noise = jax.vmap(jax.random.split, out_axes=1)(
            jax.vmap(jax.random.fold_in, (0, None))(keys, part)
        )
        u = jax.vmap(jax.random.uniform)(time)
        # Rounding can lift part + u to the next part, and that of the last one out of the table.
        t = jnp.minimum(((part + u) * (len(alpha) / len(parts))).astype(jnp.int32), len(alpha) - 1)
        eps = gaussian(noise, x_0.shape[1:], jnp.float32)
        level = (slice(None), *(None,) * (x_0.ndim - 1))
        x_t = alpha[t][level] * x_0 + sigma[t][level] * eps
        eps_theta = predict(x_t, t.astype(jnp.float32), y)
        if eps_theta.shape != eps.shape:
            raise ValueError(
                f"predict answers {eps_theta.shape} to x_t of shape {eps.shape}: expected eps, of "
                "the same shape; where a variance is learned, it is the first half of the channels"
            )
        return jnp.square(eps - eps_theta).reshape(len(eps), -1).mean(axis=1)

    return jax.lax.map(draw, parts)


def _labels(labels: ArrayLike | None, num: int) -> np.ndarray | None:
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape != (num,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}: expected whole numbers, one for "
            f"each of {num} pictures, or None"
        )
    return labels.astype(np.int32)
