"""Exponential integration: steps that are exact but for how the prediction changes on the way.

With l = log_snr, h = l_t - l_s, the solution of the probability-flow ODE from level s to t is

    x_0 form    x_t = sigma_t / sigma_s x_s + sigma_t int_{l_s}^{l_t} e^l  x_0(l) dl
    eps form    x_t = alpha_t / alpha_s x_s - alpha_t int_{l_s}^{l_t} e^-l eps(l) dl

(Lu et al. 2022, arXiv:2211.01095, equation 8, and arXiv:2206.00927, equation 3.4). Where the
prediction m is a polynomial in v = (l - l_s) / h, the integral is a sum over its derivatives:

    x_t = keep x_s + sum_k weight_k  d^k m / dv^k (s)
    weight_k = alpha_t h phi_{k+1}(-h)        in x_0 form
             = -sigma_t h phi_{k+1}(h)        in eps form

    phi_1(z) = (e^z - 1) / z,  phi_{k+1}(z) = (phi_k(z) - 1 / k!) / z

The SDE of strength eta, 0 for the ODE and 1 for the reverse diffusion, has in x_0 form

    x_t = sigma_t / sigma_s e^(-eta h) x_s + sum_k alpha_t H phi_{k+1}(-H) d^k m / dv^k
          + sigma_t sqrt(1 - e^(-2 eta h)) z,         H = (1 + eta) h
"""

from math import exp, expm1, factorial, inf, sqrt
from typing import Literal, TypeVar

import numpy as np

from skipjax.plans.path import Level
from skipjax.plans.plan import Space
from skipjax.schedules import DATA

Known = TypeVar("Known")


def usable(
    past: list[Known], t: Level, left: int, lower_order_final: bool | Literal["last"]
) -> list[Known]:
    """Which of the newest predictions a multistep method may use to go to level t.

    Args:
        past: Predictions, newest first.
        t: Where the step goes; a polynomial in log_snr does not reach the data.
        left: Steps there are still to be made, this one included.
        lower_order_final: Whether the last steps go down to order 1; "last": the last alone.
    """
    if t.t == DATA:
        return past[:1]
    if lower_order_final == "last":
        return past[:1] if left == 1 else past
    return past[:left] if lower_order_final else past


def phi(k: int, z: float) -> float:
    """phi_k(z), k >= 1, to the precision of float64."""
    if abs(z) > 1:
        value = expm1(z) / z
        for j in range(1, k):
            value = (value - 1 / factorial(j)) / z
        return value
    # The recursion loses all digits near 0.
    return sum(z**j / factorial(j + k) for j in range(20))


class Step:
    """The exact step from level s to t, in one of the two forms.

    Attributes:
        keep: Weight of x_s.
        noise: Weight of fresh noise; 0 for eta 0.
        h: log_snr_t - log_snr_s; infinite where t is the data, or s has zero SNR.
    """

    def __init__(self, s: Level, t: Level, space: Space = "x_0", eta: float = 0.0):
        self._s, self._t, self._space = s, t, space
        self.h = t.log_snr - s.log_snr
        self._stretched = (1 + eta) * self.h
        # Not eta * h, which is not a number for an infinite h.
        decay = eta * self.h if eta else 0.0
        self.keep = t.sigma / s.sigma * exp(-decay)
        if space == "eps":
            self.keep = t.alpha / s.alpha
        self.noise = t.sigma * sqrt(-expm1(-2 * decay))

    def weight(self, k: int = 0) -> float:
        """Of the k-th derivative of the prediction with respect to v, at s."""
        h = self._stretched
        if self._space == "x_0":
            return self._t.alpha * (1 / factorial(k) if h == inf else h * phi(k + 1, -h))
        if not k:
            return self._t.sigma - self.keep * self._s.sigma
        return -self._t.sigma * h * phi(k + 1, h)

    @property
    def slow(self) -> float:
        """The weight of a constant prediction to first order in h."""
        return self._t.alpha * self.h if self._space == "x_0" else -self._t.sigma * self.h

    def nodes(self, levels: list[Level]) -> np.ndarray:
        """v = (log_snr - log_snr_s) / h of some levels."""
        return np.array([(level.log_snr - self._s.log_snr) / self.h for level in levels])

    def through(self, levels: list[Level]) -> np.ndarray:
        """Weights of the predictions at distinct levels, with the polynomial through them all:
        exponential Adams methods.
        """
        if len(levels) == 1:
            return np.array([self.weight(0)])
        v = self.nodes(levels)
        powers = np.vander(v, increasing=True).T
        exact = [factorial(k) * self.weight(k) for k in range(len(v))]
        return np.linalg.solve(powers, exact)
