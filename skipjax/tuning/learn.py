"""Fits the numbers of a plan, through `integrate`, by Levenberg and Marquardt's method.

A plan has a few dozen numbers and an error of thousands of values, whose derivatives by every
number are as many tangents, each about as dear as a call. Near its optimum numbers depend on each
other strongly: descent by gradients alone goes there slowly, and this method does not.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from skipjax.plans import Plan
from skipjax.tuning.examples import Denoiser, Examples, Features, pixels, residuals
from skipjax.tuning.free import Frame, Free, plan

ABREAST = 8  # tangents computed together
TRIES = 8  # of smaller steps, before a round is the last
LEAST_GAIN = 1e-3  # of the error, relative, below which a round is the last


class Learned(NamedTuple):
    """What came of it.

    Attributes:
        numbers: Those of least error on the examples that decide.
        learned: Error on the examples that were learned from, at first and after every round.
        decided: Error on the examples that decide, likewise.
        calls: Network calls spent, for one picture each; a tangent counts as one.
    """

    numbers: Free
    learned: list[float]
    decided: list[float]
    calls: int


def learn(
    denoiser: Denoiser,
    numbers: Free,
    frame: Frame,
    space: str,
    train: Examples,
    decide: Examples,
    *,
    features: Features = pixels,
    rounds: int = 10,
    batch: int = 256,
    on_round: Callable[[int, float], None] | None = None,
) -> Learned:
    """Makes the squared distance between features and target small, over all examples at once.

    Args:
        denoiser: Of the network.
        numbers: To start from.
        frame: In which they are a plan.
        space: What the plan's predictions are.
        train: What is learned from.
        decide: What tells which round was the best.
        features: What pictures are compared in.
        rounds: At most.
        batch: Pictures at a time.
        on_round: Told the number of rounds done, and the error on `decide`.

    Returns:
        The best numbers on the way. A step to where anything is not finite is not taken.
    """
    dtype = jnp.promote_types(train.x.dtype, jnp.float32)
    flat, unravel = ravel_pytree(jax.tree.map(lambda a: jnp.asarray(a, dtype), numbers))
    flat, free = np.asarray(flat, np.float64), np.flatnonzero(_matters(numbers))
    frame = jax.tree.map(lambda a: jnp.asarray(a, dtype), frame)
    parts, others = train.batches(batch), decide.batches(batch)
    weights = _weights(train, parts), _weights(decide, others)
    nfe, spent = len(frame.noise), 0

    def cost(flat: np.ndarray, parts: list[Examples], weights: list[np.ndarray]) -> float:
        """Mean square over all examples."""
        nonlocal spent
        spent += nfe * sum(len(weight) for weight in weights)
        at = plan(unravel(jnp.asarray(flat, dtype)), frame, space)
        sums = [_cost(denoiser, at, *pair, features) for pair in zip(parts, weights, strict=True)]
        return float(np.sum(jax.device_get(sums), dtype=np.float64))

    now, damping = cost(flat, parts, weights[0]), 1e-2
    best, learned, decided = flat, [now**0.5], [cost(flat, others, weights[1]) ** 0.5]
    for done in range(1, rounds + 1):
        at = jnp.asarray(flat, dtype)
        sums = [
            _normal(denoiser, at, free, frame, *pair, space, features, unravel)
            for pair in zip(parts, weights[0], strict=True)
        ]
        spent += nfe * len(train.x) * (len(free) + -(-len(free) // ABREAST))
        matrices, slopes = zip(*jax.device_get(sums), strict=True)
        matrix = np.asarray(np.sum(matrices, axis=0, dtype=np.float64))
        slope = np.asarray(np.sum(slopes, axis=0, dtype=np.float64))
        step = _descent(matrix, slope, damping)
        for _ in range(TRIES):
            after = flat.copy()
            after[free] += step
            then = cost(after, parts, weights[0])
            if then < now:
                break
            damping *= 4
            step = _descent(matrix, slope, damping)
        else:
            break
        gain, flat, now, damping = 1 - then / now, after, then, max(damping / 6, 1e-9)
        learned.append(now**0.5)
        decided.append(cost(flat, others, weights[1]) ** 0.5)
        if decided[-1] <= min(decided):
            best = flat
        if on_round is not None:
            on_round(done, decided[-1])
        if gain < LEAST_GAIN:
            break
    found = jax.tree.map(np.float64, unravel(jnp.asarray(best, dtype)))
    return Learned(found, learned, decided, spent)


def _matters(numbers: Free) -> np.ndarray:
    """Which numbers make a difference: no prediction is older than the first."""
    rows, history = numbers.mix.shape
    there = np.arange(rows)[:, None] >= np.arange(history)
    is_free = Free(np.ones(rows), np.ones(rows), there.astype(float))
    return np.asarray(ravel_pytree(is_free)[0])


def _weights(examples: Examples, parts: list[Examples]) -> list[np.ndarray]:
    """Share of each picture in the mean; 0 of those that fill the last batch."""
    num, size = len(examples.x), len(parts[0].x)
    there = np.arange(len(parts) * size) < num
    return list((there / num).reshape(-1, size).astype(np.float32))


def _descent(matrix: np.ndarray, slope: np.ndarray, damping: float) -> np.ndarray:
    diagonal = np.diag(matrix)
    return np.linalg.solve(matrix + damping * np.diag(diagonal + 1e-9 * diagonal.max()), -slope)


@partial(jax.jit, static_argnames="features")
def _cost(
    denoiser: Denoiser, at: Plan, examples: Examples, weight: Any, features: Features
) -> jax.Array:
    off = residuals(denoiser, at, examples, features)
    return jnp.square(off).mean(axis=1) @ weight.astype(off.dtype)


@partial(jax.jit, static_argnames=("space", "features", "unravel"))
def _normal(
    denoiser: Denoiser,
    flat: jax.Array,
    free: jax.Array,
    frame: Frame,
    examples: Examples,
    weight: Any,
    space: str,
    features: Features,
    unravel: Callable[[jax.Array], Free],
) -> tuple[jax.Array, jax.Array]:
    """J^T J and J^T r of the residuals r, J their derivatives by the numbers that are free."""

    def weighted(numbers: jax.Array) -> jax.Array:
        at = plan(unravel(flat.at[free].set(numbers)), frame, space)
        off = residuals(denoiser, at, examples, features)
        share = weight.astype(off.dtype) / off.shape[1]
        return (jnp.sqrt(share)[:, None] * off).ravel()

    here = flat[free]

    def along(tangent: jax.Array) -> jax.Array:
        return jax.jvp(weighted, (here,), (tangent,))[1]

    axes = jnp.eye(len(free), dtype=flat.dtype)
    derivatives = jax.lax.map(along, axes, batch_size=ABREAST)
    product = partial(jnp.matmul, precision="highest")
    return product(derivatives, derivatives.T), product(derivatives, weighted(here))
