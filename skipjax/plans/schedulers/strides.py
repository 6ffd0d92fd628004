"""Schedulers that step over whole times: DDPM, DDIM, PNDM, LCM.

DDIM and PNDM step from t to t - T // num. Where times are rounded, that is not where the network
is called next: it is then told one time, and stands at the level of another.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Literal

import numpy as np

from skipjax import grids
from skipjax.checks import whole
from skipjax.plans.ddim import ddpm, unclipped
from skipjax.plans.path import Level, levels
from skipjax.plans.plan import Plan
from skipjax.plans.pndm import ADAMS_BASHFORTH
from skipjax.plans.tape import Combination, Tape, combine
from skipjax.schedules import DATA, Schedule, Variance

Spacing = Literal["leading", "trailing", "linspace"]
RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
SIGMA_DATA = 0.5  # of LCM's boundary condition
LEAST = 1e-20  # of a variance that is 0: diffusers takes its logarithm


def spaced(
    T: int, num: int, spacing: Spacing, offset: int = 0, *, multistep: bool = False
) -> np.ndarray:
    """Whole times, [num], noisiest first.

    Raises:
        ValueError: For another spacing, or times that leave 0 .. T-1.
    """
    if spacing == "leading":
        return grids.leading(T, num, offset, multistep=multistep)
    if spacing == "linspace":
        return grids.linspace(T, num, multistep=multistep)
    if spacing == "trailing":
        return grids.trailing(T, num)
    raise ValueError(f"spacing is {spacing!r}: it must be leading, trailing or linspace")


@dataclass(frozen=True)
class DDPM:
    """Ancestral sampling on the chain of the times.

    Args:
        spacing: Of the times.
        offset: Added to each of "leading" ones.
        variance: Of the noise, as `plans.ddpm` has it. It is added on the step to the data too,
            unless that begins at time 0.
    """

    spacing: Spacing = "leading"
    offset: int = 0
    variance: Variance = "small"

    def plan(self, schedule: Schedule, num: int) -> Plan:
        times = spaced(schedule.T, num, self.spacing, self.offset)
        plan = ddpm(schedule, times, self.variance)
        if times[-1] == 0:
            return plan
        added = float(plan.sigma[-1]) ** 2  # of q(x_t | x_s) where s is the data
        last = {"small": sqrt(LEAST), "large": sqrt(added)}.get(self.variance, 1.0)
        plan = plan.replace(noise=np.append(plan.noise[:-1], last))
        if self.variance != "learned_range":
            return plan
        bounds = np.array(plan.log_variance)
        bounds[-1] = np.log([LEAST, added])
        return plan.replace(log_variance=bounds)


@dataclass(frozen=True)
class DDIM:
    """DDIM without noise, from t to t - T // num.

    Args:
        spacing: Of the times.
        offset: Added to each of "leading" ones.
        to_data: Whether a step below time 0 goes to the data, or to time 0.
        clipped_eps: Whether eps follows a clipped x_0, as `plans.ddim` has it.
    """

    spacing: Spacing = "leading"
    offset: int = 0
    to_data: bool = True
    clipped_eps: bool = False

    def plan(self, schedule: Schedule, num: int) -> Plan:
        times = spaced(schedule.T, num, self.spacing, self.offset)
        end = DATA if self.to_data else 0
        after = times - schedule.T // num
        tape = Tape(schedule)
        x = tape.start()
        steps = levels(schedule, times), levels(schedule, np.where(after < 0, end, after))
        for s, t in zip(*steps, strict=True):
            _, x_0, eps = tape.call(x, s)
            x = t.alpha * x_0
            if t.sigma:
                x += t.sigma * (eps if self.clipped_eps else unclipped(tape, eps, s))
        return tape.plan(x, "ddim", end)


@dataclass(frozen=True)
class PNDM:
    """PNDM: Adams-Bashforth's mean of four outputs, after a start by Runge-Kutta or by PLMS's.

    num + 9 calls, or num + 1.

    Args:
        spacing: Of the times.
        offset: Added to each of "leading" ones.
        to_data: Whether a step below time 0 goes to the data, or to time 0.
        skip_runge_kutta: Whether to start by one step of two calls, as Stable Diffusion does.
        mean_of: What is averaged: "eps"; or "v", of a network that predicts it, and is then read
            at the level where the step begins.

    Source: Liu et al. 2022 (arXiv:2202.09778), equations 11 to 13.
    """

    spacing: Spacing = "leading"
    offset: int = 0
    to_data: bool = False
    skip_runge_kutta: bool = False
    mean_of: Literal["eps", "v"] = "eps"

    def plan(self, schedule: Schedule, num: int) -> Plan:
        fewest = 1 if self.skip_runge_kutta else 4
        if num < fewest:
            raise ValueError(f"its Runge-Kutta steps need {fewest} times")
        times = spaced(schedule.T, num, self.spacing, self.offset).tolist()
        stride, end = schedule.T // num, DATA if self.to_data else 0
        tape = Tape(schedule, "eps")

        def at(t: int) -> Level:
            return levels(schedule, [end if t < 0 else t])[0]

        def call(x: Combination, t: int) -> tuple[Combination, Combination]:
            level = at(t)
            x, x_0, eps = tape.call(x, level)
            return x, eps if self.mean_of == "eps" else level.alpha * eps - level.sigma * x_0

        def step(x: Combination, mean: Combination, start: int, stop: int) -> Combination:
            s, t = at(start), at(stop)
            eps = mean if self.mean_of == "eps" else s.alpha * mean + s.sigma * x
            ratio = t.alpha / s.alpha
            return ratio * x + (t.sigma - ratio * s.sigma) * eps

        x, past = tape.start(), []
        begun = 0
        if not self.skip_runge_kutta:
            half, begun = stride // 2, 3
            for t, after in pairwise(times[:4]):
                middle = after + half
                base, m = call(x, t)
                past, slopes = [m, *past], [m]
                for stop, told in ((t - half, middle), (middle, middle), (middle - half, after)):
                    slopes.append(call(step(base, slopes[-1], t, stop), told)[1])
                x = step(base, combine(RUNGE_KUTTA, slopes), t, after)
        elif num > 1:
            base, m = call(x, times[0])
            _, other = call(step(base, m, times[0], times[0] - stride), times[1])
            past, begun = [m], 1
            x = step(base, (m + other) / 2, times[1] + stride, times[1])
        for t in times[begun:]:
            x, m = call(x, t)
            past = [m, *past][:4]
            x = step(x, combine(ADAMS_BASHFORTH[len(past) - 1], past), t, t - stride)
        return tape.plan(x, "pndm", end)


@dataclass(frozen=True)
class LCM:
    """Sampling of a latent consistency model: to its x_0, and back by fresh noise.

        d = c_out x_0 + c_skip x,   c_skip = 1 / (1 + u^2),  c_out = u / sqrt(1 + u^2)
        u = scaling t / sigma_data
        x_s = alpha_s d + sigma_s z;  the last d is the sample

    Args:
        original: Steps of the teacher's grid, of which those taken are a part.
        scaling: Of t in the boundary condition.

    Source: Luo et al. 2023 (arXiv:2310.04378), algorithm 1 and section 4.2.
    """

    original: int = 50
    scaling: float = 10.0

    def plan(self, schedule: Schedule, num: int) -> Plan:
        original = whole("original_inference_steps", self.original, 1, schedule.T)
        num = whole("steps", num, 1, original)
        grid = np.arange(original, 0, -1) * (schedule.T // original) - 1
        times = grid[np.floor(np.linspace(0, original, num, endpoint=False)).astype(int)]
        path = levels(schedule, times)
        tape = Tape(schedule)
        x = tape.start()
        for s, t in zip(path, [*path[1:], None], strict=True):
            x, x_0, _ = tape.call(x, s)
            u = self.scaling * s.t / SIGMA_DATA
            x = (u * x_0 + x / sqrt(1 + u * u)) / sqrt(1 + u * u)
            if t is not None:
                x = t.alpha * x + t.sigma * tape.noise()
        return tape.plan(x, "lcm")
