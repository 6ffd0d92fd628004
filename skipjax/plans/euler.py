"""Euler's and Heun's methods in rho = sigma / alpha, as EDM and k-diffusion have them.

In x / alpha the probability-flow ODE is d(x / alpha) / d rho = eps. Euler's method on it is DDIM.
"""

from itertools import pairwise
from math import inf, sqrt

import numpy as np
from numpy.typing import ArrayLike

from skipjax.plans.ddim import per_step
from skipjax.plans.path import Level, path
from skipjax.plans.path import levels as levels_at
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
    return edm(schedule, times, end=end).named("heun")


@takes_schedule
def edm(
    schedule: Schedule,
    times: ArrayLike,
    *,
    churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = inf,
    s_noise: float = 1.0,
    end: float = DATA,
) -> Plan:
    """EDM's sampler: Heun's steps, each from a level that fresh noise raised before it.

        gamma = min(churn / N, sqrt(2) - 1)  where s_min <= rho_s <= s_max,  else 0
        rho_hat = (1 + gamma) rho_s
        x_hat / alpha_hat = x_s / alpha_s + sqrt(rho_hat^2 - rho_s^2) s_noise z

    and then `heun` from x_hat; without churn it is `heun`. In the table the noise belongs to the
    row before, and the first step's to what sampling starts from. Only the level of the network's
    first call in a step is raised. Above the schedule's largest rho its time goes on as it went
    before where alpha = 1, and is not raised where it is not.

    EDM takes grids.karras(schedule, N): N = 18 without churn for CIFAR-10, 40 for FFHQ and AFHQv2;
    and for ImageNet-64 N = 256, churn 40, s_min 0.05, s_max 50, s_noise 1.003.

    Args:
        schedule: The forward process.
        times: Where steps begin, as in `euler`.
        churn: S_churn: how much noise is added and taken away again, in all steps together.
        s_min: S_min: least rho from which a step is raised.
        s_max: S_max: largest.
        s_noise: S_noise: standard deviation of z; slightly above 1 makes up for detail that is
            lost.
        end: As in `euler`.

    Raises:
        ValueError: If `times` do not fit the schedule, or a number is negative.

    Source: arXiv:2206.00364, algorithm 2, with sigma written as rho = sigma / alpha; appendix E.2.
    """
    for name, value in {
        "churn": churn,
        "s_min": s_min,
        "s_max": s_max,
        "s_noise": s_noise,
    }.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}: it must be a number that is not negative")
    levels = path(schedule, times, end)
    gamma = min(churn / (len(levels) - 1), sqrt(2) - 1)
    tape = Tape(schedule, "eps")
    x, std = tape.start(), None
    for i, (s, t) in enumerate(pairwise(levels)):
        hat = _raised(schedule, s, gamma) if s_min <= s.rho <= s_max else s
        added = s_noise * sqrt(max(hat.rho**2 - s.rho**2, 0.0))
        if hat is not s and i:
            x = hat.alpha * (x / s.alpha + added * tape.noise())
        elif hat is not s and s_noise != 1:
            std = _prior_std(schedule, s, hat, added)
        x_hat, _, eps = tape.call(x, hat)
        x = t.alpha * (x_hat / hat.alpha + (t.rho - hat.rho) * eps)
        if t.t != DATA:
            _, _, eps_t = tape.call(x, t)
            x = t.alpha * (x_hat / hat.alpha + (t.rho - hat.rho) / 2 * (eps + eps_t))
    return tape.plan(x, "edm", end).replace(prior_std=std)


def _raised(schedule: Schedule, s: Level, gamma: float) -> Level:
    """The level at (1 + gamma) rho."""
    if not gamma or not s.alpha:
        return s
    rho = (1 + gamma) * s.rho
    if np.all(schedule.alpha == 1):
        log = np.log(schedule.sigma)
        t = schedule.T - 1.0
        if np.log(rho) <= log[-1]:
            t = float(schedule.time(-np.log(rho)))
        elif schedule.T > 1:
            t += (np.log(rho) - log[-1]) / (log[-1] - log[-2])
        return Level(float(t), 1.0, rho, -float(np.log(rho)))
    last = schedule.log_snr(schedule.T - 1 - (schedule.alpha[-1] == 0))
    return levels_at(schedule, [float(schedule.time(max(-np.log(rho), last)))])[0]


def _prior_std(schedule: Schedule, s: Level, hat: Level, added: float) -> np.float64:
    """Standard deviation of the first x_hat, with `added` z in x_hat / alpha_hat."""
    before = s.sigma if np.all(schedule.alpha == 1) else 1.0
    return np.float64(hat.alpha * np.hypot(before / s.alpha, added))
