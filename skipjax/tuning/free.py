"""A plan as free numbers: what of a table is learned, and how it stays a sampler.

A step from level (alpha, sigma) to (alpha', sigma') that holds its prediction m fixed is DDIM's,

    x' = keep x + add m + std z        in x_0:  keep = left / sigma,   add = alpha' - alpha keep
                                       in eps:  keep = alpha' / alpha, add = left - sigma keep

with std = eta times the posterior's, left^2 = sigma'^2 - std^2, and eta = sin(turn). What is
learned is where the levels lie, how far each step turns from the ODE to the posterior, what is
kept beyond that, and the weights of this and earlier predictions in units of `add`, which are of
the order of 1 however short the step.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.plans import Origin, Plan
from skipjax.schedules import DATA, Schedule

LEAST = 1e-4  # share of the way, in log_snr, that two calls lie apart


class Free(NamedTuple):
    """What is learned of a plan of N rows and K predictions; any real numbers are a plan.

    Attributes:
        gaps: Logits of the shares that the N steps have of the way from the first level to the
            last, in log_snr, [N]: levels stay in order and inside the schedule.
        turn: arcsin of eta, [N]: 0 for no noise, pi/2 for the posterior's.
        keep: What is kept of x beyond the step's own, [N].
        mix: Weights of the predictions, newest first, in units of what the step adds, [N, K].
    """

    gaps: Any
    turn: Any
    keep: Any
    mix: Any


class Frame(NamedTuple):
    """What is not learned.

    Attributes:
        log_snr: Of the schedule's times, increasing, [T].
        t: Those times, [T].
        log_size: log sqrt(alpha^2 + sigma^2) there, [T].
        first: log_snr of the first call.
        last: Greatest log_snr that a call may have, or that of the end.
        end: alpha and sigma of the end.
        steer: Weight of guidance in the prediction, of the plan that was started from, [N]: 1, or
            0 where it shifts the mean.
        shift: Its weight of guidance in the mean, beyond the variance of the noise, [N].
    """

    log_snr: Any
    t: Any
    log_size: Any
    first: Any
    last: Any
    end: Any
    steer: Any
    shift: Any


def free(plan: Plan, schedule: Schedule, history: int) -> tuple[Free, Frame]:
    """A plan as free numbers, and the frame in which they are the plan again.

    Raises:
        ValueError: If it calls the network twice at a level, goes back, starts where alpha is 0,
            or adds more noise than the posterior: then it is not of this form.
    """
    if plan.origin is None or plan.log_variance is not None:
        raise ValueError("only a plan of fixed variance, written for a schedule, can be learned")
    t = np.arange(schedule.T)[schedule.alpha > 0]
    alpha, sigma = schedule.at(t)
    log_snr, end = np.log(alpha / sigma), schedule.at(plan.origin.end)
    last = log_snr[0] if plan.origin.end == DATA else np.log(end[0] / end[1])
    with np.errstate(divide="ignore"):
        visited = np.log(np.asarray(plan.alpha) / plan.sigma)
    way = last - visited[0]
    shares = np.append(np.diff(visited), last - visited[-1]) / way
    shares[-1] = max(shares[-1], LEAST)  # a last call at time 0 has no way left
    if not np.isfinite(shares).all() or np.any(shares[:-1] < LEAST):
        raise ValueError("the plan's levels do not follow one another")
    most = step(plan.alpha, plan.sigma, end, plan.space, np.pi / 2)[2]
    eta = np.divide(plan.noise, most, out=np.zeros_like(most), where=most > 0)
    if np.any(eta > 1 + 1e-9) or np.any(plan.noise[most == 0]):
        raise ValueError("the plan adds more noise than the posterior has")
    turn = np.arcsin(np.minimum(eta, 1))
    keep, add, _ = step(plan.alpha, plan.sigma, end, plan.space, turn)
    wide = plan.widened(max(history, plan.history))
    steer = plan.steer if plan.steer is not None else np.ones(plan.nfe)
    frame = Frame(
        log_snr[::-1],
        t[::-1].astype(float),
        np.log(np.hypot(alpha, sigma))[::-1],
        visited[0],
        last,
        np.array(end),
        steer,
        (plan.shift if plan.shift is not None else 0) - (1 - steer) * plan.noise**2,
    )
    numbers = Free(np.log(shares), turn, plan.keep - keep, wide.mix / add[:, None])
    return jax.tree.map(np.float64, (numbers, frame))


def step(alpha: Any, sigma: Any, end: Any, space: str, turn: Any) -> tuple[Any, Any, Any]:
    """keep, add and std of the steps between levels, [N] each."""
    xp = np if isinstance(alpha, np.ndarray) else jnp
    alpha_next, sigma_next = (
        xp.append(a[1:], e) for a, e in zip((alpha, sigma), end, strict=True)
    )
    eta, shrunk = xp.sin(turn), (alpha / sigma) * (sigma_next / alpha_next)  # e^-h, of log_snr
    fresh = 1 - shrunk**2  # the posterior's variance, as a part of sigma_next^2
    std, left = sigma_next * eta * xp.sqrt(fresh), sigma_next * xp.sqrt(1 - eta**2 * fresh)
    if space == "x_0":
        keep = left / sigma
        return keep, alpha_next - alpha * keep, std
    keep = alpha_next / alpha
    return keep, left - sigma * keep, std


def log_snrs(numbers: Free, frame: Frame) -> Any:
    """log_snr of each call, [N], increasing."""
    shares = jax.nn.softmax(numbers.gaps)
    before = jnp.cumsum(shares) - shares
    return frame.first + (frame.last - frame.first) * before


def plan(numbers: Free, frame: Frame, space: str) -> Plan:
    """The plan of some numbers, on the device: what is differentiated through."""
    at = log_snrs(numbers, frame)
    t = jnp.interp(at, frame.log_snr, frame.t)
    size = jnp.exp(jnp.interp(at, frame.log_snr, frame.log_size))
    alpha, sigma = (size * jnp.sqrt(jax.nn.sigmoid(way * 2 * at)) for way in (1, -1))
    return _table(numbers, frame, t, alpha, sigma, space)


def written(
    numbers: Free,
    frame: Frame,
    space: str,
    schedule: Schedule,
    origin: Origin,
    whole_times: bool = False,
) -> Plan:
    """The plan of some numbers, its levels and coefficients those of the schedule in float64.

    With `whole_times` the nearest whole ones: of a plan that had these, what was lost on the way
    through shares and logarithms.
    """
    numbers, frame = jax.tree.map(np.float64, (numbers, frame))
    with jax.enable_x64(True):
        at = np.asarray(log_snrs(numbers, frame))
    t = schedule.time(np.clip(at, frame.log_snr[0], frame.log_snr[-1]))
    t = np.round(t) if whole_times else t
    return replace(_table(numbers, frame, t, *schedule.at(t), space), origin=origin)


def _table(numbers: Free, frame: Frame, t: Any, alpha: Any, sigma: Any, space: Any) -> Plan:
    keep, add, std = step(alpha, sigma, frame.end, space, numbers.turn)
    return Plan(
        t,
        alpha,
        sigma,
        keep + numbers.keep,
        add[:, None] * numbers.mix,
        std,
        space,
        frame.steer,
        frame.shift + (1 - frame.steer) * std**2,
    )
