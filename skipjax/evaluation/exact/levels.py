"""Points and levels in the shapes that the targets compute in."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def flat(x: jax.Array, dim: int) -> jax.Array:
    """Points [B, ...] of D values each as [B, D].

    Raises:
        ValueError: If a point has another number of values than `dim`.
    """
    rows = x.reshape(len(x), -1)
    if rows.shape[1] != dim:
        raise ValueError(
            f"x has shape {x.shape}: the target is of dimension {dim}, so each point must hold "
            f"{dim} values, not {rows.shape[1]}"
        )
    return rows


def column(level: ArrayLike, dtype: jnp.dtype) -> jax.Array:
    """An alpha or a sigma for rows [B, D]: one number as it is, [B, 1, ...] as [B, 1]."""
    level = jnp.asarray(level, dtype)
    return level.reshape(-1, 1) if level.ndim else level
