"""DEIS: Adams-Bashforth methods in which everything but the prediction is integrated exactly.

With rho = sigma / alpha, the probability-flow ODE is d(x / alpha) = eps d rho, and so

    x_t = alpha_t / alpha_s x_s + alpha_t sum_j eps_j int_{rho_s}^{rho_t} L_j d rho

with L_j the Lagrange polynomials through the newest levels, in a variable u(rho) that the writer
chooses: the time (tAB), rho itself (rhoAB), or log rho.
"""

from itertools import pairwise
from math import ceil, floor
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from skipjax.checks import whole
from skipjax.plans.exponential import Step, usable
from skipjax.plans.path import Level, path
from skipjax.plans.plan import Plan
from skipjax.plans.tape import Combination, Tape, combine
from skipjax.schedules import DATA, Schedule
from skipjax.schedules.arguments import takes_schedule

Variable = Literal["t", "rho", "log_rho"]
NAMES = {"t": "deis_tab", "rho": "deis_rhoab", "log_rho": "deis_log_rho"}
POINTS, WEIGHTS = np.polynomial.legendre.leggauss(8)


@takes_schedule
def deis(
    schedule: Schedule,
    times: ArrayLike,
    order: int = 3,
    *,
    variable: Variable = "t",
    end: float = DATA,
    lower_order_final: bool = False,
) -> Plan:
    """DEIS with polynomials of degree `order` through `order` + 1 predictions of eps.

    Its order of convergence is `order` + 1, on grids that are even in log_snr or in sqrt(t). The
    degree grows from 0 over the first steps, which leaves order 2 at most where they are not in
    nearly pure noise. Degree 0 is DDIM.

    Args:
        schedule: The forward process.
        times: Where the network is called, [N], strictly decreasing, in 0 .. T-1, real or whole.
        order: Degree of the polynomials, 0 .. 3.
        variable: What they are polynomials of: "t" is the paper's tAB, "rho" its rhoAB (with
            degree 3 k-diffusion's LMS), "log_rho" that of diffusers.
        end: Where the picture stands: a time below the last, or the data. A step to the data is of
            degree 0, but in "rho", which is finite there.
        lower_order_final: Whether the last steps go down to degree 0. It limits the order.

    Raises:
        ValueError: If `times` do not fit the schedule, or are no more than the degree; for another
            degree or variable; or at zero SNR.

    Source: Zhang & Chen 2023 (arXiv:2204.13902), equations 14 and 15, section 3.3.
    """
    order = whole("order", order, 0, 3)
    if variable not in NAMES:
        raise ValueError(f"variable is {variable!r}: it must be one of {', '.join(NAMES)}")
    levels = path(schedule, times, end, fewest=order + 1)
    tape = Tape(schedule, "eps")
    x = tape.start()
    past: list[tuple[Level, Combination]] = []
    for i, (s, t) in enumerate(pairwise(levels)):
        x_s, _, eps = tape.call(x, s)
        past = [(s, eps), *past][: order + 1]
        known = past  # rho reaches the data
        if variable != "rho" or lower_order_final:
            known = usable(past, t, len(levels) - 1 - i, lower_order_final)
        factors = weights(schedule, s, t, [level for level, _ in known], variable)
        x = t.alpha / s.alpha * x_s + combine(factors, [eps for _, eps in known])
    return tape.plan(x, f"{NAMES[variable]}{order}", end)


def weights(
    schedule: Schedule, s: Level, t: Level, nodes: list[Level], variable: Variable
) -> np.ndarray:
    """alpha_t times the integrals of the Lagrange polynomials of some levels from s to t."""
    if variable == "log_rho" or len(nodes) == 1:
        return Step(s, t, "eps").through(nodes)  # log rho is -log_snr: an exponential integrator
    # Between whole times a schedule is smooth, and across them it need not be.
    whole_times = np.arange(ceil(s.t) - 1, floor(t.t), -1) if variable == "t" else np.arange(0)
    alpha, sigma = schedule.at(whole_times)
    edges = np.concatenate([[s.rho], sigma / alpha, [t.rho]])
    half = np.diff(edges)[:, None] / 2
    rho = edges[:-1, None] + half * (1 + POINTS)
    if variable == "t":
        u, known = schedule.time(-np.log(rho)), [level.t for level in nodes]
    else:
        u, known = rho, [level.rho for level in nodes]
    itself = np.eye(len(known), dtype=bool)
    apart = np.where(itself, 1.0, np.subtract.outer(known, known))
    factors = np.where(itself, 1.0, np.subtract.outer(u, known)[..., None, :] / apart)
    return t.alpha * np.tensordot(half * WEIGHTS, factors.prod(axis=-1), 2)
