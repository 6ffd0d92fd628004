"""Samplers that come with a checkpoint: a method, and where it steps in any number of steps.

Each is a small frozen dataclass whose `plan(schedule, num)` writes the table of diffusers'
scheduler of that name, with its grid, its end, and its way of stepping by strides where that
differs from the method's paper.
"""

from skipjax.plans.schedulers.karras import EDM as EDM
from skipjax.plans.schedulers.levels import DPM as DPM
from skipjax.plans.schedulers.levels import Euler as Euler
from skipjax.plans.schedulers.levels import Heun as Heun
from skipjax.plans.schedulers.levels import UniPC as UniPC
from skipjax.plans.schedulers.scheduler import Scheduler as Scheduler
from skipjax.plans.schedulers.strides import DDIM as DDIM
from skipjax.plans.schedulers.strides import DDPM as DDPM
from skipjax.plans.schedulers.strides import LCM as LCM
from skipjax.plans.schedulers.strides import PNDM as PNDM
