"""Time-shift: asks each picture's variance which time it has come to.

A sampler that errs drifts from the level that its plan says it stands at. Where a picture has many
values, their variance tells the level: for x = alpha x_0 + sigma eps it is about alpha^2 s^2 +
sigma^2, with s^2 the variance of the picture's data. The paper compares with sigma^2 alone, which
is right where alpha^2 s^2 is small, and takes late levels for noisier ones than they are.

The variance of D independent values is known to a part sqrt(2 / D), and the more noise, the less
it changes with the level. For the linear schedule, D = 3072 and s^2 = 1/4 it tells the time

    at t           100    200    300    400    500    600
    to within        6      6     10     19     41    108
    and sigma^2    +94    +61    +44    +34    +28    +23     times off, as the paper compares

so that a window narrower than that finds chance, or its own edge, and one as wide only errors that
are larger. Of a point in a few dimensions it says nothing at all: leave the method off there, with
window 0.

Source: Li et al. 2023 (arXiv:2305.15583).
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from skipjax.adaptive import levels
from skipjax.adaptive.levels import Table, over
from skipjax.checks import whole
from skipjax.denoisers import Denoise, steered
from skipjax.plans.ddim import per_step
from skipjax.plans.path import path
from skipjax.plans.pndm import ADAMS_BASHFORTH
from skipjax.sampling import gaussian
from skipjax.schedules import DATA, Schedule

Shift = Literal["source", "target"]


class Shifted(NamedTuple):
    """What time-shift made.

    Attributes:
        x: The pictures, [B, ...].
        source: The times told to the network, each the level that its step left from, int [N, B].
        target: The times of the levels that the steps went to, int [N, B]; -1 is the data.
    """

    x: jax.Array
    source: jax.Array
    target: jax.Array


def time_shift(
    schedule: Schedule,
    times: ArrayLike,
    denoise: Denoise,
    x: jax.Array,
    keys: jax.Array,
    *,
    window: int,
    cutoff: int,
    shift: Shift = "source",
    data_variance: float = 0.0,
    eta: ArrayLike = 0.0,
    order: int = 1,
    end: int = DATA,
) -> Shifted:
    """DDIM's steps between levels that each picture's variance chooses.

    A step from level t to level s, both of the picture's own, is

        x_s = alpha_s x_0 + sqrt(sigma_s^2 - std^2) eps + std z
        std = eta sigma_s sqrt(1 - (alpha_t sigma_s / (alpha_s sigma_t))^2)

    with x_0 and eps as predicted by the network, told that x_t is of level t. With w = window // 2
    and t_{i+1} the nominal next time of the grid, either end of it may be shifted:

        "source", as in the paper: the step goes to t_{i+1}. Then, if t_i > cutoff, of the times
        within w of t_{i+1} the one whose variance x fits best is told to the network and left
        from at the next step: x is held to have landed there. Its coefficients use it as well.
        "target", as the authors released it for their PNDM solver: if t_{i+1} > cutoff, of the
        times within w of t_{i+1} the one that the variance of x_t, the point the step leaves from,
        fits best is gone to. The next step is nevertheless made as from t_{i+1}. As x_t is
        noisier than what it is compared with, the choice is mostly the noisiest of the window.
        The first step is never shifted.

    In either, a step that leads up is one of eta 0. With window 0 both are `plans.ddim`.

    `jit` it with the schedule, the grid and the settings closed over.

    Args:
        schedule: The forward process.
        times: Grid of N whole times, strictly decreasing, in 0 .. T-1.
        denoise: Called N times, with one time and level per picture. Guidance that it gives joins
            the prediction.
        x: Noise to start from, [B, ...], of many values each. Carried in float32, or float64.
        keys: Keys of the pictures, [B]; z of step i is drawn with fold_in(key, i), as `integrate`
            draws it.
        window: Width of the window in times, >= 0; 0 and 1 shift nothing.
        cutoff: Time down to which there are shifts, 0 .. T; T shifts nothing.
        shift: "source" or "target".
        data_variance: s^2, variance of the values of one picture of the data, >= 0; the paper's
            criterion is 0.
        eta: DDIM's, 0 .. 1: one number, or one per step, [N].
        order: Predictions of eps that a step averages with Adams and Bashforth's weights, 1 .. 4:
            above 1 it is the F-PNDM of the paper, but started as iPNDM, without calls for it.
        end: Time at which the picture stands: the data, or a whole time below the last.

    Raises:
        ValueError: For anything else.
    """
    nominal, weights, etas, half = _settings(schedule, times, end, window, order, eta)
    cutoff = whole("cutoff", cutoff, 0, schedule.T)
    if shift not in get_args(Shift):
        raise ValueError(f"shift is {shift!r}: it must be 'source' or 'target'")
    x = levels.carried(x)
    _check(x, data_variance)
    table = levels.table(schedule, x.dtype)

    def fitting(x: jax.Array, t: jax.Array, wanted: jax.Array) -> jax.Array:
        return jnp.where(wanted, _coupled(table, x, t, half, data_variance), t)

    def step(carry, row):
        x, source, older = carry
        i, t, s, weights, eta = row
        target = jnp.full_like(source, s)
        if shift == "target":
            source = jnp.full_like(source, t)
            target = fitting(x, target, (i > 0) & (s > cutoff))
        point, to = table.at(source, x), table.at(target, x)
        prediction = steered(denoise(x, point), point)
        x_0, eps = prediction.x_0.astype(x.dtype), prediction.eps.astype(x.dtype)
        if order > 1:
            older = (eps, *older)[:order]
            eps = sum(w * e for w, e in zip(weights, older, strict=True))
            x_0 = (x - point.sigma * eps) / point.alpha
        # The squared ratio of 1 / SNR, target to source: 1 at most, where a step leads down.
        ratio = jnp.exp(2 * jnp.minimum(table.log_snr[source] - table.log_snr[target], 0))
        ratio = over(ratio, x)
        left = to.sigma * jnp.sqrt(1 - eta**2 * (1 - ratio))
        x = to.alpha * x_0 + left * eps
        if etas is not None:
            z = gaussian(jax.vmap(jax.random.fold_in, (0, None))(keys, i), x.shape[1:], x.dtype)
            x = x + eta * to.sigma * jnp.sqrt(1 - ratio) * z
        landed = target
        if shift == "source":
            landed = fitting(x, target, (t > cutoff) & (s != DATA))
        return (x, landed, older), (source, target)

    older = tuple(jnp.zeros_like(x) for _ in range(order if order > 1 else 0))
    start = jnp.full(x.shape[:1], nominal[0], jnp.int32)
    rows = (
        jnp.arange(len(nominal) - 1),
        jnp.asarray(nominal[:-1], jnp.int32),
        jnp.asarray(nominal[1:], jnp.int32),
        jnp.asarray(weights, x.dtype),
        jnp.asarray(np.zeros(len(weights)) if etas is None else etas, x.dtype),
    )
    (x, _, _), (source, target) = jax.lax.scan(step, (x, start, older), rows)
    return Shifted(x, source, target)


def coupled(
    schedule: Schedule,
    x: jax.Array,
    t: ArrayLike,
    *,
    window: int,
    data_variance: float = 0.0,
) -> jax.Array:
    """The time within window // 2 of t at which pictures have the variance that x has:

        argmin over tau of |Var(x) - (alpha_tau^2 s^2 + sigma_tau^2)|

    with Var over all values of one picture, divided by their number less one. Of equals the
    earliest, least noisy; the window ends where the schedule does.

    Args:
        schedule: The forward process.
        x: Pictures, [B, ...], of two values each at least.
        t: Middle of the window, int, one or one per picture, [B], in 0 .. T-1.
        window: Its width in times, >= 0.
        data_variance: s^2, >= 0; 0 is the paper's criterion.

    Returns:
        int [B].

    Raises:
        ValueError: If x is no batch of pictures, or a number is out of its range.
    """
    half = whole("window", window, 0) // 2
    x = levels.carried(x)
    _check(x, data_variance)
    t = jnp.broadcast_to(jnp.asarray(t, jnp.int32), x.shape[:1])
    return _coupled(levels.table(schedule, x.dtype), x, t, half, data_variance)


def _coupled(
    table: Table, x: jax.Array, t: jax.Array, half: int, data_variance: float
) -> jax.Array:
    variance = jnp.var(x.reshape(len(x), -1), axis=1, ddof=1)
    around = jnp.arange(-half, half + 1, dtype=jnp.int32)
    near = jnp.clip(t[:, None] + around[None], 0, len(table.alpha) - 2)
    expected = table.alpha[near] ** 2 * data_variance + table.sigma[near] ** 2
    best = jnp.argmin(jnp.abs(variance[:, None] - expected), axis=1)
    return jnp.take_along_axis(near, best[:, None], axis=1)[:, 0]


def _settings(
    schedule: Schedule, times: ArrayLike, end: int, window: int, order: int, eta: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, int]:
    """Times [N + 1], weights of predictions [N, order], eta [N] or None for no noise; w."""
    nominal = np.array([level.t for level in path(schedule, times, end)])
    if np.any(nominal != np.round(nominal)):
        raise ValueError(f"times and end must be whole, got {nominal.tolist()}")
    num = len(nominal) - 1
    order = whole("order", order, 1, 4)
    if order > 1 and not schedule.alpha[int(nominal[0])]:
        raise ValueError(
            f"at time {int(nominal[0])} alpha is 0, where order must be 1: got {order}"
        )
    weights = np.zeros((num, order))
    for i, row in enumerate(weights):
        now = ADAMS_BASHFORTH[min(i, order - 1)]
        row[: len(now)] = now
    eta = per_step(eta, num)
    half = whole("window", window, 0) // 2
    return nominal.astype(int), weights, eta if eta.any() else None, half


def _check(x: jax.Array, data_variance: float) -> None:
    if x[0].size < 2:
        raise ValueError(f"x has shape {x.shape}: one value has no variance")
    if not data_variance >= 0:
        raise ValueError(f"data_variance is {data_variance}: it must be at least 0")
