"""The fixed plans: all that this library writes, on all grids; and which is the best."""

import itertools

import numpy as np

from skipjax import grids, plans
from skipjax.plans import Plan
from skipjax.schedules import Schedule
from skipjax.tuning.examples import Denoiser, Examples, Features, pixels, rmse, squares

KEPT = 4  # one in so many goes to the next round of a search


def fixed(schedule: Schedule, nfe: int) -> list[Plan]:
    """Every plan without noise that calls the network `nfe` times, on every grid, named by both.

    Those that come to the same table are there once.
    """
    found: dict[bytes, Plan] = {}
    for name, grid in itertools.product(plans.METHODS, grids.GRIDS):
        try:
            times = grids.named(grid, schedule, plans.times_for(name, nfe))
            plan = plans.write(name, schedule, times)
        except ValueError:  # the method makes no such number of calls, or the grid has none
            continue
        if plan.noise.any() or not plan.alpha.all() or plan.nfe != nfe:
            continue
        table = np.concatenate([plan.t, plan.matrix().ravel()])
        found.setdefault(table.round(9).tobytes(), plan.named(f"{name} on {grid}"))
    return list(found.values())


def with_more_calls(schedule: Schedule, plan: Plan) -> list[Plan]:
    """The method and grid of a plan of `fixed`, at up to three times its calls."""
    assert plan.origin is not None
    name, grid = plan.origin.method.split(" on ")
    found = [plan]
    for nfe in (3 * plan.nfe // 2, 2 * plan.nfe, 3 * plan.nfe):
        try:
            times = grids.named(grid, schedule, plans.times_for(name, nfe))
            found.append(plans.write(name, schedule, times))
        except ValueError:  # no such number of calls, or times too close for the schedule
            continue
    return found


def ranked(
    denoiser: Denoiser,
    candidates: list[Plan],
    examples: Examples,
    features: Features = pixels,
    *,
    least: int = 8,
    batch: int = 256,
) -> tuple[list[Plan], np.ndarray, int]:
    """Plans by their error, best first, by successive halving.

    All are tried on `least` examples, the best quarter on four times as many, and so on; of
    those that come to the last round all examples tell (Jamieson & Talwalkar 2016,
    arXiv:1502.07943).

    Returns:
        The plans of the last round, their errors, and how many network calls were spent on it.
    """
    num, calls = len(examples.x), 0
    many = min(least, num)
    while True:
        some = examples.take(np.arange(many))
        errors = rmse(squares(denoiser, candidates, some, features, min(batch, many)))
        calls += sum(plan.nfe for plan in candidates) * many
        order = np.argsort(errors, kind="stable")
        if many == num:
            return [candidates[i] for i in order], errors[order], calls
        candidates = [candidates[i] for i in order[: max(KEPT, len(order) // KEPT)]]
        many = min(KEPT * many, num)
