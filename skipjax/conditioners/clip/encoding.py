"""What an encoder says of chunks of tokens: each distinct one once, so many at a time."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.conditioners.clip.prompts import Chunk
from skipjax.conditioners.clip.text_encoder import TextEncoder

LARGEST = 8  # chunks that an encoder is given at once; fewer are filled up to a power of two


def say(
    encoder: TextEncoder,
    texts: Sequence[Sequence[Chunk]],
    skip: int,
    normed: bool,
    weighted: bool = False,
    full: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """What an encoder says of texts.

    Args:
        encoder: Of the tokens.
        texts: n of them, each of k chunks of L tokens.
        skip: How many of the last layers are left out.
        normed: Whether the final norm follows.
        weighted: Whether tokens are multiplied by their weights.
        full: Whether it is given `LARGEST` chunks at a time even if there are fewer.

    Returns:
        float32 [n, k L, D] of the tokens, and [n, P], pooled, of the first chunks.
    """
    rows = {chunk: i for i, chunk in enumerate(dict.fromkeys(sum(map(tuple, texts), ())))}
    index = np.array([[rows[chunk] for chunk in text] for text in texts])
    hidden, pooled = [], []
    for batch in _batches([*rows], full):
        ids = np.array([chunk.ids for chunk in batch], np.int32)
        states = encoder.states(ids, skip)
        found = states.normed if normed else states.hidden
        if weighted:
            found = _weigh(found, np.array([chunk.weights for chunk in batch], np.float32))
        hidden.append(found)
        pooled.append(states.pooled)
    table, ends = (x[0] if len(x) == 1 else jnp.concatenate(x) for x in (hidden, pooled))
    return _take(table, ends, index)


def _batches(rows: list[Chunk], full: bool) -> list[list[Chunk]]:
    """As many at a time as an encoder is given, the last of them filled up."""
    parts = [rows[i : i + LARGEST] for i in range(0, len(rows), LARGEST)]
    last = parts[-1]
    size = LARGEST if full or len(parts) > 1 else 1 << (len(last) - 1).bit_length()
    parts[-1] = last + [last[0]] * (size - len(last))
    return parts


@jax.jit
def _weigh(hidden: jax.Array, weights: jax.Array) -> jax.Array:
    """Tokens [R, L, D] times their weights [R, L], then times what restores the mean of each chunk
    as it was.
    """
    weighted = hidden * weights[..., None]
    before, after = (array.mean(axis=(1, 2), keepdims=True) for array in (hidden, weighted))
    plain = (weights == 1).all(axis=1)[:, None, None]
    return jnp.where(plain, hidden, weighted * (before / after))


@jax.jit
def _take(table: jax.Array, ends: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
    hidden = jnp.take(table, index, axis=0)
    return hidden.reshape(len(index), -1, table.shape[-1]), jnp.take(ends, index[:, 0], axis=0)
