"""How good networks and samples are: errors of eps, distances between sets of pictures."""

from skipjax.evaluation.denoising import Estimate as Estimate
from skipjax.evaluation.denoising import eps_mse as eps_mse
from skipjax.evaluation.distances import Nearest as Nearest
from skipjax.evaluation.distances import Spread as Spread
from skipjax.evaluation.distances import energy_distance as energy_distance
from skipjax.evaluation.distances import energy_floor as energy_floor
from skipjax.evaluation.distances import nearest as nearest
