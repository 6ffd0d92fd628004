"""The update kernel and the only scan: a plan, a denoiser and noise give pictures."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from skipjax.denoisers import Denoise, Point
from skipjax.plans import Plan

# Folded into a picture's key for its starting noise; steps fold in 0 .. N-1. Every plan thereby
# starts a picture from the same noise, however many steps it takes.
START = 2**32 - 1


def integrate(
    plan: Plan,
    denoise: Denoise,
    x: jax.Array,
    keys: jax.Array,
    *,
    on_step: Callable[[jax.Array], None] | None = None,
) -> jax.Array:
    """Runs a sampler: x_{i+1} = keep_i x_i + sum_j mix_ij m_{i-j} + noise_i z_i.

    Pure and traceable: `jit` it, `vmap` it over plans of one shape, differentiate it, shard x and
    keys over devices. Compile time and memory do not grow with the number of rows.

    Args:
        plan: The table; its coefficients may be traced.
        denoise: Called once per row.
        x: Noise to start from, [B, ...]. Carried in float32, or float64 where it is that.
        keys: Keys of the pictures, [B]; z_i of a picture is drawn with fold_in(key, i), and so
            does not depend on what else is in the batch.
        on_step: Told the index of each row when it is done, while the program runs.

    Returns:
        x_N, [B, ...], of the dtype that x was carried in.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x = x.astype(dtype)
    table = jax.tree.map(lambda column: jnp.asarray(column, dtype), plan)
    older = tuple(jnp.zeros_like(x) for _ in range(plan.history - 1))

    def step(carry, row):
        x, older = carry
        i, row = row
        prediction = denoise(x, Point(row.t, row.alpha, row.sigma))
        history = (getattr(prediction, plan.space).astype(dtype), *older)
        z = gaussian(jax.vmap(jax.random.fold_in, (0, None))(keys, i), x.shape[1:], dtype)
        x = update(row, x, history, z)
        if on_step is not None:
            jax.debug.callback(on_step, i)
        return (x, history[: len(older)]), None

    (x, _), _ = jax.lax.scan(step, (x, older), (jnp.arange(plan.nfe), table))
    return x


def update(row: Plan, x: jax.Array, history: tuple[jax.Array, ...], z: jax.Array) -> jax.Array:
    """One row of a plan: the point that follows x, given the last K predictions, newest first."""
    x_next = row.keep * x + row.noise * z
    for weight, m in zip(row.mix, history, strict=True):
        x_next = x_next + weight * m
    return x_next


def starting_noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What every plan starts the pictures of `keys` [B] from: N(0, I), float32 [B, *shape]."""
    return gaussian(jax.vmap(jax.random.fold_in, (0, None))(keys, START), shape, jnp.float32)


def gaussian(keys: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Independent N(0, I) of one shape for each key, [B, *shape]."""
    z = jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)
    # Fused into what uses it, z may round otherwise in the last bit, from program to program.
    return jax.lax.optimization_barrier(z)
