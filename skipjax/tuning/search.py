"""From the best of the fixed plans to one that is learned, and the decision between the two."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from skipjax.checks import whole
from skipjax.plans import Origin, Plan
from skipjax.schedules import Schedule
from skipjax.tuning.examples import Denoiser, Examples, Features, pixels, rmse, squares
from skipjax.tuning.fixed import fixed, ranked
from skipjax.tuning.free import Frame, Free, free, written
from skipjax.tuning.learn import learn

OnRound = Callable[[str, int, float], None]


class Outcome(NamedTuple):
    """What a search came to.

    Attributes:
        plan: The learned one if it won, otherwise the best of the fixed.
        won: Whether the learned plan is better on the examples that nothing was chosen by: its
            squared error is less by more than two standard errors of the difference.
        learned: The learned plan; None where no fixed plan of the search can be learned from.
        fixed: The best fixed plans by the examples that decide, best first.
        errors: Root mean square of the features - target on the held-out examples, of the
            learned and of the best fixed plan.
        difference: Mean of the learned plan's squares less the fixed plan's there, and its
            standard error.
        rounds: Error on the examples that decide, at first and after every round.
        calls: Network calls spent, for one picture each.
        seconds: Time that it took.
    """

    plan: Plan
    won: bool
    learned: Plan | None
    fixed: list[Plan]
    errors: tuple[float, float]
    difference: tuple[float, float]
    rounds: list[float]
    calls: int
    seconds: float


def search(
    denoiser: Denoiser,
    schedule: Schedule,
    nfe: int,
    train: Examples,
    decide: Examples,
    held: Examples,
    *,
    history: int | None = None,
    features: Features = pixels,
    starts: int = 2,
    rounds: int = 10,
    least: int = 8,
    batch: int = 256,
    on_round: OnRound | None = None,
) -> Outcome:
    """Learns a plan for a denoiser.

    Args:
        denoiser: Of the network, or of a target that is known exactly.
        schedule: The forward process.
        nfe: Network calls of the plan, at least 2.
        train: What is learned from, with targets.
        decide: What chooses among fixed plans, starts and rounds.
        held: What decides between the learned plan and the best fixed one.
        history: K, predictions that a step looks at; 4 or `nfe`, whichever is less, unless told.
        features: What pictures are compared in.
        starts: From how many of the best fixed plans to learn.
        rounds: Of learning, at most.
        least: Examples that the first round of the search among fixed plans takes.
        batch: Pictures at a time.
        on_round: Told the name of the start, the number of rounds, and the error.

    Raises:
        ValueError: If a number is out of its range, or there is no plan of so many calls.
        FloatingPointError: If no fixed plan draws finite pictures.
    """
    began, nfe = time.perf_counter(), whole("nfe", nfe, 2)
    history = min(4, nfe) if history is None else whole("history", history, 1, nfe)
    starts, rounds = whole("starts", starts, 1), whole("rounds", rounds, 1)
    candidates = fixed(schedule, nfe)
    if not candidates:
        raise ValueError(f"nfe is {nfe}: no plan calls the network so often on this schedule")
    best, errors, calls = ranked(denoiser, candidates, decide, features, least=least, batch=batch)
    if not np.isfinite(errors[0]):
        raise FloatingPointError(f"no plan of {nfe} calls draws finite pictures of this network")
    chosen: tuple[Plan, list[float]] | None = None
    for start, (numbers, frame) in _starts(best, schedule, history, starts):
        name = start.origin.method if start.origin else ""
        found = learn(
            denoiser,
            numbers,
            frame,
            start.space,
            train,
            decide,
            features=features,
            rounds=rounds,
            batch=batch,
            on_round=None if on_round is None else lambda *at, name=name: on_round(name, *at),
        )
        calls += found.calls
        if chosen is None or min(found.decided) < min(chosen[1]):
            made = written(found.numbers, frame, start.space, schedule, _origin(start, name))
            chosen = made, found.decided
    learned = best[0] if chosen is None else chosen[0]
    ours, theirs = (squares(denoiser, [p], held, features, batch)[0] for p in (learned, best[0]))
    calls += 2 * nfe * len(held.x)
    gain = ours - theirs
    error = float(gain.std(ddof=1) / np.sqrt(len(gain)))
    won = bool(chosen is not None and gain.mean() < -2 * error)
    return Outcome(
        learned if won else best[0],
        won,
        None if chosen is None else learned,
        best,
        (float(rmse(ours)), float(rmse(theirs))),
        (float(gain.mean()), error),
        [] if chosen is None else chosen[1],
        calls,
        time.perf_counter() - began,
    )


def _starts(
    best: list[Plan], schedule: Schedule, history: int, many: int
) -> list[tuple[Plan, tuple[Free, Frame]]]:
    """The first of the plans that can be learned from, as free numbers."""
    found = []
    for plan in best:
        try:
            found.append((plan, free(plan, schedule, history)))
        except ValueError:  # several calls at one level
            continue
    return found[:many]


def _origin(start: Plan, name: str) -> Origin:
    assert start.origin is not None
    return Origin(f"tuned from {name}", start.origin.schedule, start.origin.end)
