"""The update kernel and the only scan: a plan, a denoiser and noise give pictures."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from skipjax.denoisers import Denoise, Point, Prediction, steered
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
    noise: jax.Array | None = None,
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
        noise: z_i itself, [N, B, ...], to be used instead of drawing it: for comparing with what
            other programs make of the same noise.
        on_step: Told the index of each row when it is done, while the program runs.

    Returns:
        x_N, [B, ...], of the dtype that x was carried in.

    Raises:
        ValueError: If the plan asks for a learned variance, and the denoiser predicts none.
    """

    def on_row(i: jax.Array, _: jax.Array) -> None:
        if on_step is not None:
            jax.debug.callback(on_step, i)

    return _run(plan, denoise, x, keys, noise, on_row)[0]


def trajectory(
    plan: Plan,
    denoise: Denoise,
    x: jax.Array,
    keys: jax.Array,
    *,
    noise: jax.Array | None = None,
) -> jax.Array:
    """Every point that a sampler comes to: x_1 .. x_N, [N, B, ...]. Otherwise as `integrate`."""
    return _run(plan, denoise, x, keys, noise, lambda _, x: x)[1]


def _run(
    plan: Plan,
    denoise: Denoise,
    x: jax.Array,
    keys: jax.Array,
    noise: jax.Array | None,
    on_row: Callable[[jax.Array, jax.Array], Any],
) -> tuple[jax.Array, Any]:
    """x_N, and what `on_row` made of the index of each row and the point that it led to."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x = x.astype(dtype)
    table = jax.tree.map(lambda column: jnp.asarray(column, dtype), plan)

    def step(carry, row):
        i, row, z = row
        carry = advance(carry, row, i, denoise, keys, z)
        return carry, on_row(i, carry[0])

    rows = jnp.arange(plan.nfe), table, noise
    (x, _), found = jax.lax.scan(step, (x, no_history(plan, x)), rows)
    return x, found


def no_history(plan: Plan, x: jax.Array) -> tuple[jax.Array, ...]:
    """What stands for the K - 1 predictions before the first: their weights are 0."""
    return tuple(jnp.zeros_like(x) for _ in range(plan.history - 1))


def advance(
    carry: tuple[jax.Array, tuple[jax.Array, ...]],
    row: Plan,
    i: jax.Array,
    denoise: Denoise,
    keys: jax.Array,
    z: jax.Array | None = None,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """A step of `integrate`: calls the network at x_i, and goes on to x_{i+1}.

    Args:
        carry: x_i [B, ...], and the K - 1 predictions before, newest first.
        row: Row i of the plan.
        i: Its index.
        denoise: Called once.
        keys: Keys of the pictures, [B].
        z: Fresh noise; drawn with fold_in(key, i), unless told.

    Returns:
        x_{i+1}, and the K - 1 newest predictions.
    """
    x, older = carry
    prediction = denoise(x, Point(row.t, row.alpha, row.sigma))
    m = _asked(row, prediction).astype(x.dtype)
    if z is None:
        z = gaussian(jax.vmap(jax.random.fold_in, (0, None))(keys, i), x.shape[1:], x.dtype)
    history = (m, *older)
    moved = update(row, x, history, z, variance(row, prediction), prediction.gradient)
    return moved.astype(x.dtype), history[: len(older)]


def update(
    row: Plan,
    x: jax.Array,
    history: tuple[jax.Array, ...],
    z: jax.Array,
    variance: jax.Array | None = None,
    gradient: jax.Array | None = None,
) -> jax.Array:
    """One row of a plan: the point that follows x.

    Args:
        row: The coefficients.
        x: The point, [B, ...].
        history: The last K predictions, newest first, each [B, ...].
        z: Fresh noise, [B, ...].
        variance: S^2 where the network learns it, [B, ...].
        gradient: What guides, [B, ...].
    """
    x_next = row.keep * x
    for weight, m in zip(row.mix, history, strict=True):
        x_next = x_next + weight * m
    if variance is not None:
        z = jnp.sqrt(variance) * z
    x_next = x_next + row.noise * z
    if gradient is not None and row.shift is not None:
        shift = gradient if variance is None else variance * gradient
        x_next = x_next + row.shift * shift
    return x_next


def _asked(row: Plan, prediction: Prediction) -> jax.Array:
    """What the table multiplies, with the guidance that the row wants in it."""
    point = Point(row.t, row.alpha, row.sigma)
    steer = 1.0 if row.steer is None else row.steer
    return getattr(steered(prediction, point, steer), row.space)


def variance(row: Plan, prediction: Prediction) -> jax.Array | None:
    """S^2 of each pixel: its log lies between the row's bounds, where the network says."""
    if row.log_variance is None:
        return None
    if prediction.place is None:
        raise ValueError(
            "the plan asks for a learned variance, and the network predicts none: write the plan "
            "with variance 'small' or 'large'"
        )
    small, large = row.log_variance
    return jnp.exp(small + (prediction.place + 1) / 2 * (large - small))


def starting_noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What every plan starts the pictures of `keys` [B] from: N(0, I), float32 [B, *shape]."""
    return gaussian(jax.vmap(jax.random.fold_in, (0, None))(keys, START), shape, jnp.float32)


def gaussian(keys: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Independent N(0, I) of one shape for each key, [B, *shape]."""
    z = jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)
    # Fused into what uses it, z may round otherwise in the last bit, from program to program.
    return jax.lax.optimization_barrier(z)
