"""A checkpoint's own sampler: what it is sampled with where nothing else is asked for."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from skipjax.checks import whole
from skipjax.plans.plan import Plan
from skipjax.schedules import Schedule


@runtime_checkable
class Method(Protocol):
    """What writes a plan of so many steps: `DDIM`, `Euler`, ... or one of your own, frozen."""

    def plan(self, schedule: Schedule, num: int) -> Plan: ...


@dataclass(frozen=True)
class Scheduler:
    """A method, how many steps it takes, and what it does to predictions of x_0.

    Args:
        method: What writes the plan.
        steps: How many, unless asked for otherwise. The network may be called more often.
        clip: Keeps x_0 within -clip .. clip; None: not.
        threshold: Of dynamic thresholding, instead: its quantile, and the largest scale.
    """

    method: Method
    steps: int = 50
    clip: float | None = None
    threshold: tuple[float, float] | None = None

    def plan(self, schedule: Schedule, steps: int | None = None) -> Plan:
        """The table.

        Args:
            schedule: The checkpoint's forward process.
            steps: How many; default: `self.steps`.

        Raises:
            ValueError: If it cannot take so many.
        """
        steps = whole("steps", self.steps if steps is None else steps, 1, schedule.T)
        try:
            return self.method.plan(schedule, steps)
        except ValueError as error:
            name = type(self.method).__name__
            raise ValueError(
                f"steps is {steps}, which the checkpoint's own {name} cannot take: {error}"
            ) from None
