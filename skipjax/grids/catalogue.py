"""Grids by name, for those who choose one in a command."""

from collections.abc import Callable

import numpy as np

from skipjax.grids.real_times import karras, quadratic, uniform, uniform_log_snr
from skipjax.grids.whole_times import leading, linspace, trailing
from skipjax.schedules import Schedule

# (schedule, num) -> num times
GRIDS: dict[str, Callable[[Schedule, int], np.ndarray]] = {
    "uniform": lambda schedule, num: uniform(schedule.T, num),
    "quadratic": lambda schedule, num: quadratic(schedule.T, num),
    "uniform_log_snr": uniform_log_snr,
    "karras": karras,
    "leading": lambda schedule, num: leading(schedule.T, num),
    "trailing": lambda schedule, num: trailing(schedule.T, num),
    "linspace": lambda schedule, num: linspace(schedule.T, num),
}


def named(name: str, schedule: Schedule, num: int) -> np.ndarray:
    """The grid of a name, of `num` times.

    Raises:
        ValueError: For a name that is not in `GRIDS`, or a number that the grid cannot have.
    """
    if name not in GRIDS:
        raise ValueError(f"grid is {name!r}: it must be one of {', '.join(GRIDS)}")
    return GRIDS[name](schedule, num)
