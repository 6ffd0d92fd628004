"""Noise schedules: how much of the data and how much noise x_t holds."""

from skipjax.schedules.posterior import VARIANCES as VARIANCES
from skipjax.schedules.posterior import Posterior as Posterior
from skipjax.schedules.posterior import Variance as Variance
from skipjax.schedules.posterior import posterior as posterior
from skipjax.schedules.processes import cosine as cosine
from skipjax.schedules.processes import from_alphas_cumprod as from_alphas_cumprod
from skipjax.schedules.processes import from_betas as from_betas
from skipjax.schedules.processes import linear as linear
from skipjax.schedules.processes import one_more_step as one_more_step
from skipjax.schedules.processes import rectified_flow as rectified_flow
from skipjax.schedules.processes import scaled_linear as scaled_linear
from skipjax.schedules.processes import sigmoid as sigmoid
from skipjax.schedules.processes import variance_exploding as variance_exploding
from skipjax.schedules.processes import zero_terminal_snr as zero_terminal_snr
from skipjax.schedules.schedule import DATA as DATA
from skipjax.schedules.schedule import Schedule as Schedule
from skipjax.schedules.skip_loss import FORMS as FORMS
from skipjax.schedules.skip_loss import Form as Form
from skipjax.schedules.skip_loss import skip_ratio as skip_ratio
from skipjax.schedules.skip_loss import skip_scale as skip_scale
