"""Schedulers that step in sigma / alpha: Euler, Heun, DPM-Solver, UniPC.

Their points stand at levels that need not be the schedule's: between two times, sigma / alpha is
linear in t. The network is told the time, real or rounded.
"""

from dataclasses import dataclass
from math import ceil, inf, log
from typing import ClassVar, Literal

import numpy as np

from skipjax.plans.dpm import SolverType, dpm
from skipjax.plans.euler import euler, euler_ancestral, heun
from skipjax.plans.path import Level
from skipjax.plans.plan import Plan, Space
from skipjax.plans.schedulers.strides import Spacing, spaced
from skipjax.plans.unipc import Variant, unipc
from skipjax.schedules import DATA, Schedule

Spread = Literal["karras", "exponential", "beta", "log_linear"]
RHO, BETA = 7.0, 0.6  # of Karras's spread, and of the beta distribution's two parameters
NEXT = 1e-12  # part by which a step is shortened to that would else have no length


@dataclass(frozen=True)
class Levels:
    """Where the network is called, and where the picture ends.

    Args:
        spacing: Of the times.
        offset: Added to each of "leading" ones.
        spread: Of the levels, instead of those of the times: evenly in
            (sigma / alpha)^(1 / 7) ("karras"), in its logarithm ("exponential"; "log_linear" with
            one more, where the picture ends), or by the quantiles of a beta distribution.
        sigma_min: Least sigma / alpha of a spread; default: that of the last time.
        sigma_max: Largest; default: that of the first.
        told: What the network is told of a spread's time: "real", "rounded", or "cut" off.
        to_data: Whether the picture ends at the data, or at time 0.
    """

    spacing: Spacing = "linspace"
    offset: int = 0
    spread: Spread | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    told: Literal["real", "rounded", "cut"] = "real"
    to_data: bool = True

    multistep: ClassVar[bool] = False

    def path(self, schedule: Schedule, num: int) -> list[Level]:
        """The levels of `num` calls, and of the picture."""
        if not schedule.preserves_variance:
            raise ValueError("it is for schedules that preserve variance")
        if not schedule.alpha[-1]:
            raise ValueError("it has no step from zero SNR, where sigma / alpha is infinite")
        every = np.arange(schedule.T)
        table = schedule.sigma / schedule.alpha
        times = self.times(schedule, num)
        rho, last = np.interp(times, every, table), 0.0 if self.to_data else table[0]
        if self.spread == "log_linear":
            *rho, last = np.geomspace(table[-1], table[0], num + 1)
        elif self.spread is not None:
            rho = self._spread(table[[-1, 0]] if self.multistep else rho, num)
            times = np.interp(np.log(rho), np.log(table), every)
            if self.told != "real":
                times = np.round(times) if self.told == "rounded" else np.floor(times)
        points = [_level(t, r) for t, r in zip(times, rho, strict=True)]
        return [*points, _level(0, min(last, rho[-1] * (1 - NEXT)))]

    def times(self, schedule: Schedule, num: int) -> np.ndarray:
        """The times of the calls, [num]."""
        if self.spacing == "linspace":
            return np.linspace(0, schedule.T - 1, num)[::-1]
        return spaced(schedule.T, num, self.spacing, self.offset)

    def _spread(self, rho: np.ndarray, num: int) -> np.ndarray:
        first = rho[0] if self.sigma_max is None else self.sigma_max
        last = rho[-1] if self.sigma_min is None else self.sigma_min
        if not 0 < last <= first:
            raise ValueError(f"sigma_min .. sigma_max is {last} .. {first}: it must be positive")
        part = np.linspace(0, 1, num)
        if self.spread == "karras":
            return ((1 - part) * first ** (1 / RHO) + part * last ** (1 / RHO)) ** RHO
        if self.spread == "exponential":
            return np.exp((1 - part) * log(first) + part * log(last))
        if self.spread == "beta":
            from scipy.special import betaincinv

            return last + betaincinv(BETA, BETA, 1 - part) * (first - last)
        raise ValueError(f"spread is {self.spread!r}: it must be one of karras, exponential, beta")


@dataclass(frozen=True)
class Euler(Levels):
    """Euler's method in sigma / alpha, with noise or without.

    Args:
        ancestral: Whether each step goes too far down, and comes back up by noise.
    """

    ancestral: bool = False

    def plan(self, schedule: Schedule, num: int) -> Plan:
        path = self.path(schedule, num)
        method = euler_ancestral if self.ancestral else euler
        return _of_scaled(self, path, method(schedule, path, end=path[-1].t))


