"""DPM-Solver with several calls a step: 2S, 3S and what is composed of them.

A step from level s to t calls the network at s and at one or two levels between, each reached
from s by a step of lower order (`dpm` has the formulas). The network is thereby called more often
than there are steps, and each call is a row of the plan.

Sources: Lu et al. 2022, "DPM-Solver" (arXiv:2206.00927), algorithms 1 and 2, appendix D;
"DPM-Solver++" (arXiv:2211.01095), algorithm 1.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import inf
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from skipjax import grids
from skipjax.checks import whole
from skipjax.plans.dpm import SolverType, advance, check_forms
from skipjax.plans.exponential import Step
from skipjax.plans.path import Level, between, path
from skipjax.plans.plan import Plan, Space
from skipjax.plans.tape import Tape
from skipjax.schedules import DATA, Schedule
from skipjax.schedules.arguments import takes_schedule


class Stretch(NamedTuple):
    """One step: from s to t, with calls at s and at the levels between."""

    s: Level
    inner: list[Level]
    t: Level


@takes_schedule
def dpm_singlestep(
    schedule: Schedule,
    times: ArrayLike,
    *,
    order: int = 2,
    space: Space = "x_0",
    r: float | tuple[float, ...] | None = None,
    end: float = DATA,
    solver_type: SolverType = "midpoint",
    compat: Literal["diffusers"] | None = None,
) -> Plan:
    """DPM-Solver (space "eps") and DPM-Solver++ ("x_0") with `order` calls a step.

    A step to the data, or from zero SNR, is infinitely long in log_snr: it has one call and
    order 1.

    Args:
        schedule: The forward process.
        times: Where steps begin, [N], strictly decreasing, in 0 .. T-1, real or whole.
        order: Calls of a step, and order of convergence: 2 or 3.
        space: What is predicted: "x_0" or "eps".
        r: Where the calls inside a step stand, in log_snr: 0 < r < 1 for order 2, default: 1/2;
            0 < r_1 < r_2 < 1 for order 3, default: (1/3, 2/3). Another r_2 than 2/3
            leaves order 2.
        end: Where the picture stands: a time below the last, or the data.
        solver_type: "midpoint" ends a step with what was predicted last, as the papers do; "heun"
            with all.
        compat: "diffusers" goes to the third call by its midpoint form.

    Raises:
        ValueError: If `times` do not fit the schedule, or r is outside its range.

    Sources: arXiv:2206.00927, algorithms 1 and 2; arXiv:2211.01095, algorithm 1.
    """
    order = whole("order", order, 2, 3)
    if r is None:
        r = 0.5 if order == 2 else (1 / 3, 2 / 3)
    parts = r if isinstance(r, tuple) else (r,)
    if len(parts) != order - 1 or not all(a < b for a, b in pairwise((0, *parts, 1))):
        raise ValueError(f"r is {parts}: it must lie within 0 .. 1, and increase")
    steps = list(pairwise(path(schedule, times, end)))
    finite = [parts if t.log_snr - s.log_snr < inf else () for s, t in steps]
    inner = between(schedule, steps, finite)
    stretches = [Stretch(s, inner_s, t) for (s, t), inner_s in zip(steps, inner, strict=True)]
    name = f"{'dpm' if space == 'eps' else 'dpmpp'}_{order}s"
    return _singlestep(schedule, stretches, space, solver_type, compat).named(name)


@takes_schedule
def dpm_fast(
    schedule: Schedule, times: ArrayLike, *, space: Space = "eps", end: float = DATA
) -> Plan:
    """DPM-Solver-fast: N calls in as many steps of order 3 as they make, and lower ones for the
    rest.

    The orders are those of `fast_orders`; where the picture stands at the data, the last call is a
    step of order 1 of its own. `fast_times` gives the grid of the paper. A last step of order 1,
    which most N have, leaves order 2 in all.

    Args:
        schedule: The forward process.
        times: Where the network is called, [N], strictly decreasing, in 0 .. T-1, real or whole.
        space: "eps" for DPM-Solver, "x_0" for DPM-Solver++.
        end: Where the picture stands: a time below the last, or the data.

    Raises:
        ValueError: If `times` do not fit the schedule.

    Source: arXiv:2206.00927, section 3.4 and appendix D.1.
    """
    num = max(np.size(times), 1)
    orders = fast_orders(num) if end != DATA else [*(fast_orders(num - 1) if num > 1 else []), 1]
    return singlestep(schedule, times, orders, space=space, end=end).named("dpm_fast")


@takes_schedule
def fast_times(
    schedule: Schedule, nfe: int, *, start: float | None = None, end: float = 0
) -> np.ndarray:
    """The times of `nfe` calls of `dpm_fast` that ends at `end`: steps of equal length in log_snr,
    with calls at their start, and at a half or two thirds of them.

    Args:
        schedule: The forward process.
        nfe: Number of calls, at least 1.
        start: Time of the first call; default: T-1.
        end: Time at which the picture stands, 0 .. start.

    Returns:
        float64 [nfe].
    """
    orders = fast_orders(nfe)
    grid = grids.uniform_log_snr(schedule, len(orders) + 1, start=start, last=end)
    steps = list(pairwise(path(schedule, grid[:-1], float(grid[-1]))))
    parts = [tuple(k / order for k in range(1, order)) for order in orders]
    calls = zip(steps, between(schedule, steps, parts), strict=True)
    return np.array([level.t for (s, _), inner in calls for level in (s, *inner)])


def fast_orders(nfe: int, order: int = 3) -> list[int]:
    """Orders of steps that take `nfe` calls in all, as many as possible of `order`, and one or two
    lower ones at the end: 7 is 3, 3, 1; 6 is 3, 2, 1.

    Args:
        nfe: Number of calls, at least 1.
        order: Highest order, 1 .. 3.
    """
    nfe, order = whole("nfe", nfe, 1), whole("order", order, 1, 3)
    many, rest = divmod(nfe, order)
    if order == 1:
        return [1] * nfe
    return [order] * many + [rest] if rest else [order] * (many - 1) + [order - 1, 1]


@takes_schedule
def singlestep(
    schedule: Schedule,
    times: ArrayLike,
    orders: Sequence[int],
    *,
    space: Space = "x_0",
    end: float = DATA,
    solver_type: SolverType = "midpoint",
    compat: Literal["diffusers"] | None = None,
) -> Plan:
    """Steps of given orders through a grid that lists every call, as diffusers composes them.

    A step of three calls is of order 3 where the last of them is at 2/3 of its length in log_snr,
    and of order 2 elsewhere.

    Args:
        schedule: The forward process.
        times: Where the network is called, [N], strictly decreasing, in 0 .. T-1, real or whole.
        orders: Calls of each step, 1 .. 3, N in all: [3, 3, 1] for N = 7.
        space: "eps" for DPM-Solver, "x_0" for DPM-Solver++.
        end: Where the picture stands; the last order must be 1 for the data.
        solver_type: "midpoint" ends a step with what was predicted last, "heun" with all.
        compat: "diffusers" goes to the third call by its midpoint form.

    Raises:
        ValueError: If `times` do not fit the schedule, or `orders` do not fit them.
    """
    levels = path(schedule, times, end)
    num = len(levels) - 1
    orders = [whole("orders", order, 1, 3) for order in orders]
    if sum(orders) != num:
        raise ValueError(f"orders {orders} are {sum(orders)} calls in all, and there are {num}")
    starts = [sum(orders[:i]) for i in range(len(orders) + 1)]
    stretches = [Stretch(levels[i], levels[i + 1 : j], levels[j]) for i, j in pairwise(starts)]
    return _singlestep(schedule, stretches, space, solver_type, compat).named("singlestep")


def _singlestep(
    schedule: Schedule,
    stretches: list[Stretch],
    space: Space,
    solver_type: SolverType = "midpoint",
    compat: Literal["diffusers"] | None = None,
) -> Plan:
    check_forms(solver_type, compat)
    tape = Tape(schedule, space)
    x = tape.start()
    for s, inner, t in stretches:
        base, points = x, []
        for i, level in enumerate([s, *inner]):
            called = tape.call(x, level)
            if inner and t.log_snr - s.log_snr == inf:
                raise ValueError(
                    f"the step from time {s.t:g} to {t.t:g} is infinitely long in log_snr: its "
                    f"order must be 1, got {len(inner) + 1}"
                )
            base = called.x if not i else base
            points.append((level, getattr(called, space)))
            target = inner[i] if i < len(inner) else t
            step, known, form = Step(s, target, space), points, solver_type
            if i == 1 and target is not t and compat is None:
                form = "heun"
            if i == 2 and solver_type == "midpoint":
                known, form = [points[0], points[2]], "heun"
            x = step.keep * base + advance(step, known, form)
    return tape.plan(x, end=stretches[-1].t.t)
