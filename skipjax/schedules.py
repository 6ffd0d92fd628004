"""Noise schedules: how much of the data and how much noise x_t holds.

The forward process is x_t = alpha_t x_0 + sigma_t eps with eps ~ N(0, I), at the discrete times
t = 0 .. T-1, T-1 the noisiest; alpha_t^2 is the abar_t (`alphas_cumprod`) of DDPM. Everything here
is float64 on the host: coefficients are computed once, and reach the device as finished numbers.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np

DATA = -1  # the time of the data itself: alpha 1, sigma 0
# Of a step that draws from the posterior: ADM's FIXED_SMALL, FIXED_LARGE, LEARNED_RANGE, LEARNED.
Variance = Literal["small", "large", "learned_range", "learned"]
VARIANCES: tuple[Variance, ...] = get_args(Variance)


class Schedule(NamedTuple):
    """A variance-preserving or other Gaussian forward process, tabulated.

    Attributes:
        alpha: Scale of the data at each time, float64 [T], decreasing, in (0, 1].
        sigma: Standard deviation of the noise at each time, float64 [T], increasing, > 0.
    """

    alpha: np.ndarray
    sigma: np.ndarray

    @property
    def T(self) -> int:
        """Number of training times."""
        return len(self.alpha)

    def at(self, t: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """alpha and sigma at integer times t in -1 .. T-1, where -1 is the data."""
        # The appended level is what index -1 finds.
        return np.append(self.alpha, 1.0)[t], np.append(self.sigma, 0.0)[t]


def from_betas(betas: np.ndarray) -> Schedule:
    """The schedule with abar_t = prod_{s <= t} (1 - beta_s).

    Args:
        betas: Variance added at each time, [T], each in (0, 1).

    Raises:
        ValueError: If a beta is outside (0, 1), or there is none.
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not betas.size or not np.all((betas > 0) & (betas < 1)):
        got = f"{betas.min():.3g} .. {betas.max():.3g}" if betas.size else "none"
        raise ValueError(
            f"betas must be a vector of numbers in (0, 1), got {got}; is T too small?"
        )
    abar = np.cumprod(1 - betas)
    return Schedule(np.sqrt(abar), np.sqrt(1 - abar))


def linear(T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """DDPM's schedule: beta from `beta_start` to `beta_end`, both meant for T = 1000.

    As in ADM, betas are multiplied by 1000 / T, so that x_{T-1} is equally noisy for every T.
    Source: Ho et al. 2020 (arXiv:2006.11239), section 4; Nichol & Dhariwal 2021.
    """
    return from_betas(np.linspace(beta_start, beta_end, _positive(T)) * (1000 / T))


def scaled_linear(T: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
    """Stable Diffusion's schedule: sqrt(beta) is linear. Source: Rombach et al. 2022."""
    return from_betas(np.linspace(beta_start**0.5, beta_end**0.5, _positive(T)) ** 2)


def cosine(T: int = 1000, beta_max: float = 0.999) -> Schedule:
    """abar(u) = cos^2((u + 0.008) / 1.008 pi / 2), u = t / T; each beta at most `beta_max`.

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), equation 17.
    """
    abar = np.cos((np.arange(_positive(T) + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    return from_betas(np.minimum(1 - abar[1:] / abar[:-1], beta_max))


class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) = N(keep x_t + mix x_0, variance), for s less noisy than t."""

    keep: np.ndarray
    mix: np.ndarray
    added: np.ndarray  # the variance of q(x_t | x_s): beta, where t and s are neighbours
    variance: np.ndarray


def posterior(schedule: Schedule, t: int | np.ndarray, s: int | np.ndarray) -> Posterior:
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
        t: Times jumped from, int, in 0 .. T-1.
        s: Times jumped to, int, each below its t; -1 is the data.
    """
    alpha_t, sigma_t = schedule.at(t)
    alpha_s, sigma_s = schedule.at(s)
    ratio = alpha_t / alpha_s
    shrink = (sigma_s / sigma_t) ** 2
    added = sigma_t**2 - (ratio * sigma_s) ** 2
    return Posterior(ratio * shrink, alpha_s * added / sigma_t**2, added, added * shrink)


def _positive(T: int) -> int:
    if T < 1:
        raise ValueError(f"T is {T}: a schedule needs at least one time")
    return T
