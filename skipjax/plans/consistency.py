"""Multistep consistency sampling: to the data in one call, noise again, and so on.

A consistency model takes a point to the end of the probability flow that leads through it, and so
needs one call where solvers need many. Every call more begins with fresh noise, of a lower level.
"""

from itertools import pairwise
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike

from skipjax.plans.path import path
from skipjax.plans.plan import Plan
from skipjax.plans.tape import Tape
from skipjax.schedules import DATA, Schedule
from skipjax.schedules.arguments import takes_schedule


@takes_schedule
def consistency(
    schedule: Schedule,
    times: ArrayLike,
    *,
    sigma_min: float | None = None,
    end: float = DATA,
) -> Plan:
    """What a consistency model says of each point, with noise up to the level of the next.

        x_t = alpha_t x_0 + sqrt(sigma_t^2 - (alpha_t sigma_min)^2) z

    It is no solver: a network that says the mean of x_0, as those of diffusion do, is not brought
    nearer to the data by more calls. The times that were released for OpenAI's networks are on a
    Karras grid that ends at sigma_min, `grids.karras(schedule, 40)[[0, 22]]` for two calls.

    Args:
        schedule: The forward process.
        times: Where the network is called, [N], strictly decreasing, in 0 .. T-1, real or whole.
        sigma_min: Level of the noise, sigma / alpha, that is left in what the network says.
            Default: of time 0 where the variance explodes, as for OpenAI's networks; else 0, as
            for latent consistency models.
        end: Where the picture stands: a time below the last, or the data.

    Raises:
        ValueError: If `times` do not fit the schedule, or sigma_min is negative, or above the
            level of a time.

    Source: Song et al. 2023 (arXiv:2303.01469), algorithm 1; where variance is preserved, Luo et
    al. 2023 (arXiv:2310.04378), algorithm 3.
    """
    levels = path(schedule, times, end)
    if sigma_min is None:
        sigma_min = float(schedule.sigma[0]) if np.all(schedule.alpha == 1) else 0.0
    lowest = min(level.rho for level in levels if level.t != DATA)
    if not 0 <= sigma_min <= lowest:
        raise ValueError(
            f"sigma_min is {sigma_min}: it must be in 0 .. {lowest:.4g}, the least level of the "
            "times"
        )
    tape = Tape(schedule)
    x = tape.start()
    for s, t in pairwise(levels):
        _, x_0, _ = tape.call(x, s)
        squared = t.sigma**2 - (t.alpha * sigma_min) ** 2
        x = t.alpha * x_0 + sqrt(max(squared, 0.0)) * tape.noise()
    return tape.plan(x, "consistency", end)
