"""DPM-Solver-12 and -23: DPM-Solver that chooses its steps by an estimate of their error.

A step from level s to t, of length h in log_snr, is made twice, by a method of order k and by the
one of order k - 1 inside it, which needs no further calls. With D_r = m_r - m_s, m_r what was
predicted a part r of the way, c = sigma_t on eps and alpha_t on x_0, z = h and -h,

    first      x_t = keep x_s - c (e^z - 1) m_s
    second     first - c (e^z - 1) D_r / (2 r)                       r = 1/2 in -12, 1/3 in -23
    third      first - c ((e^z - 1) / z - 1) D_{2/3} / (2/3)

where keep = alpha_t / alpha_s on eps and sigma_t / sigma_s on x_0. The step is taken if

    error = rms((x_high - x_low) / max(atol, rtol max(|x_low|, |x_before|))) <= 1

x_before being x_low of the last step taken, and the next h is theta h error^(-1/k) either way.
The paper is about processes that preserve variance. For others the error is that of x divided by
sqrt(alpha^2 + sigma^2), in which all processes are the same one: the steps are then the same too,
while x itself, of a variance-exploding process, would hide under its noise what is wrong with it.

The error is what two orders disagree by in one step, and no bound of what adds up. Of few values,
of a point in a plane say, both may agree by chance on a step that is far too long. On mixtures in
the plane `plans.dpmpp_2m` on an even grid in log_snr does better with fewer calls.

Source: Lu et al. 2022, "DPM-Solver" (arXiv:2206.00927), appendix C; on x_0: "DPM-Solver++"
(arXiv:2211.01095).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from skipjax.adaptive import levels
from skipjax.adaptive.levels import over
from skipjax.checks import whole
from skipjax.denoisers import Denoise, Point, steered
from skipjax.plans.plan import Space
from skipjax.schedules import DATA, Schedule


class Solution(NamedTuple):
    """Where the adaptive solver left every picture.

    Attributes:
        x: The pictures, [B, ...].
        log_snr: The level that they stand at, [B]; infinite for the data.
        nfe: Calls that the picture took part in until it was done, int [B]. The program makes
            nfe.max() calls, each on the whole batch.
        accepted: Steps taken, int [B].
        rejected: Steps tried in vain, int [B].
        done: Whether the picture has reached the end, bool [B]. If not, max_nfe did not suffice,
            or the error was not a finite number, and x is where the last good step led.
    """

    x: jax.Array
    log_snr: jax.Array
    nfe: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    done: jax.Array


class _State(NamedTuple):
    x: jax.Array
    before: jax.Array  # x_low / sqrt(alpha^2 + sigma^2) of the last step taken
    log_snr: jax.Array
    h: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    finite: jax.Array


def dpm(
    schedule: Schedule,
    denoise: Denoise,
    x: jax.Array,
    *,
    order: int = 3,
    space: Space = "eps",
    start: float | None = None,
    end: float = 0,
    h: jax.Array | float = 0.05,
    atol: jax.Array | float = 0.0078,
    rtol: jax.Array | float = 0.05,
    theta: jax.Array | float = 0.9,
    together: bool = False,
    max_nfe: int = 1000,
) -> Solution:
    """Solves the probability-flow ODE in as many steps as it asks for.

    Every picture has its own steps, and so does not depend on what else is in the batch; one
    that is done waits for the slowest. The released code instead gives the batch one step, by its
    largest error: `together`. As released, each try costs `order` calls, though one could be kept
    after a rejection.

    `jit` it with schedule and settings closed over; h, atol, rtol and theta may be traced, so that
    a sweep over them runs one program. A `while_loop` has no reverse-mode derivative.

    Args:
        schedule: Variance-preserving, variance-exploding or rectified flow.
        denoise: Called with one time and level per picture. Guidance that it gives joins the
            prediction.
        x: Noise to start from, [B, ...], at the level of `start`. Carried in float32, or float64.
        order: k, calls per try: 2 for DPM-Solver-12, 3 for DPM-Solver-23.
        space: "eps" for DPM-Solver, "x_0" for DPM-Solver++.
        start: Time to start from, in 0 .. T-1, whole or real; default: T-1. alpha > 0 there.
        end: Time to end at, from 0 to below start; or `schedules.DATA` for x_0 as predicted at
            time 0, with one more call, what the release calls `denoise_to_zero`.
        h: First step to try, in log_snr, > 0.
        atol: Error allowed per step and value, in units of x / sqrt(alpha^2 + sigma^2), > 0; the
            default is made for pictures in -1 .. 1 of 256 shades.
        rtol: The same relative to the value, >= 0.
        theta: What a new step is shortened by, for safety, in (0, 1].
        together: Whether the batch shares its steps; then a picture depends on the others.
        max_nfe: Calls after which a picture is left where it is; at least `order`, and one more
            to end at the data.

    Raises:
        ValueError: For anything else.
    """
    order = whole("order", order, 2, 3)
    if space not in ("eps", "x_0"):
        raise ValueError(f"space is {space!r}: it must be 'eps' or 'x_0'")
    traced = any(isinstance(value, Tracer) for value in (h, atol, rtol, theta))
    if not traced and not (h > 0 and atol > 0 and rtol >= 0 and 0 < theta <= 1):
        raise ValueError(
            f"got h {h}, atol {atol}, rtol {rtol}, theta {theta}: h and atol must be positive, "
            "rtol not negative, and theta in (0, 1]"
        )
    to_data = end == DATA
    tries = (whole("max_nfe", max_nfe, order + to_data) - to_data) // order
    first, last = _ends(schedule, start, 0 if to_data else end)
    x = levels.carried(x)
    level = levels.between(schedule, x.dtype)

    def predict(x: jax.Array, point: Point) -> jax.Array:
        return getattr(steered(denoise(x, point), point), space).astype(x.dtype)

    def running(state: _State) -> jax.Array:
        tried = state.accepted + state.rejected
        return state.finite & (state.log_snr < last) & (tried < tries)

    def attempt(state: _State) -> _State:
        left = last - state.log_snr
        step = _Step(level, space, state.log_snr, jnp.minimum(state.h, left), state.x)
        low, high = (_first_second, _second_third)[order - 2](step, predict)
        size = _size(step.to(1)[0])
        difference, low = (high - low) / size, low / size
        scale = jnp.maximum(atol, rtol * jnp.maximum(jnp.abs(low), jnp.abs(state.before)))
        error = levels.rms(difference / scale)
        if together:
            error = jnp.full_like(error, error.max())
        active = running(state)
        accept = active & (error <= 1)
        # Not log_snr + left, which may fall short of the end by a rounding.
        reached = jnp.where(step.h >= left, last, state.log_snr + step.h)
        growth = theta * jnp.maximum(error, 1e-9) ** (-1 / order)
        return _State(
            x=jnp.where(over(accept, x), high, state.x),
            before=jnp.where(over(accept, x), low, state.before),
            log_snr=jnp.where(accept, reached, state.log_snr),
            h=jnp.where(active, growth * step.h, state.h),
            accepted=state.accepted + accept,
            rejected=state.rejected + (active & ~accept),
            finite=state.finite & (~active | jnp.isfinite(error)),
        )

    batch = x.shape[:1]
    none, log_snr = jnp.zeros(batch, jnp.int32), jnp.full(batch, first, x.dtype)
    state = _State(
        x=x,
        before=x / _size(level(log_snr, x)),
        log_snr=log_snr,
        h=jnp.full(batch, h, x.dtype),
        accepted=none,
        rejected=none,
        finite=jnp.ones(batch, bool),
    )
    state = jax.lax.while_loop(lambda state: running(state).any(), attempt, state)
    done = state.log_snr >= last
    x, log_snr = state.x, state.log_snr
    nfe = order * (state.accepted + state.rejected)
    if to_data:
        point = level(log_snr, x)
        x_0 = steered(denoise(x, point), point).x_0.astype(x.dtype)
        x = jnp.where(over(done, x), x_0, x)
        log_snr, nfe = jnp.where(done, jnp.inf, log_snr), nfe + done
    return Solution(x, log_snr, nfe, state.accepted, state.rejected, done)


def _ends(schedule: Schedule, start: float | None, end: float) -> tuple[float, float]:
    """log_snr of the time to start from, and of the one to end at."""
    start = schedule.T - 1 if start is None else start
    if not 0 <= end < start <= schedule.T - 1:
        raise ValueError(
            f"start is {start} and end {end}: they must be times, 0 <= end < start <= "
            f"{schedule.T - 1}"
        )
    first, last = schedule.log_snr(start), schedule.log_snr(end)
    if first == -jnp.inf:
        raise ValueError(
            f"at time {start} alpha is 0, infinitely far away in log_snr: start below it, from "
            "noise of the sigma there"
        )
    return float(first), float(last)


def _size(point: Point) -> jax.Array:
    return jnp.sqrt(point.alpha**2 + point.sigma**2)


class _Step:
    """A step of length h [B] from log_snr [B], for pictures x [B, ...]; parts of it too."""

    def __init__(self, level, space: Space, log_snr: jax.Array, h: jax.Array, x: jax.Array):
        self._level, self._space, self._log_snr = level, space, log_snr
        self.h, self.x = h, x
        self.s = level(log_snr, x)

    def to(self, part: float) -> tuple[Point, jax.Array, jax.Array, jax.Array]:
        """The level a part of the way; keep, c and z of the step there."""
        t = self._level(self._log_snr + part * self.h, self.x)
        h = over(part * self.h, self.x)
        if self._space == "eps":
            return t, t.alpha / self.s.alpha, t.sigma, h
        return t, t.sigma / self.s.sigma, t.alpha, -h


def _first_second(step: _Step, predict) -> tuple[jax.Array, jax.Array]:
    m = predict(step.x, step.s)
    point, keep, c, z = step.to(1 / 2)
    slope = predict(keep * step.x - c * jnp.expm1(z) * m, point) - m
    _, keep, c, z = step.to(1)
    first = keep * step.x - c * jnp.expm1(z) * m
    return first, first - c * jnp.expm1(z) * slope


def _second_third(step: _Step, predict) -> tuple[jax.Array, jax.Array]:
    m = predict(step.x, step.s)
    point, keep, c, z = step.to(1 / 3)
    slope = 3 * (predict(keep * step.x - c * jnp.expm1(z) * m, point) - m)
    point, keep, c, z = step.to(2 / 3)
    x = keep * step.x - c * (jnp.expm1(z) * m + _weight(z) * 2 / 3 * slope)
    far = 3 / 2 * (predict(x, point) - m)
    _, keep, c, z = step.to(1)
    first = keep * step.x - c * jnp.expm1(z) * m
    return first - c * jnp.expm1(z) * slope / 2, first - c * _weight(z) * far


def _weight(z: jax.Array) -> jax.Array:
    """(e^z - 1) / z - 1, by its series where that would lose all digits."""
    near = jnp.abs(z) < 0.25
    small = jnp.where(near, z, 0)
    series = jnp.zeros_like(z)
    for k in range(10, 0, -1):
        series = small / (k + 1) * (1 + series)
    large = jnp.where(near, 1, z)
    return jnp.where(near, series, jnp.expm1(large) / large - 1)