@dataclass(frozen=True)
class Heun(Levels):
    """Heun's method in sigma / alpha, 2 num - 1 calls."""

    def plan(self, schedule: Schedule, num: int) -> Plan:
        path = self.path(schedule, num)
        return _of_scaled(self, path, heun(schedule, path, end=path[-1].t))


@dataclass(frozen=True)
class _Multistep(Levels):
    """Whole times, the last of num + 1 left out; a spread is over all levels of the schedule."""

    multistep: ClassVar[bool] = True

    def times(self, schedule: Schedule, num: int) -> np.ndarray:
        return spaced(schedule.T, num, self.spacing, self.offset, multistep=True)


@dataclass(frozen=True)
class DPM(_Multistep):
    """Multistep DPM-Solver and DPM-Solver++.

    Args:
        order: 1 .. 3; the third as diffusers has it.
        space: "x_0" for DPM-Solver++, "eps" for DPM-Solver.
        sde: Whether it solves the SDE, of order 2 at most and in "x_0".
        solver_type: Of order 2.
        lower_order_final: Whether the last steps of fewer than 15 go down to order 1.
        euler_at_final: Whether the last step is of order 1.
        log_snr_min: Times whose log(alpha / sigma) is below it are left out; default: none.
    """

    order: int = 2
    space: Space = "x_0"
    sde: bool = False
    solver_type: SolverType = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    log_snr_min: float | None = None

    def times(self, schedule: Schedule, num: int) -> np.ndarray:
        log_snr = schedule.log_snr(np.arange(schedule.T))[::-1]
        least = -inf if self.log_snr_min is None else self.log_snr_min
        T = schedule.T - int(np.searchsorted(log_snr, least))
        if self.spacing != "trailing":
            return spaced(T, num, self.spacing, self.offset, multistep=True)
        stride = schedule.T / num
        return np.round(T - np.arange(ceil(T / stride - 1e-9)) * stride) - 1

    def plan(self, schedule: Schedule, num: int) -> Plan:
        path = self.path(schedule, num)
        few = self.lower_order_final and len(path) <= 15
        return dpm(
            schedule,
            path,
            order=self.order,
            space=self.space,
            eta=float(self.sde),
            end=path[-1].t,
            lower_order_final=few or ("last" if self.euler_at_final else False),
            solver_type=self.solver_type,
            compat="diffusers",
        )


@dataclass(frozen=True)
class UniPC(_Multistep):
    """UniPC, a predictor and a corrector.

    Args:
        order: 1 .. 3.
        space: What is predicted, "x_0" or "eps".
        variant: "bh1" or "bh2".
        lower_order_final: Whether the last steps go down to order 1.
        uncorrected: Steps that are not corrected, from 0 on.
    """

    order: int = 2
    space: Space = "x_0"
    variant: Variant = "bh2"
    lower_order_final: bool = True
    uncorrected: tuple[int, ...] = ()

    def plan(self, schedule: Schedule, num: int) -> Plan:
        path = self.path(schedule, num)
        return unipc(
            schedule,
            path,
            self.order,
            variant=self.variant,
            space=self.space,
            corrector=[i not in self.uncorrected for i in range(num - 1)],
            end=path[-1].t,
            lower_order_final=self.lower_order_final,
        )


def _level(t: float, rho: float) -> Level:
    """The level of sigma / alpha = rho of a process that preserves variance."""
    if rho == 0:
        return Level(DATA, 1.0, 0.0, inf)
    root = float(np.hypot(1, rho))
    return Level(float(t), 1 / root, float(rho) / root, -log(rho))


def _of_scaled(levels: Levels, path: list[Level], plan: Plan) -> Plan:
    """The plan of a scheduler that holds x / alpha: on all but "leading" times it begins with
    sigma / alpha z, in place of x with z; and where it ends before the data, x / alpha is taken
    for the picture.
    """
    if path[-1].t != DATA:
        last = np.append(np.ones(plan.nfe - 1), 1 / path[-1].alpha)
        plan = plan.replace(
            keep=plan.keep * last, mix=plan.mix * last[:, None], noise=plan.noise * last
        )
    return plan if levels.spacing == "leading" else plan.replace(prior_std=plan.sigma[0])
