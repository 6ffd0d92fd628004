"""Baselines: all plans that this library writes, on all grids, and which of them is the best."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from skipjax import grids, plans
from skipjax.plans import Plan
from skipjax.schedules import Schedule
from skipjax.tuning.config import Objective
from skipjax.tuning.examples import Denoiser, Examples, draw_all

KEPT = 4  # one in so many goes to the next round of successive halving
CUTOFFS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of T
ETAS = (0.25, 0.5, 0.75, 1.0)


def baselines(schedule: Schedule, nfe: int, noisy: bool = False) -> list[Plan]:
    """Every plan that calls the network `nfe` times, on every grid, named by both.

    Those that come to the same table are there once.

    Args:
        schedule: The forward process.
        nfe: Network calls.
        noisy: Whether plans that add noise are among them, and `hybrids`.
    """
    found = []
    for name, grid in itertools.product(plans.METHODS, grids.GRIDS):
        try:
            times = grids.named(grid, schedule, plans.times_for(name, nfe))
            plan = plans.write(name, schedule, times)
        except ValueError:  # the method makes no such number of calls, or the grid has none
            continue
        if (noisy or not plan.noise.any()) and plan.alpha.all() and plan.nfe == nfe:
            found.append(plan.named(f"{name} on {grid}"))
    if noisy:
        found += hybrids(schedule, nfe)
    return distinct(found)


def hybrids(schedule: Schedule, nfe: int) -> list[Plan]:
    """DDIM with noise above a cutoff and none below: of all cutoffs, strengths of the noise, and
    ways to divide the calls between the two parts, which is to choose a skip for each.
    """
    found = []
    for cutoff, eta, above in itertools.product(CUTOFFS, ETAS, range(nfe + 1)):
        found.append(hybrid(schedule, nfe, cutoff, eta, above))
    return distinct([plan for plan in found if plan is not None])


def hybrid(
    schedule: Schedule, nfe: int, cutoff: float, eta: float, above: int | None = None
) -> Plan | None:
    """One hybrid, each of its parts on evenly spaced times; None if a part has no such grid.

    Args:
        schedule: The forward process.
        nfe: Network calls.
        cutoff: Where noise ends, as a part of T: 1 is DDIM, 0 has noise throughout.
        eta: Of the steps that begin above the cutoff.
        above: Calls above it; default: as many as of one evenly spaced grid.
    """
    T = schedule.T
    where = round(cutoff * T)
    if above is None:
        times = grids.trailing(T, nfe)
    else:
        parts = ((T - where, above, where), (where, nfe - above, 0))
        if any(num > span or (num == 0) != (span == 0) for span, num, _ in parts):
            return None
        halves = [grids.trailing(span, num) + first for span, num, first in parts if num]
        times = np.concatenate(halves)
    etas = np.where(times >= where, eta, 0.0)
    skips = "" if above is None else f", {above} calls above"
    name = f"hybrid of cutoff {cutoff:g} T, eta {eta:g}{skips}"
    return plans.ddim(schedule, times, etas).named(name)


def distinct(some: list[Plan]) -> list[Plan]:
    """Of plans with the same table the first."""
    found: dict[bytes, Plan] = {}
    for plan in some:
        table = np.concatenate([plan.t, plan.noise, plan.matrix().ravel()])
        found.setdefault(table.round(9).tobytes(), plan)
    return list(found.values())


def with_more_calls(schedule: Schedule, plan: Plan) -> list[Plan]:
    """The method and grid of a plan of `baselines`, at up to three times its calls."""
    assert plan.origin is not None
    if " on " not in plan.origin.method:  # a hybrid: its cutoff belongs to its calls
        return [plan]
    name, grid = plan.origin.method.split(" on ")
    found = [plan]
    for nfe in (3 * plan.nfe // 2, 2 * plan.nfe, 3 * plan.nfe):
        try:
            times = grids.named(grid, schedule, plans.times_for(name, nfe))
            found.append(plans.write(name, schedule, times))
        except ValueError:  # no such number of calls, or times too close for the schedule
            continue
    return found


def halve(
    score: Callable[[list[Any], int], np.ndarray], candidates: list[Any], num: int, least: int
) -> tuple[list[Any], np.ndarray]:
    """Candidates by their error, best first, by successive halving.

    All are tried on `least` examples, the best quarter on four times as many, and so on; of
    those that come to the last round all examples tell (Jamieson & Talwalkar 2016,
    arXiv:1502.07943).

    Args:
        score: Tells the errors of some candidates on the first so many examples.
        candidates: Of any kind.
        num: Examples there are.
        least: Examples of the first round.

    Returns:
        The candidates of the last round, and their errors.
    """
    many = min(least, num)
    while True:
        errors = score(candidates, many)
        order = np.argsort(errors, kind="stable")
        if many == num:
            return [candidates[i] for i in order], errors[order]
        candidates = [candidates[i] for i in order[: max(KEPT, len(order) // KEPT)]]
        many = min(KEPT * many, num)


@dataclass
class Score:
    """Tells the errors of plans on the first so many of some examples, and counts.

    Attributes:
        denoiser: Of the network.
        examples: With targets.
        objective: What the error is.
        batch: Samples at a time.
        calls: Network calls spent, for one sample each.
    """

    denoiser: Denoiser
    examples: Examples
    objective: Objective
    batch: int = 256
    calls: int = 0

    def __call__(self, some: list[Plan], num: int | None = None) -> np.ndarray:
        """The error of each plan, float64; infinite where a sample is not finite."""
        num = len(self.examples.x) if num is None else num
        self.calls += sum(plan.nfe for plan in some) * num
        examples = self.examples.take(np.arange(num))
        found = draw_all(self.denoiser, some, examples, self.objective.features, self.batch)
        loss = self.objective.measure
        return np.array([loss.error(values, examples.target) for values in found])
