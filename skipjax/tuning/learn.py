"""Fits the numbers of a plan, through its points, by Levenberg and Marquardt's method.

A plan has a few dozen numbers. Near its optimum they depend on each other strongly: descent by
gradients alone goes there slowly, and steps that are measured by how far the samples move do not.
That metric, J^T J with J the derivatives of the samples by the numbers, is estimated by drawing
some v with E[v v^T] = 1 for each sample and pulling them back, J^T v, together with the gradient
of the loss; it costs a few calls for each of a plan's, however many numbers it has, and remembers
points, not what the network computed (Hutchinson's estimate, of a matrix). To try a step costs one
call, so each iteration tries several, of more damping and less.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.tuning.config import Objective, TuneConfig
from skipjax.tuning.examples import Denoiser, Examples
from skipjax.tuning.gauss_newton import PROBES, normal_equations, observe
from skipjax.tuning.parametrization import Frame, Numbers

TRIES = 8  # steps of an iteration, at most
FACTOR = 4  # by which their damping differs
FIRST_DAMPING, LEAST_DAMPING = 1e-2, 1e-9
LEAST_GAIN = 1e-3  # of the error, relative, below which an iteration is the last


class Learned(NamedTuple):
    """What came of it.

    Attributes:
        numbers: Those of least error on the examples that decide.
        learned: Error on the examples that were learned from, at first and after every iteration.
        decided: Error on the examples that decide, likewise.
        calls: Network calls spent, for one sample each; to pull a vector back counts as one.
    """

    numbers: Numbers
    learned: list[float]
    decided: list[float]
    calls: int


class _Drawn(NamedTuple):
    """What is observed of a plan, what that should be, [M, values] of each, and the error."""

    values: np.ndarray
    wanted: np.ndarray
    error: float


class _Step(NamedTuple):
    """Where a step leads to, and its damping."""

    flat: np.ndarray
    drawn: _Drawn
    damping: float


def learn(
    denoiser: Denoiser,
    numbers: Numbers,
    frame: Frame,
    train: Examples,
    decide: Examples,
    objective: Objective,
    config: TuneConfig,
    on_round: Callable[[int, float], None] | None = None,
) -> Learned:
    """Makes the loss small, over all examples at once.

    Args:
        denoiser: Of the network.
        numbers: To start from.
        frame: In which they are a plan.
        train: What is learned from.
        decide: What tells which iteration was the best.
        objective: What is made small.
        config: How many iterations, in what batches, and what stays as it is.
        on_round: Told the number of iterations done, and the error on `decide`.

    Returns:
        The best numbers on the way. A step to where anything is not finite is not taken.
    """
    fit = _Fit(denoiser, frame, objective, config.batch, train)
    chosen = np.flatnonzero(_matters(numbers, config.learns_noise(objective), config.whole_times))
    flat = numbers.flat().astype(fit.dtype).astype(np.float64)
    now = best = _Step(flat, fit.draw(flat, train), FIRST_DAMPING)
    learned, decided = [now.drawn.error], [fit.draw(flat, decide).error]
    while len(learned) <= config.max_iters and np.isfinite(learned[-1]):
        found = fit.descend(now, chosen, jax.random.key(len(learned)))
        if found is None:
            break
        now = found
        learned.append(now.drawn.error)
        decided.append(fit.draw(now.flat, decide).error)
        if decided[-1] <= min(decided):
            best = now
        if on_round is not None:
            on_round(len(learned) - 1, decided[-1])
        if learned[-2] - learned[-1] < LEAST_GAIN * abs(learned[-2]):
            break
    flat = best.flat.astype(fit.dtype).astype(np.float64)
    return Learned(Numbers.of_flat(flat, frame.nfe), learned, decided, fit.calls)


class _Fit:
    """What draws with the plan of some numbers, and goes downhill; counts the network's calls."""

    def __init__(
        self,
        denoiser: Denoiser,
        frame: Frame,
        objective: Objective,
        batch: int,
        train: Examples,
    ):
        self.dtype = np.dtype(jnp.promote_types(train.x.dtype, jnp.float32))
        self.calls = 0
        self._denoiser, self._batch, self._loss = denoiser, batch, objective.measure
        self._observed = objective.path_weight, objective.features
        self._frame = jax.tree.map(lambda a: jnp.asarray(a, self.dtype), frame)
        self._train, self._parts = train, train.batches(batch)

    def draw(self, flat: np.ndarray, examples: Examples) -> _Drawn:
        """What the plan of some numbers draws."""
        num = len(examples.x)
        parts = self._parts if examples is self._train else examples.batches(self._batch)
        self.calls += self._frame.nfe * num
        plan = self._frame.plan(jnp.asarray(flat, self.dtype))
        found = [observe(self._denoiser, plan, part, *self._observed) for part in parts]
        values = np.concatenate(jax.device_get(found))[:num]
        wanted = np.asarray(examples.target).reshape(num, -1)
        # What is observed of the path is how far it is off.
        beyond = np.zeros((num, values.shape[1] - wanted.shape[1]), wanted.dtype)
        wanted = np.concatenate([wanted, beyond], axis=1)
        return _Drawn(values, wanted, self._loss.error(values, wanted))

    def descend(self, now: _Step, chosen: np.ndarray, key: jax.Array) -> _Step | None:
        """The best of some steps, of more damping and less; None if none makes the error less."""
        matrix, slope = self._normal_equations(now, chosen, key)
        if not np.isfinite(matrix).all() or not matrix.any():  # nothing is left to learn from
            return None
        best, damping, factor = None, now.damping, 1 / FACTOR
        for _ in range(TRIES):
            flat = now.flat.copy()
            flat[chosen] += _solve(matrix, slope, damping)
            then = self.draw(flat, self._train)
            if then.error < (best or now).drawn.error:
                best = _Step(flat, then, damping)
            elif best is None:
                factor = FACTOR
            else:
                break
            damping = max(damping * factor, LEAST_DAMPING)
        return best

    def _normal_equations(
        self, now: _Step, chosen: np.ndarray, key: jax.Array
    ) -> tuple[np.ndarray, np.ndarray]:
        """The metric in which the loss is to be measured, and its gradient, float64."""
        gradient, weight = self._loss.gradient(now.drawn.values, now.drawn.wanted)
        padded = np.pad(gradient.astype(self.dtype), ((0, -len(gradient) % self._batch), (0, 0)))
        gradients = padded.reshape(-1, self._batch, padded.shape[1])
        plan, by_numbers = self._frame.derivatives(jnp.asarray(now.flat, self.dtype), chosen)
        keys = jax.random.split(key, len(self._parts))
        found = [
            normal_equations(self._denoiser, plan, by_numbers, *part, *self._observed)
            for part in zip(self._parts, gradients, keys, strict=True)
        ]
        self.calls += self._frame.nfe * len(self._train.x) * (2 + PROBES + 1)
        matrix, slope = (
            np.asarray(np.sum(sums, axis=0, dtype=np.float64))
            for sums in zip(*jax.device_get(found), strict=True)
        )
        return matrix * weight, slope


def _matters(numbers: Numbers, noise: bool, whole_times: bool) -> np.ndarray:
    """Which numbers are learned, of those that make a difference: no prediction is older than the
    first, and the last step adds no noise.
    """
    rows, history = numbers.mix.shape
    there = np.arange(rows)[:, None] >= np.arange(history)
    turn = np.full(rows, noise)
    turn[-1] = False
    return Numbers(np.full(rows, not whole_times), turn, np.full(rows, True), there).flat()


def _solve(matrix: np.ndarray, slope: np.ndarray, damping: float) -> np.ndarray:
    diagonal = np.diag(matrix)
    return np.linalg.solve(matrix + damping * np.diag(diagonal + 1e-9 * diagonal.max()), -slope)
