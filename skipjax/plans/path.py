"""The levels that a sampler passes on its way from noise to data."""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from skipjax.schedules import DATA, Schedule


class Level(NamedTuple):
    """A time and what x_t = alpha x_0 + sigma eps holds there; `log_snr` = log(alpha / sigma).

    Plans take levels in the place of times, where points stand at others than the schedule's.
    """

    t: float
    alpha: float
    sigma: float
    log_snr: float

    @property
    def rho(self) -> float:
        """sigma / alpha: the noise in x / alpha, infinite where alpha is 0."""
        return self.sigma / self.alpha if self.alpha else inf


def path(
    schedule: Schedule,
    times: ArrayLike | Sequence[Level],
    end: float = DATA,
    *,
    fewest: int = 1,
) -> list[Level]:
    """The levels of a grid: N at which the network is called, and the one where the picture ends.

    Args:
        schedule: The forward process.
        times: Where the network is called, [N], strictly decreasing, in 0 .. T-1; whole or real.
            Or N + 1 levels, of ever less noise, which are then the path.
        end: Where the picture stands: DATA, or a time below the last.
        fewest: Least N that the method can do with.

    Returns:
        N + 1 levels.

    Raises:
        ValueError: If the times or the end are something else, or there are too few.
    """
    if isinstance(times, list) and times and isinstance(times[0], Level):
        return times
    t = np.asarray(times)
    if t.ndim != 1 or not t.size or not np.issubdtype(t.dtype, np.number):
        raise ValueError(f"times must be a non-empty vector of numbers, got {times!r}")
    # `not all`, since a NaN compares false either way.
    if not (t[0] <= schedule.T - 1 and t[-1] >= 0 and np.all(np.diff(t) < 0)):
        raise ValueError(
            f"times must decrease strictly within {schedule.T - 1} .. 0, got {t.tolist()}"
        )
    if end != DATA and not 0 <= end < t[-1]:
        raise ValueError(
            f"end is {end}: it must be {DATA}, the data, or a time in 0 .. {t[-1]}, below the "
            "last call"
        )
    if len(t) < fewest:
        raise ValueError(
            f"{len(t)} times are too few: this method and order need {fewest} or more; ask for a "
            "lower order"
        )
    return levels(schedule, np.append(t, end))


def levels(schedule: Schedule, times: ArrayLike) -> list[Level]:
    """The levels of times, real or whole, looked up all at once."""
    t = np.asarray(times)
    columns = np.stack([t, *schedule.at(t), schedule.log_snr(t)], axis=1)
    return [Level(*row) for row in columns.tolist()]


def between(
    schedule: Schedule,
    steps: Sequence[tuple[Level, Level]],
    parts: Sequence[tuple[float, ...]],
) -> list[list[Level]]:
    """The levels at some parts of the way of each step, in log_snr; every 0 < part < 1."""
    log_snr = [
        (1 - part) * s.log_snr + part * t.log_snr
        for (s, t), inner in zip(steps, parts, strict=True)
        for part in inner
    ]
    found = iter(levels(schedule, schedule.time(log_snr)))
    return [[next(found) for _ in inner] for inner in parts]
