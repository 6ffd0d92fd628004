"""Fits the numbers of a plan, through its points, by Levenberg and Marquardt's method.

A plan has a few dozen numbers. Near its optimum they depend on each other strongly: descent by
gradients alone goes there slowly, and steps that are measured by how far the pictures move do not.
That metric, J^T J with J the derivatives of the pictures by the numbers, is estimated by drawing
some v with E[v v^T] = 1 for each picture and pulling them back, J^T v, together with the gradient
of the loss; it costs a few calls for each of a plan's, however many numbers it has, and remembers
points, not what the network computed (Hutchinson's estimate, of a matrix). To try a step costs one
call, so each round tries several, of more damping and less.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from skipjax.plans import Plan
from skipjax.tuning.examples import Denoiser, Examples, Features, pixels
from skipjax.tuning.free import Frame, Free, plan
from skipjax.tuning.loss import Loss, path
from skipjax.tuning.seen import PROBES, normal, seen

TRIES = 8  # steps of a round, at most
FACTOR = 4  # by which their damping differs
LEAST_DAMPING = 1e-9
LEAST_GAIN = 1e-3  # of the error, relative, below which a round is the last

# What a plan draws, what that should be, [M, values] of each, and the error.
Drawn = tuple[np.ndarray, np.ndarray, float]


class Learned(NamedTuple):
    """What came of it.

    Attributes:
        numbers: Those of least error on the examples that decide.
        learned: Error on the examples that were learned from, at first and after every round.
        decided: Error on the examples that decide, likewise.
        calls: Network calls spent, for one picture each; to pull a vector back counts as one.
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
    fixed: tuple[str, ...] = ("turn",),
    loss: Loss = path,
    features: Features = pixels,
    way: float = 0.0,
    rounds: int = 10,
    batch: int = 256,
    on_round: Callable[[int, float], None] | None = None,
) -> Learned:
    """Makes the loss small, over all examples at once.

    Args:
        denoiser: Of the network.
        numbers: To start from.
        frame: In which they are a plan.
        space: What the plan's predictions are.
        train: What is learned from.
        decide: What tells which round was the best.
        fixed: Fields of the numbers that stay as they are.
        loss: What is made small.
        features: What pictures are compared in.
        way: Weight of the points on the way, where the examples say how the teacher came.
        rounds: At most.
        batch: Pictures at a time.
        on_round: Told the number of rounds done, and the error on `decide`.

    Returns:
        The best numbers on the way. A step to where anything is not finite is not taken.
    """
    dtype = jnp.promote_types(train.x.dtype, jnp.float32)
    flat, unravel = ravel_pytree(jax.tree.map(lambda a: jnp.asarray(a, dtype), numbers))
    flat, free = np.asarray(flat, np.float64), np.flatnonzero(_matters(numbers, fixed))
    made = _Made(jax.tree.map(lambda a: jnp.asarray(a, dtype), frame), space, unravel)
    sets = {True: train.batches(batch), False: decide.batches(batch)}
    nfe, spent = len(frame.steer), 0

    def drawn(flat: np.ndarray, learning: bool) -> Drawn:
        nonlocal spent
        whole = train if learning else decide
        spent += nfe * len(whole.x)
        at = made.plan(jnp.asarray(flat, dtype))
        found = [seen(denoiser, at, part, way, features) for part in sets[learning]]
        values = np.concatenate(jax.device_get(found))[: len(whole.x)]
        wanted = np.asarray(whole.target).reshape(len(whole.x), -1)
        # What is seen of the way is how far it is off.
        beyond = np.zeros((len(wanted), values.shape[1] - wanted.shape[1]), wanted.dtype)
        wanted = np.concatenate([wanted, beyond], axis=1)
        return values, wanted, loss.error(values, wanted)

    def downhill(flat: np.ndarray, now: Drawn) -> tuple[np.ndarray, Drawn, float] | None:
        """The best of some steps, of more damping and less; None if none makes the error less."""
        nonlocal spent
        gradient, weight = loss.gradient(*now[:2])
        columns, by_numbers = made.derived(jnp.asarray(flat, dtype), free)
        keys = jax.random.split(jax.random.key(len(learned)), len(sets[True]))
        parts = zip(sets[True], _padded(gradient.astype(dtype), batch), keys, strict=True)
        found = [normal(denoiser, columns, by_numbers, *part, way, features) for part in parts]
        spent += nfe * len(train.x) * (2 + PROBES + 1)
        matrix, slope = (
            np.asarray(np.sum(sums, axis=0, dtype=np.float64))
            for sums in zip(*jax.device_get(found), strict=True)
        )
        matrix *= weight
        if not np.isfinite(matrix).all() or not matrix.any():  # nothing is left to learn from
            return None
        best, least, tried, factor = None, now[-1], damping, 1 / FACTOR
        for _ in range(TRIES):
            after = flat.copy()
            after[free] += _descent(matrix, slope, tried)
            then = drawn(after, True)
            if then[-1] < least:
                best, least = (after, then, tried), then[-1]
            elif best is None:
                factor = FACTOR
            else:
                break
            tried = max(tried * factor, LEAST_DAMPING)
        return best

    now, damping = drawn(flat, True), 1e-2
    best, learned, decided = flat, [now[-1]], [drawn(flat, False)[-1]]
    while len(learned) <= rounds and np.isfinite(learned[-1]):
        found = downhill(flat, now)
        if found is None:
            break
        flat, now, damping = found
        learned.append(now[-1])
        decided.append(drawn(flat, False)[-1])
        if decided[-1] <= min(decided):
            best = flat
        if on_round is not None:
            on_round(len(learned) - 1, decided[-1])
        if learned[-2] - learned[-1] < LEAST_GAIN * abs(learned[-2]):
            break
    numbers = jax.tree.map(np.float64, unravel(jnp.asarray(best, dtype)))
    return Learned(numbers, learned, decided, spent)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["frame"],
    meta_fields=["space", "unravel"],
)
@dataclass(frozen=True)
class _Made:
    """How numbers become a plan."""

    frame: Frame
    space: str
    unravel: Callable[[jax.Array], Free]

    @jax.jit
    def plan(self, flat: jax.Array) -> Plan:
        """The plan of some numbers."""
        return plan(self.unravel(flat), self.frame, self.space)

    @jax.jit
    def derived(self, flat: jax.Array, free: jax.Array) -> tuple[Plan, Plan]:
        """The plan, and the derivatives of its columns by the numbers that are free."""

        def columns(numbers: jax.Array) -> Plan:
            return self.plan(flat.at[free].set(numbers))

        return columns(flat[free]), jax.jacfwd(columns)(flat[free])


def _matters(numbers: Free, fixed: tuple[str, ...]) -> np.ndarray:
    """Which numbers make a difference: no prediction is older than the first, and the last step
    adds no noise.
    """
    rows, history = numbers.mix.shape
    free = {name: np.full(rows, float(name not in fixed)) for name in Free._fields}
    there = np.arange(rows)[:, None] >= np.arange(history)
    free["mix"] = free["mix"][:, None] * there
    free["turn"][-1] = 0
    return np.asarray(ravel_pytree(Free(**free))[0])


def _padded(values: np.ndarray, batch: int) -> list[np.ndarray]:
    """`batch` rows at a time, those that fill the last batch 0."""
    values = np.pad(values, ((0, -len(values) % batch), (0, 0)))
    return list(values.reshape(-1, batch, values.shape[1]))


def _descent(matrix: np.ndarray, slope: np.ndarray, damping: float) -> np.ndarray:
    diagonal = np.diag(matrix)
    return np.linalg.solve(matrix + damping * np.diag(diagonal + 1e-9 * diagonal.max()), -slope)
