"""Pictures a square at a time, for networks whose memory a whole one would not fit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

OVERLAP = 4  # neighbours share one part in so many of their side

Run = Callable[[jax.Array], jax.Array]


def in_tiles(run: Run, tile: int | None, scale_in: int, scale_out: int) -> Run:
    """A function of pictures [1, H, W, C] that works on one square after the other.

    Where squares overlap, what they give is averaged, each of them counting the less the nearer
    its edge is: inexact, where `run` sees further than a square.

    Args:
        run: From [1, H, W, C] to [1, H', W', C'], H' / H being scale_out / scale_in.
        tile: Side of a square in units of which `scale_in` are one of the input's pixels. Default:
            `run` as it is.
        scale_in: Pixels of the input in a unit.
        scale_out: Pixels of the output in a unit.
    """
    if tile is None:
        return run

    def whole(x: jax.Array) -> jax.Array:
        sizes = [side // scale_in for side in x.shape[1:3]]
        if max(sizes) <= tile:
            return run(x)
        (tops, ys), (lefts, xs) = (_places(size, tile, scale_out) for size in sizes)
        height, width = (min(size, tile) * scale_in for size in sizes)
        shape = 1, height, width, x.shape[-1]
        channels = jax.eval_shape(run, jax.ShapeDtypeStruct(shape, x.dtype)).shape[-1]

        def add(out: jax.Array, place: jax.Array) -> tuple[jax.Array, None]:
            i, j = place
            begins = 0, tops[i] * scale_in, lefts[j] * scale_in, 0
            part = run(lax.dynamic_slice(x, begins, shape))
            part = part * ys[i][None, :, None, None] * xs[j][None, None, :, None]
            begins = 0, tops[i] * scale_out, lefts[j] * scale_out, 0
            before = lax.dynamic_slice(out, begins, part.shape)
            return lax.dynamic_update_slice(out, before + part, begins), None

        out = jnp.zeros((1, *(size * scale_out for size in sizes), channels))
        pairs = np.stack(np.meshgrid(range(len(tops)), range(len(lefts))), -1).reshape(-1, 2)
        return lax.scan(add, out, jnp.asarray(pairs))[0]

    return whole


def _places(size: int, tile: int, scale: int) -> tuple[jax.Array, jax.Array]:
    """Where squares begin along a side, [n], and what each pixel of them counts, [n, pixels]."""
    tile = min(size, tile)
    stride = tile - tile // OVERLAP
    starts = np.minimum(stride * np.arange(-(-(size - tile) // stride) + 1), size - tile)
    inside = np.arange(tile * scale) + 0.5
    fade = np.minimum(np.minimum(inside, inside[::-1]), tile // OVERLAP * scale)
    total = np.zeros(size * scale)
    pixels = starts[:, None] * scale + np.arange(tile * scale)
    np.add.at(total, pixels, np.broadcast_to(fade, pixels.shape))
    return jnp.asarray(starts), jnp.asarray(fade / total[pixels], jnp.float32)
