"""Noise schedules: how much of the data and how much noise x_t holds.

The forward process is x_t = alpha_t x_0 + sigma_t eps with eps ~ N(0, I), at the discrete times
t = 0 .. T-1, T-1 the noisiest; alpha_t^2 is the abar_t (`alphas_cumprod`) of DDPM. Everything here
is float64 on the host: coefficients are computed once, and reach the device as finished numbers.

Samplers may stand between the discrete times. Three kinds of process go on there each in its way:

    variance-preserving, alpha^2 + sigma^2 = 1   log alpha is linear in t, as DPM-Solver has it
    variance-exploding, alpha = 1                log sigma is linear in t
    all others (rectified flow)                  alpha and sigma are linear in t

What a level is worth is its log_snr = log(alpha / sigma), half the logarithm of the signal's power
over the noise's: the lambda of DPM-Solver (arXiv:2206.00927).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

DATA = -1  # the time of the data itself: alpha 1, sigma 0, log_snr infinite


class Schedule(NamedTuple):
    """A Gaussian forward process, tabulated.

    Attributes:
        alpha: Scale of the data at each time, float64 [T], not increasing, in 0 .. 1; 0 only at
            T-1, where such a schedule has zero terminal SNR.
        sigma: Standard deviation of the noise at each time, float64 [T], not decreasing, > 0.
    """

    alpha: np.ndarray
    sigma: np.ndarray

    def __repr__(self) -> str:
        alpha, sigma = self.alpha, self.sigma
        return (
            f"Schedule(T = {self.T}, alpha {alpha[0]:.4g} .. {alpha[-1]:.4g}, "
            f"sigma {sigma[0]:.4g} .. {sigma[-1]:.4g})"
        )

    @property
    def T(self) -> int:
        """Number of training times."""
        return len(self.alpha)

    @property
    def preserves_variance(self) -> bool:
        """Whether alpha^2 + sigma^2 = 1."""
        return bool(np.max(np.abs(self.alpha**2 + self.sigma**2 - 1)) < 1e-9)

    @property
    def fingerprint(self) -> tuple[float, ...]:
        """T, and the angle of the level, arctan(sigma / alpha), at eight times: what tells this
        schedule from others.
        """
        times = np.round(np.linspace(0, self.T - 1, 8)).astype(int)
        alpha, sigma = self.at(times)
        return (float(self.T), *np.round(np.arctan2(sigma, alpha), 6).tolist())

    def has(self, fingerprint: tuple[float, ...]) -> bool:
        """Whether a fingerprint is this schedule's; or that of one computed in float32."""
        ours = self.fingerprint
        return len(ours) == len(fingerprint) and np.allclose(ours, fingerprint, rtol=0, atol=1e-5)

    def at(self, t: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """alpha and sigma at times t in 0 .. T-1, whole or between, or DATA.

        Raises:
            ValueError: For any other time; or between the last two, where alpha ends at 0 and
                log alpha is not linear.
        """
        t = np.asarray(t)
        if not np.all((t >= 0) & (t <= self.T - 1) | (t == DATA)):
            raise ValueError(f"t must be in 0 .. {self.T - 1}, or {DATA} for the data, got {t}")
        if np.issubdtype(t.dtype, np.integer):
            # The appended level is what index -1 finds.
            return np.append(self.alpha, 1.0)[t], np.append(self.sigma, 0.0)[t]
        low = np.clip(np.floor(t), 0, self.T - 1).astype(int)
        high, part = np.minimum(low + 1, self.T - 1), t - low
        whole = (part == 0) | (t == DATA)
        if not np.all(whole | self._joined(high)):
            raise ValueError(self._apart())
        with np.errstate(divide="ignore", invalid="ignore"):
            alpha, sigma = self._between(low, high, part)
        exact = self.at(np.where(t == DATA, DATA, low))
        return np.where(whole, exact[0], alpha), np.where(whole, exact[1], sigma)

    def log_snr(self, t: ArrayLike) -> np.ndarray:
        """log(alpha / sigma) at the times of `at`: infinite for the data, -infinite where alpha
        is 0.
        """
        alpha, sigma = self.at(t)
        with np.errstate(divide="ignore"):
            return np.log(alpha) - np.log(sigma)

    def time(self, log_snr: ArrayLike) -> np.ndarray:
        """The time at which log(alpha / sigma) is `log_snr`, real, the inverse of `log_snr`.

        Raises:
            ValueError: For a log_snr that is not between those of times T-1 and 0; or between
                those of the last two, as `at`.
        """
        log_snr = np.asarray(log_snr, np.float64)
        table = self.log_snr(np.arange(self.T))
        # A round trip through exp and log may step outside by a rounding.
        near = np.clip(log_snr, table[-1], table[0])
        if not np.all(np.isclose(log_snr, near, rtol=1e-9, atol=1e-9)):
            raise ValueError(
                f"log_snr must be in {table[-1]:.4g} .. {table[0]:.4g}, the schedule's, "
                f"got {log_snr}"
            )
        # table decreases: low is the last time whose log_snr is not below.
        low = self.T - 1 - np.searchsorted(table[::-1], near, side="left")
        low = np.clip(low, 0, max(self.T - 2, 0))
        high = np.minimum(low + 1, self.T - 1)
        at_low, at_high = near == table[low], near == table[high]
        if not np.all(at_low | at_high | self._joined(high)):
            raise ValueError(self._apart())
        with np.errstate(divide="ignore", invalid="ignore"):
            part = self._part(low, high, near)
        return np.where(at_high, high, np.where(at_low, low, low + part))

    def _joined(self, high: np.ndarray) -> Any:
        """Whether there are levels between time high - 1 and high."""
        return (self.alpha[high] > 0) | (not self.preserves_variance)

    def _apart(self) -> str:
        return (
            f"no level is known between times {self.T - 2} and {self.T - 1}, where the SNR goes "
            f"to zero: keep to {self.T - 2} and below, or to {self.T - 1} itself"
        )

    def _between(self, low: np.ndarray, high: np.ndarray, part: np.ndarray) -> tuple[Any, Any]:
        """alpha and sigma a part of the way from time low to time high."""
        mixed = [(1 - part) * c[low] + part * c[high] for c in (self.alpha, self.sigma)]
        if self.preserves_variance:
            log_alpha = (1 - part) * np.log(self.alpha[low]) + part * np.log(self.alpha[high])
            return np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))
        if np.all(self.alpha == 1):
            log_sigma = (1 - part) * np.log(self.sigma[low]) + part * np.log(self.sigma[high])
            return mixed[0], np.exp(log_sigma)
        return mixed[0], mixed[1]

    def _part(self, low: np.ndarray, high: np.ndarray, log_snr: np.ndarray) -> Any:
        """How far between low and high log(alpha / sigma) is log_snr, 0 .. 1."""
        alpha, sigma = self.alpha, self.sigma
        if self.preserves_variance:
            log_alpha = -np.logaddexp(0, -2 * log_snr) / 2
            step = np.log(alpha[high]) - np.log(alpha[low])
            return (log_alpha - np.log(alpha[low])) / step
        if np.all(alpha == 1):
            return (-log_snr - np.log(sigma[low])) / (np.log(sigma[high]) - np.log(sigma[low]))
        # alpha / sigma = a / s, where neither a nor s overflows.
        a = np.exp(-np.logaddexp(0, -2 * log_snr) / 2)
        s = np.exp(-np.logaddexp(0, 2 * log_snr) / 2)
        step = a * (sigma[high] - sigma[low]) - s * (alpha[high] - alpha[low])
        return (s * alpha[low] - a * sigma[low]) / step
