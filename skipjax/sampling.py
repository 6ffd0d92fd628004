"""The update kernel and the only scan: a plan, a denoiser and noise give pictures."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import io_callback

from skipjax.checks import whole
from skipjax.denoisers import Denoise, Point, Prediction, steered
from skipjax.plans import Plan

# Folded into a picture's key for its starting noise; steps fold in 0 .. N-1. Every plan thereby
# starts a picture from the same noise, however many steps it takes.
START = 2**32 - 1


class Step(NamedTuple):
    """What is told of a row when its network call is done.

    Attributes:
        row: Index of the row in its plan, 0 .. N-1.
        x: The point at which the network was called, x_i, [B, ...].
        prediction: What the denoiser said there.
        moved: x_{i+1}, [B, ...].
    """

    row: jax.Array
    x: jax.Array
    prediction: Prediction
    moved: jax.Array


Carry = tuple[jax.Array, tuple[jax.Array, ...]]  # x_i; the K - 1 predictions before, newest first
# (row i of the plan, its point, x_i [B, ...], keys [B]) -> x_i to go on from, pure.
Between = Callable[[Plan, Point, jax.Array, jax.Array], jax.Array]
Callback = Callable[[Any, Any, Any], None]


def integrate(
    plan: Plan,
    denoise: Denoise,
    x: jax.Array,
    keys: jax.Array,
    *,
    noise: jax.Array | None = None,
    between: Between | None = None,
    callback: Callback | None = None,
    on_step: Callable[[jax.Array], None] | None = None,
    first: int = 0,
) -> jax.Array:
    """Runs a sampler: x_{i+1} = keep_i x_i + sum_j mix_ij m_{i-j} + noise_i z_i.

    Pure and traceable: `jit` it, `vmap` it over plans of one shape, differentiate it, shard x and
    keys over devices. Compile time and memory do not grow with the number of rows.

    Args:
        plan: The table; its coefficients may be traced.
        denoise: Called once per row.
        x: The point of row `first`, noise for the first of all, [B, ...]. Carried in float32, or
            float64 where it is that.
        keys: Keys of the samples, [B]; z_i of a sample is drawn with fold_in(key, i), and so
            does not depend on what else is in the batch.
        noise: z_i itself, [N, B, ...], to be used instead of drawing it: for comparing with what
            other programs make of the same noise.
        between: A pure function of a row, its point, x and the keys (fold_in(key, i) of each) that
            gives the x at which the network is called.
        callback: Told i, x_i and the `Prediction` there, as arrays on the host.
        on_step: Told the index of each row when it is done, while the program runs.
        first: The row to begin with, 0 .. N-1. Predictions from before it are not known: the
            oldest that is stands for them, so that the first step is of first order.

    Returns:
        x_N, [B, ...], of the dtype that x was carried in.

    Raises:
        TypeError: If `denoise` is no function, or `keys` are not typed keys.
        ValueError: If the plan asks for a learned variance, and the denoiser predicts none; or
            shapes or `first` do not fit.
    """

    def on_row(step: Step) -> None:
        if on_step is not None:
            jax.debug.callback(on_step, step.row)
        if callback is not None:
            told = (step.row, step.x, step.prediction)
            io_callback(callback, None, *told)

    return run(plan, denoise, x, keys, noise=noise, between=between, first=first, on_row=on_row)[0]


def trajectory(
    plan: Plan,
    denoise: Denoise,
    x: jax.Array,
    keys: jax.Array,
    *,
    noise: jax.Array | None = None,
) -> jax.Array:
    """Every point that a sampler comes to: x_1 .. x_N, [N, B, ...]. Arguments and errors are those
    of `integrate`.
    """
    return run(plan, denoise, x, keys, noise=noise, on_row=lambda step: step.moved)[1]


def run(
    plan: Plan,
    denoise: Denoise,
    x: jax.Array,
    keys: jax.Array,
    *,
    noise: jax.Array | None = None,
    between: Between | None = None,
    first: int = 0,
    on_row: Callable[[Step], Any] = lambda step: None,
) -> tuple[jax.Array, Any]:
    """The scan: x_N, and what `on_row` made of each `Step`, stacked [N - first, ...].

    Arguments and errors are those of `integrate`.
    """
    x = jnp.asarray(x)
    _check(plan, denoise, x, keys, first)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x = x.astype(dtype)
    table = jax.tree.map(lambda column: jnp.asarray(column, dtype), plan.replace(prior_std=None))
    if first:
        table, noise = _from_row(table, first), None if noise is None else noise[first:]

    def step(carry: Carry, rows: tuple[jax.Array, Plan, jax.Array | None]) -> Any:
        i, row, z = rows
        x, older = carry
        if between is not None:
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
            x = between(row, Point(row.t, row.alpha, row.sigma), x, own).astype(dtype)
        carry, prediction = advance((x, older), row, i, denoise, keys, z)
        return carry, on_row(Step(i, x, prediction, carry[0]))

    rows = jnp.arange(first, plan.nfe), table, noise
    (x, _), found = jax.lax.scan(step, (x, no_history(plan, x)), rows)
    return x, found


def _from_row(table: Plan, first: int) -> Plan:
    """The rows from `first` on; where they look back further, the oldest prediction that there is
    takes the weight of those that are not.
    """
    table = jax.tree.map(lambda column: column[first:], table)
    mix = table.mix
    for i in range(min(table.history - 1, mix.shape[0])):
        mix = mix.at[i, i].set(mix[i, i:].sum()).at[i, i + 1 :].set(0)
    return table.replace(mix=mix)


def _check(plan: Plan, denoise: Any, x: Any, keys: Any, first: int) -> None:
    if not isinstance(plan, Plan):
        raise TypeError(
            f"plan is a {type(plan).__name__}: give a Plan, such as skipjax.plans.ddim(...)"
        )
    if not callable(denoise):
        raise TypeError(
            f"denoise is a {type(denoise).__name__}: give a denoiser, such as "
            "skipjax.denoiser(params, condition), or denoisers.from_eps(function)"
        )
    if not jnp.issubdtype(getattr(keys, "dtype", jnp.float32), jax.dtypes.prng_key):
        raise TypeError(
            "keys are none, or of the legacy kind: give jax.random.split(jax.random.key(0), B)"
        )
    if keys.shape != x.shape[:1]:
        raise ValueError(
            f"keys are of shape {keys.shape} for x of {x.shape}: give one for each sample, such "
            "as jax.random.split(key, len(x))"
        )
    whole("first", first, 0, plan.nfe - 1)


def no_history(plan: Plan, x: jax.Array) -> tuple[jax.Array, ...]:
    """What stands for the K - 1 predictions before the first: their weights are 0."""
    return tuple(jnp.zeros_like(x) for _ in range(plan.history - 1))


def advance(
    carry: Carry,
    row: Plan,
    i: jax.Array,
    denoise: Denoise,
    keys: jax.Array,
    z: jax.Array | None = None,
) -> tuple[Carry, Prediction]:
    """A step of `integrate`: calls the network at x_i, and goes on to x_{i+1}.

    Args:
        carry: x_i [B, ...], and the K - 1 predictions before, newest first.
        row: Row i of the plan.
        i: Its index.
        denoise: Called once.
        keys: Keys of the pictures, [B].
        z: Fresh noise; default: drawn with fold_in(key, i).

    Returns:
        x_{i+1} with the K - 1 newest predictions, and what the denoiser said.
    """
    x, older = carry
    prediction = denoise(x, Point(row.t, row.alpha, row.sigma))
    if not isinstance(prediction, Prediction):
        raise TypeError(
            f"denoise gives a {type(prediction).__name__}: it must give a Prediction, as "
            "denoisers.from_eps(function) does of a function that gives eps"
        )
    m = guided(row, prediction).astype(x.dtype)
    if z is None:
        z = gaussian(jax.vmap(jax.random.fold_in, (0, None))(keys, i), x.shape[1:], x.dtype)
    history = (m, *older)
    moved = update(row, x, history, z, variance(row, prediction), prediction.gradient)
    if row.excess is not None and prediction.excess is not None:
        moved = moved + row.excess * prediction.excess
    return (moved.astype(x.dtype), history[: len(older)]), prediction


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
    if gradient is not None and row.guide_mean is not None:
        shift = gradient if variance is None else variance * gradient
        x_next = x_next + row.guide_mean * shift
    return x_next


def guided(row: Plan, prediction: Prediction) -> jax.Array:
    """What the table multiplies, with the guidance that the row wants in it."""
    point = Point(row.t, row.alpha, row.sigma)
    guide_eps = 1.0 if row.guide_eps is None else row.guide_eps
    return getattr(steered(prediction, point, guide_eps), row.space)


def variance(row: Plan, prediction: Prediction) -> jax.Array | None:
    """S^2 of each pixel: its log lies between the row's bounds, where the network says."""
    if row.log_variance is None:
        return None
    if prediction.log_variance is None:
        raise ValueError(
            "the plan asks for a learned variance, and the network predicts none: write the plan "
            "with variance 'small' or 'large'"
        )
    small, large = row.log_variance
    return jnp.exp(small + (prediction.log_variance + 1) / 2 * (large - small))


def starting_noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What every plan starts the pictures of `keys` [B] from: N(0, I), float32 [B, *shape]."""
    return gaussian(jax.vmap(jax.random.fold_in, (0, None))(keys, START), shape, jnp.float32)


def gaussian(keys: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Independent N(0, I) of one shape for each key, [B, *shape]."""

    z = jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)
    # Fused into what uses it, z may round otherwise in the last bit, from program to program.
    return jax.lax.optimization_barrier(z)
