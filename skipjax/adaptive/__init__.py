"""Samplers that look at the data to choose where they go next.

Their coefficients depend on x, so they are no tables: each has a step of its own, and every
picture its own levels. Like `integrate` they are pure functions, under `jit` and `vmap`, whose
schedule and settings are fixed before compiling; a picture depends on its own key alone.
"""

from skipjax.adaptive.langevin_gibbs import Chain as Chain
from skipjax.adaptive.langevin_gibbs import LogLevels as LogLevels
from skipjax.adaptive.langevin_gibbs import by_density as by_density
from skipjax.adaptive.langevin_gibbs import descend as descend
from skipjax.adaptive.langevin_gibbs import langevin_gibbs as langevin_gibbs
from skipjax.adaptive.langevin_gibbs import start as start
from skipjax.adaptive.step_size import Solution as Solution
from skipjax.adaptive.step_size import dpm as dpm
from skipjax.adaptive.time_shift import Shifted as Shifted
from skipjax.adaptive.time_shift import coupled as coupled
from skipjax.adaptive.time_shift import time_shift as time_shift
