"""DPM-Solver-v3: a multistep method in the parametrisation that suits a network best.

With l' for dl / d(log_snr), along the probability flow, and numbers l and s of each level, let

    f = (sigma eps - l x) / alpha
    L = int l,   S = int s,   E(log_snr) = e^{(L + S) - (L + S)_s}

Then d(x / alpha) / d(log_snr) = -l x / alpha - f, and from level s to t, exactly,

    x_t = alpha_t / alpha_s e^{L_s - L_t} x_s - alpha_t e^{L_s - L_t} int E g,   g = e^{S_s - S} f

where g is taken for a polynomial in log_snr, through as many predictions as the order says. The
better f' = s f holds, the nearer g is to a constant. l and s are those of least error:

    l = argmin E |sigma d(eps)/dx - l|^2 = sigma E[trace d(eps)/dx] / D
    s = argmin E |f' - s f|^2 = E <f, f'> / E <f, f>

The paper has l, s and a third, b, for every pixel, with f' = s f + b. A table has one number a
row, so that here the expectations are of numbers, and b is 0. Two choices are known:

    l = 1, s = 0     g = -x_0: DPM-Solver++, and from order 2 on its form "heun"
    l = 0, s = -1    g = e^-log_snr_s eps: DPM-Solver, as well

Source: Zheng et al. 2023 (arXiv:2310.13268), section 3, and the code that was released with it.
"""

from dataclasses import replace
from itertools import pairwise
from math import exp
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from skipjax.checks import whole
from skipjax.plans.exponential import Step, usable
from skipjax.plans.path import Level, path
from skipjax.plans.plan import Plan
from skipjax.plans.tape import Called, Combination, Tape, combine
from skipjax.schedules import DATA, Schedule
from skipjax.schedules.arguments import takes_schedule

Points = list[tuple[Level, Combination]]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(12)


class Statistics(NamedTuple):
    """What a network is like at each level; `tuning.statistics` measures it.

    Attributes:
        log_snr: The levels, strictly increasing, float64 [G], G >= 2.
        l: Linear part of sigma eps, float64 [G].
        s: Rate at which f grows, float64 [G].
    """

    log_snr: np.ndarray
    l: np.ndarray  # noqa: E741 - the paper's letter
    s: np.ndarray


@takes_schedule
def dpm_v3(
    schedule: Schedule,
    times: ArrayLike,
    statistics: Statistics,
    *,
    order: int = 2,
    corrector: bool = True,
    end: float = DATA,
    lower_order_final: bool = False,
) -> Plan:
    """DPM-Solver-v3 of order 1 .. 3, with one l and one s for all pixels and b = 0.

    The order grows from 1 over the first steps. Where g is not nearly constant over them, that
    leaves order 2 at most; in nearly pure noise it is, for statistics with l near 1.

    The corrector makes a step again once the network was called where it led, through as many
    predictions as before, with the new one in place of the oldest. It costs no call, and does
    nothing to a step of order 1. A step of n predictions is of order n with and without it.

    Two steps are infinitely long in log_snr. To the data, the method goes with order 1 to the last
    level of the statistics, and on to what x_0 is there, (1 - l) x / alpha - e^{S - S_s} f_s; for
    the two known choices that is their own last step, to x_0 of the last call. From zero SNR,
    where l goes to 1, it goes as DPM-Solver++.

    f holds the point at which it was said beside x_0, and older points are sums of the newest and
    of all predictions before. A plan therefore looks back at all of them, or at those whose weight
    float64 can feel: K is the number of calls, but for many calls no more than about 40.

    Args:
        schedule: The forward process.
        times: Where the network is called, [N], strictly decreasing, in 0 .. T-1, real or whole.
        statistics: Of the network. Between its levels l and s are piecewise cubic.
        order: How many predictions a step takes.
        corrector: Whether to correct.
        end: Where the picture stands: a time below the last, or the data.
        lower_order_final: Whether the last steps go down to order 1. It limits the order of
            convergence.

    Raises:
        ValueError: If `times` do not fit the schedule, are fewer than the order, or stand at
            levels that the statistics do not reach; or if these are not finite numbers.
    """
    order = whole("order", order, 1, 3)
    levels = path(schedule, times, end, fewest=order)
    course = _Course(statistics)
    course.check([level for level in levels if level.alpha and level.t != DATA])
    tape = Tape(schedule, "x_0")
    x = base = tape.start()  # what the network is called at, and what the step starts from
    past: Points = []
    used: Points = []
    for i, (s, t) in enumerate(pairwise(levels)):
        called = tape.call(x, s)
        start, base = base, called.x
        if s.alpha:
            new = s, course.f(s, called)
            if corrector and len(used) > 1:
                points = [used[0], new, *used[1:]][: len(used)]
                base = tape.since(course.moved(start, s, points))
            past = [new, *past][:order]
        used = usable(past, t, len(levels) - 1 - i, lower_order_final)
        if not s.alpha:
            step = Step(s, t)
            x = step.keep * base + step.weight(0) * called.x_0
        elif t.t == DATA:
            x = course.denoised(base, used[0])
        else:
            x = course.moved(base, t, used)
    return _felt(tape.plan(x, f"dpm_v3_{order}", end))


