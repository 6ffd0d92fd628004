"""Which times a sampler visits.

A grid is a NumPy vector of N times, strictly decreasing within 0 .. T-1, noisiest first: int where
it is made of whole times, float64 where it stands between them. The data itself is in no grid, and
what the last time is for is said to the plan:

    plans.ddim(schedule, times)                          N calls, the last step goes to the data
    plans.ddim(schedule, times[:-1], end=times[-1])      N-1 calls, the picture ends at the last

Solvers in log_snr are made for the second: to the data it is infinitely far. For n calls that end
at time 0, ask a grid for n + 1 times.

Real grids go from `start`, T-1 by default, to `last`, 0 by default. Both are in the grid, to the
last bit; one time alone is `start`.
"""

from skipjax.grids.catalogue import GRIDS as GRIDS
from skipjax.grids.catalogue import named as named
from skipjax.grids.real_times import few_steps as few_steps
from skipjax.grids.real_times import karras as karras
from skipjax.grids.real_times import power_law as power_law
from skipjax.grids.real_times import quadratic as quadratic
from skipjax.grids.real_times import uniform as uniform
from skipjax.grids.real_times import uniform_log_snr as uniform_log_snr
from skipjax.grids.whole_times import leading as leading
from skipjax.grids.whole_times import linspace as linspace
from skipjax.grids.whole_times import respaced as respaced
from skipjax.grids.whole_times import skipped as skipped
from skipjax.grids.whole_times import trailing as trailing
