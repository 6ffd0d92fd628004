"""When to guide: at times within an interval; and scales that are one for each sample."""

import jax
import jax.numpy as jnp

Interval = tuple[jax.Array | float, jax.Array | float]


def for_all(inside: jax.Array, interval: Interval | None) -> bool:
    """Whether guidance may be left out of a call, for the whole batch at once."""
    return interval is not None and not inside.ndim


def inside_of(t: jax.Array, interval: Interval | None) -> jax.Array:
    """Whether times are within an interval."""
    low, high = (-jnp.inf, jnp.inf) if interval is None else interval
    return jnp.asarray((t >= low) & (t <= high))


def over(value: jax.Array | float, x: jax.Array) -> jax.Array:
    """One for all pictures as it is; one per picture, [B], made to broadcast against x."""
    value = jnp.asarray(value)
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value
