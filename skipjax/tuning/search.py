"""From the best of the baselines to a plan that is learned, and the decision between the two."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from skipjax.plans import Origin, Plan
from skipjax.schedules import Schedule
from skipjax.tuning.baselines import Score, baselines, halve
from skipjax.tuning.config import Objective, TuneConfig, check
from skipjax.tuning.evolve import evolve
from skipjax.tuning.examples import Denoiser, Examples, draw_all
from skipjax.tuning.learn import learn
from skipjax.tuning.parametrization import Frame, Numbers, parametrize
from skipjax.tuning.search_space import Candidate, SearchSpace

OnRound = Callable[[str, int, float], None]
HISTORY = 4  # predictions that a step looks at, where nothing else is asked for
LEAST = 4  # examples that all baselines are tried on
TURNED = 0.1  # least turn that learning starts from
LEARNED_FROM = "tuned from "  # before the name of what was started from


class Outcome(NamedTuple):
    """What a search came to.

    Attributes:
        plan: The learned one if it won, otherwise the best baseline.
        won: Whether the learned plan is better on the examples that nothing was chosen by, by
            more than two standard errors of the difference.
        learned: The learned plan; None where no baseline of the search can be learned from.
        fixed: The best baselines by the examples that decide, best first.
        errors: The loss on the held-out examples, of the learned plan and of the best baseline.
        difference: What `loss.compare` says of the two there, and its standard error.
        drawn: Features of what the two draw there, [M, values] of each.
        rounds: Error on the examples that decide, at first and after every iteration.
        calls: Network calls spent, for one sample each.
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
    train: Examples,
    decide: Examples,
    held: Examples,
    objective: Objective,
    config: TuneConfig,
    *,
    least: int = LEAST,
    on_round: OnRound | None = None,
) -> Outcome:
    """Learns a plan for a denoiser.

    Args:
        denoiser: Of the network, or of a target that is known exactly.
        schedule: The forward process.
        train: What is learned from, with targets.
        decide: What chooses among baselines, starts and iterations.
        held: What decides between the learned plan and the best baseline.
        objective: What is made small; its teacher and pictures are not looked at.
        config: How.
        least: Examples that the first round of the search among baselines takes.
        on_round: Told the name of the start, the number of iterations, and the error.

    Raises:
        ValueError: If a number is out of its range, or there is no plan of so many calls.
        FloatingPointError: If no baseline draws finite samples.
    """
    check(objective, config)
    began, nfe = time.perf_counter(), config.nfe
    score = Score(denoiser, decide, objective, config.batch)
    candidates = baselines(schedule, nfe, noisy=objective.by_law)
    if config.whole_times:
        candidates = [plan for plan in candidates if (plan.t == np.round(plan.t)).all()]
    if not candidates:
        raise ValueError(f"nfe is {nfe}: no plan calls the network so often on this schedule")
    best, errors = halve(score, candidates, len(decide.x), least)
    if not np.isfinite(errors[0]):
        raise FloatingPointError(f"no plan of {nfe} calls draws finite samples of this network")
    known = halve(score, config.plans, len(decide.x), len(decide.x))[0] if config.plans else []
    evolved = _evolve(score, schedule, best, config, least) if config.generations else []
    ranks = zip_longest(evolved, known, best)
    begin = [plan for rank in ranks for plan in rank if plan is not None]
    chosen: tuple[Plan, list[float]] | None = None
    calls = 0
    for start, numbers, frame in _starts(begin, schedule, objective, config):
        name = start.origin.method if start.origin else ""
        told = None if on_round is None else partial(on_round, name)
        found = learn(denoiser, numbers, frame, train, decide, objective, config, told)
        calls += found.calls
        if chosen is None or min(found.decided) < min(chosen[1]):
            made = frame.write(found.numbers, schedule, _origin(start), config.whole_times)
            chosen = made, found.decided
    learned = best[0] if chosen is None else chosen[0]
    ours, theirs = draw_all(denoiser, [learned, best[0]], held, objective.features, config.batch)
    calls += score.calls + 2 * nfe * len(held.x)
    gain, error = objective.measure.compare(ours, theirs, held.target)
    won = bool(chosen is not None and gain < -2 * error)
    return Outcome(
        learned if won else best[0],
        won,
        None if chosen is None else learned,
        best,
        (objective.measure.error(ours, held.target), objective.measure.error(theirs, held.target)),
        (gain, error),
        (ours, theirs),
        [] if chosen is None else chosen[1],
        calls,
        time.perf_counter() - began,
    )


def _evolve(
    score: Score, schedule: Schedule, best: list[Plan], config: TuneConfig, least: int
) -> list[Plan]:
    """What comes of the best baselines by evolution, best first, all in one program."""
    num, space = len(score.examples.x), SearchSpace(schedule, config.nfe, config.whole_times)
    least, known = min(least, num), space.known_methods()
    names = [plan.origin.method for plan in best if plan.origin]
    starts = [known[name] for name in names if name in known] or list(known.values())
    judge = replace(score, batch=min(score.batch, least), calls=0)

    def errors(candidates: list[Candidate], many: int) -> np.ndarray:
        return judge([candidate.plan(schedule) for candidate in candidates], many)

    found = evolve(errors, space, starts, num, generations=config.generations, least=least)
    score.calls += judge.calls
    return [candidate.plan(schedule) for candidate in found]


def _starts(
    plans: list[Plan], schedule: Schedule, objective: Objective, config: TuneConfig
) -> list[tuple[Plan, Numbers, Frame]]:
    """The first of the plans that can be learned from, as numbers."""
    found = []
    for plan in plans:
        try:
            history = config.history or min(HISTORY, config.nfe)
            numbers, frame = parametrize(plan, schedule, history)
        except ValueError:  # several calls at one level
            continue
        if config.learns_noise(objective):  # at its ends a turn has no slope
            turn = np.clip(numbers.turn, TURNED, np.pi / 2 - TURNED)
            numbers = numbers._replace(turn=turn)
        found.append((plan, numbers, frame))
    return found[: config.starts]


def _origin(start: Plan) -> Origin:
    assert start.origin is not None
    name = start.origin.method.removeprefix(LEARNED_FROM)
    return replace(start.origin, method=LEARNED_FROM + name, tuned=None)
