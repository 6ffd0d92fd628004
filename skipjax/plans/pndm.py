"""PNDM and its kin: DDIM's jump, with Adams-Bashforth's mean of the last predictions for eps.

    x_t = alpha_t / alpha_s x_s + (sigma_t - alpha_t / alpha_s sigma_s) eps'          "transfer"
    eps' = sum_j w_j eps_{i-j},  w = 1;  3/2, -1/2;  23/12, -16/12, 5/12;
                                     55/24, -59/24, 37/24, -9/24

The weights are those of evenly spaced times and of a jump linear in time, which DDIM's is not: the
order of convergence is 2 for every number of predictions. The methods differ in how they start,
before there are predictions to look back at.

Source: Liu et al. 2022 (arXiv:2202.09778), equations 11 to 13, algorithm 2.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from skipjax.checks import whole
from skipjax.plans.path import Level, levels, path
from skipjax.plans.plan import Plan
from skipjax.plans.tape import Combination, Tape, combine
from skipjax.schedules import DATA, Schedule
from skipjax.schedules.arguments import takes_schedule

ADAMS_BASHFORTH = (
    np.array([1.0]),
    np.array([3.0, -1.0]) / 2,
    np.array([23.0, -16.0, 5.0]) / 12,
    np.array([55.0, -59.0, 37.0, -9.0]) / 24,
)
# (tape, x_s, eps_s, s, t) -> eps of a step without a past, which may call the network again.
Start = Callable[[Tape, Combination, Combination, Level, Level], Combination]


@takes_schedule
def ipndm(schedule: Schedule, times: ArrayLike, order: int = 4, *, end: float = DATA) -> Plan:
    """iPNDM: one call a step, the number of predictions growing from 1 to `order`.

    Args:
        schedule: The forward process.
        times: Where the network is called, [N], strictly decreasing, in 0 .. T-1, real or whole.
        order: Predictions used at most, 1 .. 4; 1 is DDIM.
        end: Where the picture stands: a time below the last, or the data.

    Raises:
        ValueError: If `times` do not fit the schedule, or are fewer than `order`.

    Source: Zhang & Chen 2023 (arXiv:2204.13902), appendix H.2.
    """
    order = whole("order", order, 1, 4)
    return _adams(schedule, times, order, end, f"ipndm_{order}")


@takes_schedule
def s_pndm(schedule: Schedule, times: ArrayLike, *, end: float = DATA) -> Plan:
    """S-PNDM: two predictions, started by a step of two calls; N + 1 calls for N times.

    Args as in `ipndm`. The first step needs a second time, or an end that is not the data.
    """
    return _adams(schedule, times, 2, end, "s_pndm", _improved_euler)


@takes_schedule
def f_pndm(
    schedule: Schedule, times: ArrayLike, *, end: float = DATA, whole_times: bool = False
) -> Plan:
    """F-PNDM: four predictions, started by three Runge-Kutta steps of four calls each; N + 9
    calls for N times.

    Args:
        schedule: The forward process.
        times: Where steps begin, [N], N >= 4, strictly decreasing, in 0 .. T-1, real or whole.
        end: Where the picture stands: a time below the last, or the data.
        whole_times: Whether the calls in the middle of a step are made at whole times, rounded
            down, as in the release.

    Raises:
        ValueError: If `times` do not fit the schedule, or are fewer than 4.
    """

    def runge_kutta(
        tape: Tape, x: Combination, e_1: Combination, s: Level, t: Level
    ) -> Combination:
        t_middle = (s.t + t.t) / 2
        (middle,) = levels(schedule, [np.floor(t_middle) if whole_times else t_middle])
        _, _, e_2 = tape.call(_transfer(x, e_1, s, middle), middle)
        _, _, e_3 = tape.call(_transfer(x, e_2, s, middle), middle)
        _, _, e_4 = tape.call(_transfer(x, e_3, s, t), t)
        return (e_1 + 2 * e_2 + 2 * e_3 + e_4) / 6

    return _adams(schedule, times, 4, end, "f_pndm", runge_kutta, 3)


@takes_schedule
def plms(schedule: Schedule, times: ArrayLike, *, end: float = DATA) -> Plan:
    """PLMS as Stable Diffusion uses it: a first step of two calls, then 2, 3 and 4 predictions.

    N + 1 calls for N times. diffusers calls it PNDM with `skip_prk_steps`.

    Args as in `ipndm`; N >= 4.
    """
    return _adams(schedule, times, 4, end, "plms", _improved_euler)


def _adams(
    schedule: Schedule,
    times: ArrayLike,
    order: int,
    end: float,
    method: str,
    start: Start | None = None,
    started: int = 1,
) -> Plan:
    """Adams-Bashforth of DDIM's jumps, the first `started` of them by `start`."""
    steps = pairwise(path(schedule, times, end, fewest=order))
    tape = Tape(schedule, "eps")
    x = tape.start()
    past: list[Combination] = []
    for i, (s, t) in enumerate(steps):
        x_s, _, eps = tape.call(x, s)
        past = [eps, *past][:order]
        if start is not None and i < started:
            mean = start(tape, x_s, eps, s, t)
        else:
            mean = combine(ADAMS_BASHFORTH[len(past) - 1], past)
        x = _transfer(x_s, mean, s, t)
    return tape.plan(x, method, end)


def _improved_euler(
    tape: Tape, x: Combination, e_1: Combination, s: Level, t: Level
) -> Combination:
    _, _, e_2 = tape.call(_transfer(x, e_1, s, t), t)
    return (e_1 + e_2) / 2


def _transfer(x: Combination, eps: Combination, s: Level, t: Level) -> Combination:
    ratio = t.alpha / s.alpha
    return ratio * x + (t.sigma - ratio * s.sigma) * eps
