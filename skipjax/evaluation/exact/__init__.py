"""Targets whose every quantity is known, and what a sampler makes of them, exactly."""

from skipjax.evaluation.exact.flow import reference as reference
from skipjax.evaluation.exact.gaussian import Gaussian as Gaussian
from skipjax.evaluation.exact.gaussian import low_rank as low_rank
from skipjax.evaluation.exact.laws import flow_law as flow_law
from skipjax.evaluation.exact.laws import law as law
from skipjax.evaluation.exact.laws import w2 as w2
from skipjax.evaluation.exact.metrics import estimate as estimate
from skipjax.evaluation.exact.metrics import floor as floor
from skipjax.evaluation.exact.metrics import mode_error as mode_error
from skipjax.evaluation.exact.metrics import path_rmse as path_rmse
from skipjax.evaluation.exact.metrics import sliced_w2 as sliced_w2
from skipjax.evaluation.exact.mixture import Mixture as Mixture
from skipjax.evaluation.exact.perturbation import perturbed as perturbed
from skipjax.evaluation.exact.targets import Target as Target
from skipjax.evaluation.exact.targets import Task as Task
from skipjax.evaluation.exact.targets import tasks as tasks
