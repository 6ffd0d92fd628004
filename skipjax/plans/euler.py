"""Euler's and Heun's methods in rho = sigma / alpha, as EDM and k-diffusion have them.

In x / alpha the probability-flow ODE is d(x / alpha) / d rho = eps. Euler's method on it is DDIM.
"""

from itertools import pairwise
from math import sqrt

from numpy.typing import ArrayLike

from skipjax.plans.ddim import per_step
from skipjax.plans.path import path
from skipjax.plans.plan import Plan
from skipjax.plans.tape import Tape
from skipjax.schedules import DATA, Schedule
from skipjax.schedules.arguments import takes_schedule


@takes_schedule
def euler(schedule: Schedule, times: ArrayLike, *, end: float = DATA) -> Plan:
    """x_t / alpha_t = x_s / alpha_s + (rho_t - rho_s) eps: DDIM without noise, by another way.

    Args:
        schedule: The forward process.
        times: Where the network is called, [N], strictly decreasing, in 0 .. T-1, real or whole.
        end: Where the picture stands: a time below the last, or the data.

    Raises:
        ValueError: If `times` do not fit the schedule.

    Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 1 without its correction.
    """
    return euler_ancestral(schedule, times, 0.0, end=end).named("euler")


@takes_schedule
def euler_ancestral(
    schedule: Schedule, times: ArrayLike, eta: ArrayLike = 1.0, *, end: float = DATA
) -> Plan:
    """A step of Euler's too far down, and noise to come back up: DDIM with the same eta.

        up^2 = eta^2 rho_t^2 (rho_s^2 - rho_t^2) / rho_s^2,   down^2 = rho_t^2 - up^2
        x_t / alpha_t = x_s / alpha_s + (down - rho_s) eps + up z

    Args:
        schedule: The forward process.
        times: Where the network is called, as in `euler`.
        eta: Strength of the noise, 0 .. 1: one number, or one per step, [N].
        end: As in `euler`.

    Raises:
        ValueError: If `times` do not fit the schedule, or an eta is outside 0 .. 1.

    Source: k-diffusion, `sample_euler_ancestral`.
    """
    levels = path(schedule, times, end)
    etas = per_step(eta, len(levels) - 1)
    tape = Tape(schedule, "eps")
    x = tape.start()
    for (s, t), eta_s in zip(pairwise(levels), etas, strict=True):
        x_s, _, eps = tape.call(x, s)
        up = eta_s * t.rho / s.rho * sqrt(s.rho**2 - t.rho**2)
        down = sqrt(max(t.rho**2 - up**2, 0.0))
        x = t.alpha * (x_s / s.alpha + (down - s.rho) * eps + up * tape.noise())
    return tape.plan(x, "euler_ancestral", end)


@takes_schedule
def heun(schedule: Schedule, times: ArrayLike, *, end: float = DATA) -> Plan:
    """Euler's step, corrected by the slope at its end: two calls a step, of order 2.

        x_t / alpha_t = x_s / alpha_s + (rho_t - rho_s) (eps_s + eps_t) / 2

    A step to the data has no slope at its end, and stays Euler's: N times are 2 N - 1 calls.

    Args:
        schedule: The forward process.
        times: Where steps begin, as in `euler`.
        end: As in `euler`.

    Raises:
        ValueError: If `times` do not fit the schedule.

    Source: arXiv:2206.00364, algorithm 1.
    """
    tape = Tape(schedule, "eps")
    x = tape.start()
    for s, t in pairwise(path(schedule, times, end)):
        x_s, _, eps = tape.call(x, s)
        x = t.alpha * (x_s / s.alpha + (t.rho - s.rho) * eps)
        if t.t != DATA:
            _, _, eps_t = tape.call(x, t)
            x = t.alpha * (x_s / s.alpha + (t.rho - s.rho) / 2 * (eps + eps_t))
    return tape.plan(x, "heun", end)
