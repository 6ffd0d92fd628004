"""A plan as numbers: what of a table is learned, and how it stays a sampler.

A step from level (alpha, sigma) to (alpha', sigma') that holds its prediction m fixed is DDIM's,

    x' = keep x + add m + std z        in x_0:  keep = left / sigma,   add = alpha' - alpha keep
                                       in eps:  keep = alpha' / alpha, add = left - sigma keep

with std = eta times the posterior's, left^2 = sigma'^2 - std^2, and eta = sin(turn). What is
learned is where the levels lie, how far each step turns from the ODE to the posterior, what is
kept beyond that, and the weights of this and earlier predictions in units of `add`, which are of
the order of 1 however short the step.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.plans import Origin, Plan
from skipjax.plans.plan import Space
from skipjax.schedules import DATA, Schedule

LEAST = 1e-4  # share of the way, in log_snr, that two calls lie apart


class Numbers(NamedTuple):
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

    def flat(self) -> np.ndarray:
        """All in a row, float64 [N (3 + K)]."""
        return np.concatenate([np.ravel(np.asarray(part, np.float64)) for part in self])

    @classmethod
    def of_flat(cls, flat: Any, nfe: int) -> "Numbers":
        """The inverse of `flat`, of a plan of N = nfe rows."""
        rows, mix = flat[: 3 * nfe].reshape(3, nfe), flat[3 * nfe :].reshape(nfe, -1)
        return cls(rows[0], rows[1], rows[2], mix)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["log_snr", "t", "log_size", "first", "last", "end", "steer", "shift"],
    meta_fields=["space"],
)
@dataclass(frozen=True, eq=False)
class Frame:
    """What of a plan is not learned.

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
        space: What the plan's predictions are.
    """

    log_snr: Any
    t: Any
    log_size: Any
    first: Any
    last: Any
    end: Any
    steer: Any
    shift: Any
    space: Space

    @property
    def nfe(self) -> int:
        """N."""
        return len(self.steer)

    @jax.jit
    def plan(self, flat: jax.Array) -> Plan:
        """The plan of some numbers, `Numbers.flat`; on the device, to be differentiated."""
        numbers = Numbers.of_flat(flat, self.nfe)
        at = self._log_snrs(numbers)
        t = jnp.interp(at, self.log_snr, self.t)
        size = jnp.exp(jnp.interp(at, self.log_snr, self.log_size))
        alpha, sigma = (size * jnp.sqrt(jax.nn.sigmoid(sign * 2 * at)) for sign in (1, -1))
        return self._table(numbers, t, alpha, sigma)

    @jax.jit
    def derivatives(self, flat: jax.Array, chosen: jax.Array) -> tuple[Plan, Plan]:
        """The plan, and the derivatives of its columns by some of its numbers."""

        def columns(some: jax.Array) -> Plan:
            return self.plan(flat.at[chosen].set(some))

        return columns(flat[chosen]), jax.jacfwd(columns)(flat[chosen])

    def write(
        self, numbers: Numbers, schedule: Schedule, origin: Origin, whole_times: bool = False
    ) -> Plan:
        """The plan of some numbers, its levels and coefficients those of the schedule in float64.

        With `whole_times` the nearest whole ones: of a plan that had these, what was lost on the
        way through shares and logarithms.
        """
        frame, numbers = jax.tree.map(np.float64, (self, numbers))
        with jax.enable_x64(True):
            at = np.asarray(frame._log_snrs(numbers))
        t = schedule.time(np.clip(at, frame.log_snr[0], frame.log_snr[-1]))
        t = np.round(t) if whole_times else t
        return replace(frame._table(numbers, t, *schedule.at(t)), origin=origin)

    def _log_snrs(self, numbers: Numbers) -> Any:
        """log_snr of each call, [N], increasing."""
        shares = jax.nn.softmax(numbers.gaps)
        before = jnp.cumsum(shares) - shares
        return self.first + (self.last - self.first) * before

    def _table(self, numbers: Numbers, t: Any, alpha: Any, sigma: Any) -> Plan:
        keep, add, std = step(alpha, sigma, self.end, self.space, numbers.turn)
        return Plan(
            t,
            alpha,
            sigma,
            keep + numbers.keep,
            add[:, None] * numbers.mix,
            std,
            self.space,
            self.steer,
            self.shift + (1 - self.steer) * std**2,
        )


def parametrize(plan: Plan, schedule: Schedule, history: int) -> tuple[Numbers, Frame]:
    """A plan as numbers, and the frame in which they are the plan again.

    Raises:
        ValueError: If it calls the network twice at a level, goes back, starts where alpha is 0,
            or adds more noise than the posterior: then it is not of this form.
    """
    if plan.origin is None or plan.log_variance is not None or plan.excess is not None:
        raise ValueError(
            "only a plan of fixed variance, whose eps follows a clipped x_0, written for a "
            "schedule, can be learned"
        )
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
    steer = plan.guide_eps if plan.guide_eps is not None else np.ones(plan.nfe)
    frame = Frame(
        log_snr[::-1],
        t[::-1].astype(float),
        np.log(np.hypot(alpha, sigma))[::-1],
        visited[0],
        last,
        np.array(end),
        steer,
        (plan.guide_mean if plan.guide_mean is not None else 0) - (1 - steer) * plan.noise**2,
        plan.space,
    )
    numbers = Numbers(np.log(shares), turn, plan.keep - keep, wide.mix / add[:, None])
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
