"""Grids of real times: even in t, in a power of it, or in the level of the noise."""

import numpy as np

from skipjax.checks import whole
from skipjax.schedules import Schedule
from skipjax.schedules.arguments import takes_schedule, takes_T


@takes_T
def uniform(T: int, num: int, *, start: float | None = None, last: float = 0.0) -> np.ndarray:
    """Evenly in t; arguments as in `power_law`. "linspace" of diffusers' Euler, Heun and LMS."""
    return power_law(T, num, 1.0, start=start, last=last)


@takes_T
def quadratic(T: int, num: int, *, start: float | None = None, last: float = 0.0) -> np.ndarray:
    """Evenly in sqrt(t), arguments as in `power_law`: more times where little noise is left.

    Source: Song et al. 2021 (arXiv:2010.02502), section D.2; DEIS (arXiv:2204.13902), appendix.
    """
    return power_law(T, num, 2.0, start=start, last=last)


@takes_T
def power_law(
    T: int, num: int, power: float, *, start: float | None = None, last: float = 0.0
) -> np.ndarray:
    """Evenly in t^(1 / power).

    Args:
        T: Number of training times.
        num: How many times, both ends included.
        power: Positive; above 1, times are closer the less noise is left.
        start: First time, in 0 .. T-1; default: T-1.
        last: Last time, below `start`.

    Returns:
        float64 [num].

    Raises:
        ValueError: If `num` is no whole number of at least 1, `power` is not positive, or the ends
            are not such times.
    """
    num, start, last = _checked(T, num, start, last)
    _positive("power", power)
    even = np.linspace(start ** (1 / power), last ** (1 / power), num)
    return _with_ends(even**power, start, last)


@takes_schedule
def uniform_log_snr(
    schedule: Schedule, num: int, *, start: float | None = None, last: float = 0.0
) -> np.ndarray:
    """Evenly in log_snr = log(alpha / sigma), DPM-Solver's choice; diffusers' "exponential".

    Source: Lu et al. 2022 (arXiv:2206.00927), section 3.3.

    Args:
        schedule: The forward process.
        num: How many times, both ends included.
        start: First time, in 0 .. T-1; default: T-1.
        last: Last time, below `start`.

    Returns:
        float64 [num].

    Raises:
        ValueError: If `num` is no whole number of at least 1, the ends are not such times, or the
            SNR at `start` is zero.
    """
    num, start, last = _checked(schedule.T, num, start, last)
    first, final = _log_snr(schedule, start), _log_snr(schedule, last)
    return _with_ends(schedule.time(np.linspace(first, final, num)), start, last)


@takes_schedule
def karras(
    schedule: Schedule,
    num: int,
    rho: float = 7.0,
    *,
    start: float | None = None,
    last: float = 0.0,
) -> np.ndarray:
    """Evenly in (sigma / alpha)^(1 / rho), EDM's choice. As rho grows, `uniform_log_snr`.

    Source: Karras et al. 2022 (arXiv:2206.00364), equation 5.

    Args:
        schedule: The forward process.
        num: How many times, both ends included.
        rho: Positive.
        start: First time, in 0 .. T-1; default: T-1.
        last: Last time, below `start`.

    Returns:
        float64 [num].

    Raises:
        ValueError: As `uniform_log_snr`, and if `rho` is not positive.
    """
    num, start, last = _checked(schedule.T, num, start, last)
    _positive("rho", rho)
    first, final = _log_snr(schedule, start), _log_snr(schedule, last)
    even = np.linspace(np.exp(-first / rho), np.exp(-final / rho), num)
    return _with_ends(schedule.time(-rho * np.log(even)), start, last)


@takes_schedule
def few_steps(schedule: Schedule, num: int, *, start: float | None = None) -> np.ndarray:
    """The grid that was tuned by hand for Stable Diffusion in 4 to 8 calls.

    Evenly in t^(1 / 1.2), down to where a Karras grid has still some way to go. The picture is
    left there: `*times, end = few_steps(schedule, 6)` is for 5 calls. Which Karras grid, and which
    of its times, goes by the number of calls:

        calls       karras(schedule, points, rho)[i]
        up to 4     points 8, rho 5, i 5
        5, 6        points 8, rho 5, i 6
        more        points 12, rho 7, i 9

    Others are power_law(T, num, 1.2, last=karras(schedule, points, rho)[i]): rho 12 for Stable
    Diffusion XL. DDIM was used up to 6 calls, DPM-Solver++ 2M for more.

    Args:
        schedule: The forward process.
        num: How many times, one more than calls; at least 2.
        start: First time, in 0 .. T-1; default: T-1.

    Returns:
        float64 [num].

    Raises:
        ValueError: If `num` is no such number, or the SNR at `start` is zero.

    Source: arXiv:2510.02390 and the code published with it.
    """
    calls = whole("num", num, 2) - 1
    points, rho, i = (8, 5, 5) if calls <= 4 else (8, 5, 6) if calls <= 6 else (12, 7, 9)
    last = karras(schedule, points, rho, start=start)[i]
    return power_law(schedule.T, num, 1.2, start=start, last=last)


def _checked(T: int, num: int, start: float | None, last: float) -> tuple[int, float, float]:
    """The number of times, and the first and last of them."""
    num = whole("num", num, 1)
    start = T - 1 if start is None else start
    if not (0 <= last < start <= T - 1 or num == 1 and 0 <= start <= T - 1):
        raise ValueError(
            f"start is {start} and last is {last}: they must be in {T - 1} .. 0, start above last"
        )
    return num, float(start), float(last)


def _positive(name: str, value: float) -> None:
    if not 0 < value < np.inf:
        raise ValueError(f"{name} is {value}: it must be a positive number")


def _log_snr(schedule: Schedule, t: float) -> float:
    log_snr = float(schedule.log_snr(t))
    if log_snr == -np.inf:
        raise ValueError(
            f"at time {t:g} the SNR is zero, infinitely far from all other levels: give "
            f"start={schedule.T - 2}, and put {t:g} before the grid to call the network there "
            "too; or take a grid that goes by t, such as uniform or trailing"
        )
    return log_snr


def _with_ends(times: np.ndarray, start: float, last: float) -> np.ndarray:
    """The times, with ends that no rounding has touched."""
    if len(times) > 1:
        times[-1] = last
    times[0] = start
    if not np.all(np.diff(times) < 0):
        raise ValueError(
            f"not all of {len(times)} times can be told apart: ask for fewer, or less unevenly"
        )
    return times
