"""What the claims of two papers come to: one study, of many small networks, with standard errors.

Skipped-step sampling and its hybrid with DDIM (arXiv:2508.15233), and S^2-DM's training
(arXiv:2401.01520), measured on networks that the study trains.
"""

from skipjax.study.design import Study as Study
from skipjax.study.design import study as study
from skipjax.study.run import run as run
