"""From the best of the fixed plans to one that is learned, and the decision between the two."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from skipjax.checks import whole
from skipjax.plans import Origin, Plan
from skipjax.schedules import Schedule
from skipjax.tuning.evolve import Evolved, evolve
from skipjax.tuning.examples import GROUP, Denoiser, Examples, Features, pictures, pixels
from skipjax.tuning.fixed import fixed, ranked, scores
from skipjax.tuning.free import Frame, Free, free, written
from skipjax.tuning.genome import Pool
from skipjax.tuning.learn import learn
from skipjax.tuning.loss import Loss, path

OnRound = Callable[[str, int, float], None]
TURNED = 0.1  # least turn that learning starts from


class Outcome(NamedTuple):
    """What a search came to.

    Attributes:
        plan: The learned one if it won, otherwise the best of the fixed.
        won: Whether the learned plan is better on the examples that nothing was chosen by, by
            more than two standard errors of the difference.
        learned: The learned plan; None where no fixed plan of the search can be learned from.
        fixed: The best fixed plans by the examples that decide, best first.
        errors: The loss on the held-out examples, of the learned and of the best fixed plan.
        difference: What `loss.compare` says of the two there, and its standard error.
        drawn: Features of what the two draw there, [M, values] of each.
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
    drawn: tuple[np.ndarray, np.ndarray]
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
    loss: Loss = path,
    noise: bool = False,
    whole_times: bool = False,
    features: Features = pixels,
    way: float = 0.0,
    more: Sequence[Plan] = (),
    generations: int = 0,
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
        loss: What is made small. Where it compares laws, plans with noise are tried as well.
        noise: Whether noise is learned, by such a loss.
        whole_times: Whether all times stay whole numbers; then evolution alone chooses them.
        features: What pictures are compared in.
        way: Weight of the points on the way, where `train` says how the teacher came.
        more: Plans of as many calls, made for this network, that learning may start from too.
        generations: Of evolution among solvers that differ from step to step, before learning.
        starts: From how many plans to learn: the best that evolved, the best of `more`, the best
            fixed one, the second best of each, and so on.
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
    generations = whole("generations", generations, 0)
    if noise and loss is path:
        raise ValueError("noise cannot be learned by path, where each picture has one target")
    score = partial(scores, denoiser, features=features, loss=loss, batch=batch)
    candidates = fixed(schedule, nfe, noisy=loss is not path)
    if whole_times:
        candidates = [plan for plan in candidates if (plan.t == np.round(plan.t)).all()]
    if not candidates:
        raise ValueError(f"nfe is {nfe}: no plan calls the network so often on this schedule")
    best, errors, calls = ranked(score, candidates, decide, least)
    if not np.isfinite(errors[0]):
        raise FloatingPointError(f"no plan of {nfe} calls draws finite pictures of this network")
    kinds = [best]
    if more:
        known, _, spent = ranked(score, list(more), decide, len(decide.x))
        kinds, calls = [known, *kinds], calls + spent
    if generations:
        found = _evolved(
            score, schedule, nfe, decide, best, whole_times, generations, least, batch
        )
        kinds, calls = [found.plans, *kinds], calls + found.calls
    begin = [plan for rank in zip_longest(*kinds) for plan in rank if plan is not None]
    chosen: tuple[Plan, list[float]] | None = None
    for start, (numbers, frame) in _starts(begin, schedule, history, starts):
        name = start.origin.method if start.origin else ""
        if noise:  # at its ends a turn has no slope
            numbers = numbers._replace(turn=np.clip(numbers.turn, TURNED, np.pi / 2 - TURNED))
        kept = ("turn",) * (not noise) + ("gaps",) * whole_times
        found = learn(
            denoiser,
            numbers,
            frame,
            start.space,
            train,
            decide,
            fixed=kept,
            loss=loss,
            features=features,
            way=way,
            rounds=rounds,
            batch=batch,
            on_round=None if on_round is None else partial(on_round, name),
        )
        calls += found.calls
        if chosen is None or min(found.decided) < min(chosen[1]):
            origin = _origin(start, name)
            made = written(found.numbers, frame, start.space, schedule, origin, whole_times)
            chosen = made, found.decided
    learned = best[0] if chosen is None else chosen[0]
    ours, theirs = pictures(denoiser, [learned, best[0]], held, features, min(batch, len(held.x)))
    calls += 2 * nfe * len(held.x)
    gain, error = loss.compare(ours, theirs, held.target)
    won = bool(chosen is not None and gain < -2 * error)
    return Outcome(
        learned if won else best[0],
        won,
        None if chosen is None else learned,
        best,
        (loss.error(ours, held.target), loss.error(theirs, held.target)),
        (gain, error),
        (ours, theirs),
        [] if chosen is None else chosen[1],
        calls,
        time.perf_counter() - began,
    )


def _evolved(
    score: Callable[..., np.ndarray],
    schedule: Schedule,
    nfe: int,
    decide: Examples,
    best: list[Plan],
    whole_times: bool,
    generations: int,
    least: int,
    batch: int,
) -> Evolved:
    """What comes of the best fixed plans by evolution, all in one program."""
    known = Pool(schedule, nfe, whole_times).named()
    names = [plan.origin.method for plan in best if plan.origin]
    least = min(least, len(decide.x))
    return evolve(
        lambda plans, num: score(plans, decide.take(np.arange(num)), batch=min(batch, least)),
        schedule,
        nfe,
        len(decide.x),
        whole=whole_times,
        starts=[known[name] for name in names if name in known] or None,
        generations=generations,
        least=least,
        group=GROUP,
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
    name = name.removeprefix("tuned from ")
    return Origin(f"tuned from {name}", start.origin.schedule, start.origin.end)
