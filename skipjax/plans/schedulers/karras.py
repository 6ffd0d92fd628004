"""EDM's own sampler: Heun's method on Karras's levels."""

from dataclasses import dataclass
from math import inf

from skipjax import grids
from skipjax.plans.euler import edm
from skipjax.plans.plan import Plan
from skipjax.schedules import Schedule


@dataclass(frozen=True)
class EDM:
    """EDM's sampler on its own grid, 2 num - 1 calls.

    Args:
        churn: Noise that is added on the way, as `plans.edm` has it; with it its three limits.
        s_min: Least sigma / alpha at which it is.
        s_max: Largest; None: without bound.
        s_noise: How much larger it is than what is taken away again.
        rho: Of the grid.

    Source: Karras et al. 2022 (arXiv:2206.00364), algorithms 1 and 2.
    """

    churn: float = 0.0
    s_min: float = 0.0
    s_max: float | None = None
    s_noise: float = 1.0
    rho: float = 7.0

    def plan(self, schedule: Schedule, num: int) -> Plan:
        noise = {"churn": self.churn, "s_min": self.s_min}
        noise |= {"s_max": inf if self.s_max is None else self.s_max, "s_noise": self.s_noise}
        return edm(schedule, grids.karras(schedule, num, self.rho), **noise)
