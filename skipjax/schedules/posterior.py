"""The jump backwards, given where the data is: q(x_s | x_t, x_0)."""

from typing import Literal, NamedTuple, get_args

import numpy as np

from skipjax.schedules.schedule import Schedule

# Of a step that draws from the posterior: ADM's FIXED_SMALL, FIXED_LARGE, LEARNED_RANGE, LEARNED.
Variance = Literal["small", "large", "learned_range", "learned"]
VARIANCES: tuple[Variance, ...] = get_args(Variance)


class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) = N(keep x_t + mix x_0, variance), for s less noisy than t."""

    keep: np.ndarray
    mix: np.ndarray
    added: np.ndarray  # the variance of q(x_t | x_s): beta, where t and s are neighbours
    variance: np.ndarray


def posterior(schedule: Schedule, t: float | np.ndarray, s: float | np.ndarray) -> Posterior:
    """The jump from t to s that skips what lies between, of the Markov chain over {t, s, data}.

    With r = (alpha_t / alpha_s)^2, q(x_t | x_s) = N(sqrt(r) x_s, added) and so, by Bayes' rule,

        added = sigma_t^2 - r sigma_s^2     (1 - r where alpha^2 + sigma^2 = 1)
        keep = sqrt(r) sigma_s^2 / sigma_t^2
        mix = alpha_s added / sigma_t^2
        variance = added sigma_s^2 / sigma_t^2

    For s = t-1 it is DDPM's (arXiv:2006.11239, equations 6 and 7); for any other s the
    skipped-step kernel of arXiv:2508.15233.

    Args:
        schedule: The forward process.
        t: Times jumped from, in 0 .. T-1.
        s: Times jumped to, each below its t; -1 is the data.
    """
    alpha_t, sigma_t = schedule.at(t)
    alpha_s, sigma_s = schedule.at(s)
    ratio = alpha_t / alpha_s
    shrink = (sigma_s / sigma_t) ** 2
    added = sigma_t**2 - (ratio * sigma_s) ** 2
    return Posterior(ratio * shrink, alpha_s * added / sigma_t**2, added, added * shrink)