class _Course:
    """l and s between the levels, by cubic Hermite interpolation, and their integrals.

    With a continuous first derivative, kinks of higher ones leave order 3.
    """

    def __init__(self, statistics: Statistics):
        log_snr, *columns = (np.asarray(column, np.float64) for column in statistics)
        if log_snr.ndim != 1 or any(column.shape != log_snr.shape for column in columns):
            raise ValueError(
                f"log_snr, l and s have shapes {log_snr.shape}, {columns[0].shape} and "
                f"{columns[1].shape}: they must be vectors of one length"
            )
        if len(log_snr) < 2 or not (np.diff(log_snr) > 0).all():
            raise ValueError(
                f"log_snr of the statistics is {log_snr}: it must be two or more levels, strictly "
                "increasing"
            )
        for name, column in zip(("log_snr", "l", "s"), (log_snr, *columns), strict=True):
            if not np.isfinite(column).all():
                raise ValueError(
                    f"{name} of the statistics holds {column[~np.isfinite(column)]}: all must be "
                    "finite; measure them anew"
                )
        self._grid = log_snr
        self._l, self._s = (_cubics(log_snr, column) for column in columns)

    def check(self, levels: list[Level]) -> None:
        """Refuses levels at which l and s are not known."""
        first, last = self._grid[0], self._grid[-1]
        for level in levels:
            if not first - 1e-6 <= level.log_snr <= last + 1e-6:
                raise ValueError(
                    f"time {level.t:g} has log_snr {level.log_snr:.6g}, and the statistics reach "
                    f"from {first:.6g} to {last:.6g}: measure them on a wider range, or keep the "
                    "times and the end within it"
                )

    def f(self, level: Level, called: Called) -> Combination:
        """(sigma eps - l x) / alpha, of a call."""
        rest = 1 - float(self._at(self._l, level.log_snr))
        return rest / level.alpha * called.x - called.x_0

    def moved(self, base: Combination, t: Level, points: Points) -> Combination:
        """Where a step leads from `base`; points are f of some levels, that of s first."""
        s = points[0][0]
        keep, h = t.alpha * exp(-self._sum(self._l, s.log_snr, t.log_snr)), t.log_snr - s.log_snr
        v = [(level.log_snr - s.log_snr) / h for level, _ in points]
        moments = self._moments(s.log_snr, t.log_snr, len(points))
        weights = np.linalg.solve(np.vander(v, increasing=True).T, moments)
        grown = [exp(-self._sum(self._s, s.log_snr, level.log_snr)) for level, _ in points]
        return keep / s.alpha * base - keep * combine(weights * grown, [f for _, f in points])

    def denoised(self, base: Combination, point: tuple[Level, Combination]) -> Combination:
        """The step to the data."""
        s, f = point
        last = float(self._grid[-1])
        shrunk = exp(-self._sum(self._l, s.log_snr, last))
        (moment,) = self._moments(s.log_snr, last, 1)
        there = shrunk / s.alpha * base - shrunk * moment * f  # x / alpha
        rest = 1 - float(self._at(self._l, last))
        return rest * there - exp(self._sum(self._s, s.log_snr, last)) * f

    def _moments(self, s: float, t: float, num: int) -> np.ndarray:
        """int_s^t E v^k d(log_snr), k < num, v = (log_snr - s) / (t - s)."""
        inner = self._grid[(self._grid > s) & (self._grid < t)]
        edges = np.union1d(inner, np.linspace(s, t, 2 + int(abs(t - s))))
        half = np.diff(edges) / 2
        nodes = (edges[:-1] + half)[:, None] + half[:, None] * NODES
        grown = np.exp(self._sum(self._l, s, nodes) + self._sum(self._s, s, nodes))
        weights = half[:, None] * WEIGHTS * grown
        v = (nodes - s) / (t - s) if t != s else nodes * 0
        return np.array([(weights * v**k).sum() for k in range(num)])

    def _at(self, cubics: np.ndarray, log_snr: float) -> np.ndarray:
        cell, u = self._cell(log_snr)
        return np.polyval(cubics[3::-1, cell], u)

    def _sum(self, cubics: np.ndarray, s: float, t: float | np.ndarray):
        """The integral from s to t."""
        return self._until(cubics, t) - self._until(cubics, s)

    def _until(self, cubics: np.ndarray, log_snr: float | np.ndarray):
        """The integral from the first level on."""
        cell, u = self._cell(log_snr)
        width = np.diff(self._grid)[cell]
        part = sum(c * u ** (k + 1) / (k + 1) for k, c in enumerate(cubics[:4, cell]))
        return cubics[4, cell] + width * part

    def _cell(self, log_snr: float | np.ndarray):
        """In which cell of the grid a level lies, and which part of it is below."""
        log_snr = np.clip(log_snr, self._grid[0], self._grid[-1])
        cell = np.clip(np.searchsorted(self._grid, log_snr) - 1, 0, len(self._grid) - 2)
        return cell, (log_snr - self._grid[cell]) / np.diff(self._grid)[cell]


def _cubics(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of each cell the coefficients of u^0 .. u^3, and the integral up to it, [5, G - 1]."""
    slope, width, rise = (
        np.gradient(y, x, edge_order=2 if len(x) > 2 else 1),
        np.diff(x),
        np.diff(y),
    )
    begin, finish = width * slope[:-1], width * slope[1:]
    c = np.stack([y[:-1], begin, 3 * rise - 2 * begin - finish, begin + finish - 2 * rise])
    whole_cells = width * (c / np.arange(1, 5)[:, None]).sum(axis=0)
    return np.vstack([c, np.cumsum(whole_cells) - whole_cells])


def _felt(plan: Plan) -> Plan:
    """The plan without predictions so long ago that float64 does not feel their weights."""
    sizes = np.abs(plan.mix)
    felt = (sizes > 1e-15 * sizes.max(axis=1, keepdims=True)).any(axis=0)
    return replace(plan, mix=plan.mix[:, : 1 + int(np.flatnonzero(felt).max(initial=0))])
