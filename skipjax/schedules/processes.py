"""The forward processes that networks were trained on, and those of tables that a user has."""

import numpy as np
from numpy.typing import ArrayLike

from skipjax.schedules.schedule import Schedule


def from_betas(betas: ArrayLike) -> Schedule:
    """The schedule with abar_t = prod_{s <= t} (1 - beta_s).

    Args:
        betas: Variance added at each time, [T], each in (0, 1); the last may be 1, for zero
            terminal SNR.

    Raises:
        ValueError: If a beta is outside (0, 1), or there is none.
    """
    betas = np.asarray(betas, np.float64)
    fit = betas.ndim == 1 and betas.size > 0
    if (
        not fit
        or not np.all((betas > 0) & (betas < 1))
        and not (np.all((betas[:-1] > 0) & (betas[:-1] < 1)) and betas[-1] == 1)
    ):
        got = f"{betas.min():.3g} .. {betas.max():.3g}" if betas.size else "none"
        raise ValueError(
            f"betas must be a vector of numbers in (0, 1), got {got}; is T too small?"
        )
    abar = np.cumprod(1 - betas)
    return Schedule(np.sqrt(abar), np.sqrt(1 - abar))


def from_alphas_cumprod(alphas_cumprod: ArrayLike) -> Schedule:
    """The variance-preserving schedule with the abar_t that others call `alphas_cumprod`.

    Args:
        alphas_cumprod: alpha_t^2 at each time, [T], strictly decreasing, in (0, 1); the last may
            be 0, for zero terminal SNR.

    Raises:
        ValueError: If they are something else.
    """
    abar = np.asarray(alphas_cumprod, np.float64)
    if (
        abar.ndim != 1
        or not abar.size
        or not np.all(np.diff(abar) < 0)
        or not (0 <= abar[-1] and abar[0] < 1)
    ):
        raise ValueError(
            "alphas_cumprod must be a vector that decreases strictly within (0, 1), and may end "
            f"at 0, got {abar}"
        )
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


def sigmoid(T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """beta = beta_start + (beta_end - beta_start) / (1 + exp(-u)), u from -6 to 6.

    Source: Xu et al. 2022 (GeoDiff, arXiv:2203.02923); diffusers' "sigmoid".
    """
    part = 1 / (1 + np.exp(-np.linspace(-6, 6, _positive(T))))
    return from_betas(beta_start + (beta_end - beta_start) * part)


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """A variance-preserving schedule, moved and stretched so that x_{T-1} is noise alone.

        alpha <- (alpha - alpha_{T-1}) alpha_0 / (alpha_0 - alpha_{T-1})

    At T-1 eps says nothing of x_0: networks of such a schedule predict v, x_0 or the velocity.

    Raises:
        ValueError: If the schedule does not preserve variance, or has but one time.

    Source: Lin et al. 2024 (arXiv:2305.08891), algorithm 1.
    """
    if not schedule.preserves_variance or schedule.T < 2:
        raise ValueError("only a variance-preserving schedule of two times or more is rescaled")
    alpha = schedule.alpha
    alpha = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
    return Schedule(alpha, np.sqrt(1 - alpha**2))


def one_more_step(schedule: Schedule) -> Schedule:
    """A variance-preserving schedule with a time T more, at which x is noise alone: alpha_T = 0.

    Networks of Stable Diffusion never saw noise alone, and draw pictures of medium brightness from
    it. Another network, that predicts v, takes it from T to T-1 first: `skipjax.relay`.

    Raises:
        ValueError: If the schedule does not preserve variance, or ends in noise alone already.

    Source: Hu et al. 2023 (arXiv:2311.15744), section 4.
    """
    if not schedule.preserves_variance or schedule.alpha[-1] == 0:
        raise ValueError(
            "one more step goes before a variance-preserving schedule whose last alpha is not 0"
        )
    return Schedule(np.append(schedule.alpha, 0.0), np.append(schedule.sigma, 1.0))


def variance_exploding(
    T: int = 1000, sigma_min: float = 0.002, sigma_max: float = 80.0
) -> Schedule:
    """EDM's process, alpha = 1: log sigma from that of `sigma_min` to `sigma_max`, evenly.

    Sampling starts from noise of standard deviation sigma_max, N(0, sigma_max^2 I).
    Source: Karras et al. 2022 (arXiv:2206.00364), table 1 and section 5.

    Raises:
        ValueError: Unless 0 < sigma_min < sigma_max.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"sigma_min and sigma_max must be 0 < least < largest, got {sigma_min}, {sigma_max}"
        )
    sigma = np.geomspace(sigma_min, sigma_max, _positive(T))
    return Schedule(np.ones(T), sigma)


def rectified_flow(T: int = 1000, shift: float = 1.0) -> Schedule:
    """alpha = 1 - u, sigma = u, with u = s / (1 + (shift - 1) s) shift and s = (t + 1) / T.

    At T-1 alpha is 0. A `shift` above 1 spends more of the times on noisy pictures, as those of
    high resolution need. Source: Liu et al. 2023 (arXiv:2209.03003), equation 1; the shift: Esser
    et al. 2024 (arXiv:2403.03206), equation 23.

    Raises:
        ValueError: If `shift` is not positive.
    """
    if not shift > 0:
        raise ValueError(f"shift is {shift}: it must be positive; 1 is none")
    s = np.arange(1, _positive(T) + 1) / T
    # 1 + (shift - 1) s, such that alpha ends at 0 and not at a rounding beside it.
    total = (1 - s) + shift * s
    return Schedule((1 - s) / total, shift * s / total)


def _positive(T: int) -> int:
    if T < 1:
        raise ValueError(f"T is {T}: a schedule needs at least one time")
    return T
