"""The probability-flow ODE, solved to the last digits: what deterministic samplers approximate."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from skipjax.checks import whole
from skipjax.denoisers import Denoise, Point
from skipjax.evaluation.arrays import pictures


def reference(
    denoise: Denoise,
    x: ArrayLike,
    start: tuple[float, float],
    end: tuple[float, float] = (1.0, 0.0),
    *,
    rtol: float = 1e-12,
    group: int = 64,
) -> np.ndarray:
    """Where the probability-flow ODE of a denoiser takes x, in float64.

    The flow is d(x / alpha) / d(sigma / alpha) = eps (Song et al. 2021, arXiv:2010.02502, equation
    14). In the angle phi = arctan(sigma / alpha), with y = x / sqrt(alpha^2 + sigma^2), it reads

        dy / dphi = cos(phi) eps - sin(phi) x_0

    which is smooth from pure noise, phi = pi/2, to the data, phi = 0, and divides by nothing. It
    is solved by an explicit Runge-Kutta method of order 8 with adaptive steps (Hairer, Norsett &
    Wanner 1993, DOP853).

    Args:
        denoise: Exact, or any that is smooth to float64; the rounding of a float32 network would
            be followed by ever smaller steps. It must go by alpha and sigma: t is NaN.
        x: Points, float [B, ...].
        start: (alpha, sigma) where x stands; that of a plan is (plan.alpha[0], plan.sigma[0]).
        end: (alpha, sigma) to go to; the data by default.
        rtol: Error allowed per step, relative, and absolute for numbers below 1; rms over the
            values of a group of points. From 2.3e-14.
        group: Points that share their steps. More of them are quicker, and hide a point that
            needs smaller steps than its neighbours.

    Returns:
        float64 [B, ...].

    Raises:
        ImportError: If SciPy is not installed.
        ValueError: If a level is not one, rtol is out of its range, or x is empty or not finite.
        RuntimeError: If a prediction is not finite, or the flow leaves all bounds.
    """
    try:
        from scipy.integrate import solve_ivp
    except ImportError:
        raise ImportError(
            "the reference solution needs SciPy: pip install scipy, or 'skipjax[test]'"
        ) from None
    (begin, scale), (finish, final) = _polar("start", start), _polar("end", end)
    if not 2.3e-14 <= rtol < 1:
        raise ValueError(f"rtol is {rtol}: expected a number in 2.3e-14 .. 1")
    y = pictures(x, "x", 1).astype(np.float64) / scale
    group = min(whole("group", group, 1), len(y))

    @jax.jit
    def slope(y, phi):
        alpha, sigma = jnp.cos(phi), jnp.sin(phi)
        x_0, eps, *_ = denoise(y, Point(jnp.full_like(phi, jnp.nan), alpha, sigma))
        return alpha * eps - sigma * x_0

    shape = (group, *y.shape[1:])

    def slopes(phi: float, rows: np.ndarray) -> np.ndarray:
        values = np.asarray(slope(rows.reshape(shape), phi)).ravel()
        if not np.isfinite(values).all():
            # The step size would be NaN too, and the search for one without an end.
            raise RuntimeError(
                "what the denoiser predicts is not finite at alpha "
                f"{np.cos(phi):.6g}, sigma {np.sin(phi):.6g} (of squares that sum to 1)"
            )
        return values

    with jax.enable_x64(True):
        for first in range(0, len(y) if begin != finish else 0, group):
            # The last group is filled with its last point, so that one program serves them all.
            index = np.minimum(np.arange(first, first + group), len(y) - 1)
            solved = solve_ivp(
                slopes,
                (begin, finish),
                y[index].ravel(),
                method="DOP853",
                rtol=rtol,
                atol=rtol,
                t_eval=[finish],
            )
            if not solved.success:
                raise RuntimeError(f"the flow cannot be followed to its end: {solved.message}")
            y[index] = solved.y[:, -1].reshape(shape)
    return final * y


def _polar(name: str, level: tuple[float, float]) -> tuple[float, float]:
    """The angle arctan(sigma / alpha), and sqrt(alpha^2 + sigma^2)."""
    alpha, sigma = map(float, level)
    if not (0 <= alpha < np.inf and 0 <= sigma < np.inf and alpha + sigma > 0):
        raise ValueError(
            f"{name} is (alpha, sigma) = ({alpha}, {sigma}): both must be >= 0, and not both 0"
        )
    return float(np.arctan2(sigma, alpha)), float(np.hypot(alpha, sigma))
