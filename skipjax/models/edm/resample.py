"""Half and twice the side of pictures, by a filter in place of squares of 2 x 2 pixels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

Taps = Sequence[float]


def down(x: jax.Array, taps: Taps, margin: bool = True) -> jax.Array:
    """Filters by taps / sum(taps) along height and width, and takes every second pixel.

    Args:
        x: Pictures, [B, H, W, C], H and W even.
        taps: Of the filter, an even number: (1, 1) is the mean of 2 x 2 squares.
        margin: Whether zeros are put around the picture first, len(taps) / 2 - 1 on every side;
            otherwise x has such a margin already.

    Returns:
        [B, H / 2, W / 2, C], without the margin.
    """
    return _down(_down(x, taps, margin, 1), taps, margin, 2)


def up(x: jax.Array, taps: Taps) -> jax.Array:
    """The transpose of `down`, times 4: pixels with zeros between them, filtered.

    Args:
        x: Pictures, [B, H, W, C].
        taps: As in `down`: (1, 1) repeats every pixel.

    Returns:
        [B, 2 H, 2 W, C].
    """
    return _up(_up(x, taps, 1), taps, 2)


def margin_of(taps: Taps) -> int:
    """How many pixels `down` looks beyond the border."""
    return len(taps) // 2 - 1


def _down(x, taps, margin, axis):
    around, total = margin_of(taps), sum(taps)
    x = _padded(x, around, axis) if margin else x
    size = (x.shape[axis] - 2 * around) // 2
    picked = [
        tap / total * lax.slice_in_dim(x, i, i + 2 * size - 1, 2, axis)
        for i, tap in enumerate(taps)
    ]
    return sum(picked[1:], start=picked[0])


def _up(x, taps, axis):
    around, total, size = margin_of(taps), sum(taps), x.shape[axis]
    reach = len(taps) // 2
    padded = _padded(x, reach, axis)

    def parity(r):
        # Pixel 2 m + r gets tap i of pixel n of x, where 2 n + i - around = 2 m + r.
        picked = []
        for i in range((r + around) % 2, len(taps), 2):
            start = reach + (r + around - i) // 2
            piece = lax.slice_in_dim(padded, start, start + size, 1, axis)
            picked.append(2 * taps[i] / total * piece)
        return sum(picked[1:], start=picked[0])

    both = jnp.stack([parity(0), parity(1)], axis=axis + 1)
    return both.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])


def _padded(x, around, axis):
    return jnp.pad(x, [(around, around) if i == axis else (0, 0) for i in range(x.ndim)])
