"""Plans made for a network: learned, and held against all baselines."""

from skipjax.tuning.config import Objective as Objective
from skipjax.tuning.config import TuneConfig as TuneConfig
from skipjax.tuning.examples import Examples as Examples
from skipjax.tuning.problem import Problem as Problem
from skipjax.tuning.search import Outcome as Outcome
from skipjax.tuning.search import search as search
from skipjax.tuning.statistics import statistics as statistics
from skipjax.tuning.tune import tune as tune
