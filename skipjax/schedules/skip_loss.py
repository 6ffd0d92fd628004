"""What S^2-DM's training comes to: eps, rescaled at each time by a number known beforehand.

Wang & Li 2024 (arXiv:2401.01520) add to DDPM's loss a second one for a jump over `skip` steps.
With e what a network says of x_t, and a noise eps' that is weighed against it,

    L = tau |eps - e|^2 + (1 - tau) |eps' - c_t e|^2
    c_t = sqrt(1 - a) / sqrt(a),   a = abar_t / abar_{max(t - skip, 0)}

in two forms:

    "released"   eps' is drawn anew, and where t < skip, L = |eps - e|^2: the code of the authors
    "paper"      eps' = eps: the formula as it is printed

L is a parabola in e, and least, on average over eps and eps', at e = k_t E[eps | x_t] with

    "released"   k_t = tau / (tau + (1 - tau) c_t^2),   1 where t < skip
    "paper"      k_t = (tau + (1 - tau) c_t) / (tau + (1 - tau) c_t^2)

where DDPM's loss alone has E[eps | x_t]. The same sampler thus comes of a network trained as ever
and `denoisers.scale_eps`, which is epsilon scaling (Ning et al. 2024, arXiv:2308.15321) with k_t
for its scale.
"""

from typing import Literal, get_args

import numpy as np

from skipjax.checks import whole
from skipjax.schedules.schedule import Schedule

Form = Literal["released", "paper"]
FORMS: tuple[Form, ...] = get_args(Form)


def skip_ratio(schedule: Schedule, skip: int = 9) -> np.ndarray:
    """c_t = sqrt(1 - a) / sqrt(a), the noise that a jump of `skip` steps adds over what it keeps.

    Args:
        schedule: The forward process; it must preserve variance.
        skip: Steps jumped over, 1 .. T. 9 is the authors' "S^2-DM^10".

    Returns:
        float64 [T].

    Raises:
        ValueError: If `skip` is out of range, or the schedule does not preserve variance, or ends
            at zero SNR.
    """
    skip = whole("skip", skip, 1, schedule.T)
    if not schedule.preserves_variance or schedule.alpha[-1] == 0:
        raise ValueError(
            "S^2-DM is about eps, on a schedule that preserves variance and never comes to zero "
            "SNR"
        )
    alpha = schedule.alpha
    before = alpha[np.maximum(np.arange(schedule.T) - skip, 0)]
    return np.sqrt((before - alpha) * (before + alpha)) / alpha


def skip_scale(
    schedule: Schedule, skip: int = 9, tau: float = 0.99, form: Form = "released"
) -> np.ndarray:
    """k_t, by which S^2-DM's loss rescales eps.

    Args:
        schedule: The forward process; it must preserve variance.
        skip: Steps jumped over, 1 .. T.
        tau: Weight of DDPM's loss, in (0, 1].
        form: "released" or "paper".

    Returns:
        float64 [T]: to be given to `denoisers.scale_eps`.

    Raises:
        ValueError: As `skip_ratio`; for a tau out of range, or another form.
    """
    c = skip_ratio(schedule, skip)
    if not 0 < tau <= 1:
        raise ValueError(f"tau is {tau}: it must be in (0, 1]")
    if form not in FORMS:
        raise ValueError(f"form is {form!r}: it must be one of {', '.join(FORMS)}")
    if form == "paper":
        return (tau + (1 - tau) * c) / (tau + (1 - tau) * c**2)
    scale = tau / (tau + (1 - tau) * c**2)
    return np.where(np.arange(schedule.T) < skip, 1.0, scale)
