"""DDPM, skipped-step sampling, DDIM, and their hybrid.

Each step jumps from a time t to a less noisy s, by the posterior that `schedules.posterior`
derives, or a relative of it. The four are one family:

    skipped-step = DDPM on the respaced chain = DDIM with eta 1
    hybrid = DDIM with eta 1, then 0

exactly, which the tests hold to 1e-12. They are written here each as in its own paper.
"""

from typing import Literal

import numpy as np

from skipjax import grids
from skipjax.checks import whole
from skipjax.plans.plan import Plan, Tape
from skipjax.schedules import DATA, Schedule, posterior


def ddpm(
    schedule: Schedule, times: np.ndarray, variance: Literal["small", "large"] = "small"
) -> Plan:
    """Ancestral sampling on the chain that visits only `times`.

        x_s = mean of q(x_s | x_t, x_0) + std z

    Args:
        schedule: The forward process.
        times: Grid of N times, int, strictly decreasing, in 0 .. T-1.
        variance: Of z. "small" is the posterior's, "large" that of q(x_t | x_s). No noise is added
            on the last step.

    Raises:
        ValueError: For a grid that does not fit the schedule, or another variance.

    Source: Ho et al. 2020 (arXiv:2006.11239), equations 6, 7 and 11, section 3.2; on a part of
    the times: Nichol & Dhariwal 2021 (arXiv:2102.09672), section 4.
    """
    if variance not in ("small", "large"):
        raise ValueError(f"variance is {variance!r}: it must be 'small' or 'large'")
    tape = Tape(schedule)
    x = tape.start()
    for t, s in jumps(schedule, times):
        x_t, x_0, _ = tape.call(x, t)
        jump = posterior(schedule, t, s)
        std = np.sqrt(jump.variance)
        if variance == "large" and s != DATA:
            std = np.sqrt(jump.added)
        x = jump.keep * x_t + jump.mix * x_0 + std * tape.noise()
    return tape.plan(x)


def ddim(schedule: Schedule, times: np.ndarray, eta: float | np.ndarray = 0.0) -> Plan:
    """DDIM: jumps that need not be Markov, with as much noise as one likes.

        std^2 = eta^2 variance of q(x_s | x_t, x_0)
        x_s = alpha_s x_0 + sqrt(sigma_s^2 - std^2) eps + std z

    Args:
        schedule: The forward process.
        times: Grid of N times, int, strictly decreasing, in 0 .. T-1.
        eta: 0 for no noise, 1 for the posterior's; one number, or one per step, [N], each in
            0 .. 1.

    Raises:
        ValueError: For a grid that does not fit the schedule, or an eta outside 0 .. 1.

    Source: Song et al. 2021 (arXiv:2010.02502), equations 12 and 16.
    """
    steps = jumps(schedule, times)
    eta = np.asarray(eta, np.float64)
    if eta.shape not in ((), (len(steps),)) or not np.all((eta >= 0) & (eta <= 1)):
        raise ValueError(
            f"eta must be a number in 0 .. 1, or {len(steps)} of them, one per step; got {eta}"
        )
    tape = Tape(schedule)
    x = tape.start()
    for (t, s), eta_t in zip(steps, np.broadcast_to(eta, len(steps)), strict=True):
        _, x_0, eps = tape.call(x, t)
        (_, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
        jump = posterior(schedule, t, s)
        std = eta_t * np.sqrt(jump.variance)
        # sqrt(sigma_s^2 - std^2), without the cancellation: for eta 1 it is jump.keep sigma_t.
        left = np.hypot(np.sqrt(1 - eta_t**2) * sigma_s, eta_t * jump.keep * sigma_t)
        x = alpha_s * x_0 + left * eps + std * tape.noise()
    return tape.plan(x)


def hybrid(schedule: Schedule, times: np.ndarray, cutoff: int) -> Plan:
    """Skipped-step sampling while much is undecided, DDIM for the rest.

    A step that starts at t >= cutoff draws from the posterior of its jump, as skipped-step
    sampling does; one that starts below is a step of DDIM with eta 0.

    Args:
        schedule: The forward process.
        times: Grid of N times, int, strictly decreasing, in 0 .. T-1.
        cutoff: In 0 .. T. 0 is pure skipped-step sampling, T pure DDIM.

    Raises:
        ValueError: For a grid that does not fit the schedule, or a cutoff outside 0 .. T.

    Source: arXiv:2508.15233, algorithms 2 and 3.
    """
    cutoff = whole("cutoff", cutoff, 0, schedule.T)
    tape = Tape(schedule)
    x = tape.start()
    for t, s in jumps(schedule, times):
        x_t, x_0, eps = tape.call(x, t)
        if t >= cutoff:
            jump = posterior(schedule, t, s)
            x = jump.keep * x_t + jump.mix * x_0 + np.sqrt(jump.variance) * tape.noise()
        else:
            alpha_s, sigma_s = schedule.at(s)
            x = alpha_s * x_0 + sigma_s * eps
    return tape.plan(x)


def skipped(schedule: Schedule, skip: int = 20, cutoff: int = 0) -> Plan:
    """Skipped-step sampling over every `skip`-th time, with DDIM below `cutoff`.

    Args:
        schedule: The forward process.
        skip: Stride over the T training times, in 1 .. T; the network is called ceil(T / skip)
            times, at T-1, T-1-skip, ...
        cutoff: As in `hybrid`; 0 is skipped-step sampling throughout.

    Raises:
        ValueError: If `skip` or `cutoff` is outside its range, or not a whole number.

    Source: arXiv:2508.15233, algorithm 2.
    """
    return hybrid(schedule, grids.skipped(schedule.T, skip), cutoff)


def jumps(schedule: Schedule, times: np.ndarray) -> list[tuple[int, int]]:
    """The steps (t, s) of a grid, the last of them to the data.

    Raises:
        ValueError: If the times are not whole, strictly decreasing, and in 0 .. T-1.
    """
    times = np.asarray(times)
    if times.ndim != 1 or not times.size or not np.issubdtype(times.dtype, np.integer):
        raise ValueError(f"times must be a non-empty vector of int, got {times!r}")
    times = times.astype(np.int64)
    if times[0] >= schedule.T or times[-1] < 0 or np.any(np.diff(times) >= 0):
        raise ValueError(
            f"times must decrease strictly within {schedule.T - 1} .. 0, got {times.tolist()}"
        )
    times = times.tolist()
    return list(zip(times, [*times[1:], DATA], strict=True))
