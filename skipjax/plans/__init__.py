"""Samplers as tables: each function writes the `Plan` of one method."""

from skipjax.plans.ddim import ddim as ddim
from skipjax.plans.ddim import ddpm as ddpm
from skipjax.plans.ddim import hybrid as hybrid
from skipjax.plans.ddim import respaced as respaced
from skipjax.plans.ddim import skipped as skipped
from skipjax.plans.plan import Plan as Plan
from skipjax.plans.plan import Tape as Tape
