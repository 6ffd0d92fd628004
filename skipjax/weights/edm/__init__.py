"""EDM's and EDM2's files: their tensors as params, and what their pickles say of themselves."""

from skipjax.weights.edm import models as models
from skipjax.weights.edm.params import name as name
from skipjax.weights.edm.params import to_params as to_params
