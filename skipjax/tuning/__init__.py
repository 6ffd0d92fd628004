"""Plans made for a network: learned, searched for, and held against all fixed ones."""

from skipjax.tuning.examples import Examples as Examples
from skipjax.tuning.search import Outcome as Outcome
from skipjax.tuning.search import search as search
from skipjax.tuning.statistics import statistics as statistics
from skipjax.tuning.tune import tune as tune
