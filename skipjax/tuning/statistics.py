"""What DPM-Solver-v3 needs to know of a network: how eps changes with x, and along the flow.

With eps of the network, y = x / alpha, and l' for dl / d(log_snr) along the probability flow,

    dx / d(log_snr) = d(log alpha) / d(log_snr) x - sigma eps
    l = sigma E[v . d(eps)/dx v] / D,   v of -1 and 1 at random
    f = (sigma eps - l x) / alpha
    s = E <f, f'> / E <f, f>

as `plans.dpm_v3` has it. The trace is Hutchinson's, and both derivatives are forward ones: nothing
of the network is kept. l is known only after all examples were seen, so that with a first guess
l_0 = sigma^2 / (alpha^2 + sigma^2), d = l - l_0, and r = f for l = l_0, the rest follows from

    f = r - d y,   f' = r' + d r + (d l_0 - d') y

and five means, of <r, r>, <r, y>, <y, y>, <r', r> and <r', y>. Where a level has hardly any signal
or noise, y is large, and r and d are not: these numbers keep their digits in float32.

Source: Zheng et al. 2023 (arXiv:2310.13268), section 3 and its appendix on the estimation.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from skipjax import plans
from skipjax.checks import whole
from skipjax.denoisers import Denoise, Point, steered
from skipjax.plans import Plan
from skipjax.plans.dpm_v3 import Statistics
from skipjax.sampling import advance, no_history
from skipjax.schedules import Schedule
from skipjax.tuning.examples import Denoiser, Examples

PROBES = 2**32 - 2  # folded into a picture's key for v; `sampling.START` is the next
WINDOW = 11 / 1200  # of the levels, over which l' is averaged: 11 of the paper's 1200
STEP = 1e-4  # in log_snr, for derivatives of the schedule


class _Rates(NamedTuple):
    """Derivatives with respect to log_snr at each row of a plan, and l_0 with its own; [N]."""

    t: np.ndarray
    log_alpha: np.ndarray
    guess: np.ndarray
    guess_rate: np.ndarray


def statistics(
    denoiser: Denoiser,
    schedule: Schedule,
    examples: Examples,
    *,
    plan: Plan | None = None,
    points: int = 120,
    probes: int = 1,
    batch: int = 256,
) -> Statistics:
    """l and s of a network, as means over the way that a plan takes some examples.

    The cost is 2 N (probes + 2) network calls an example, or a little less, for N levels. A
    sample meets the same v at all levels: what is random in l changes smoothly, and l' is as good
    as l is.

    Args:
        denoiser: Of the network. It must take real times, and may be guided.
        schedule: The forward process.
        examples: Starting noise and keys, [M]; their targets are not looked at.
        plan: The way; its calls are the levels; default: DPM-Solver++(3M).
        points: N of that, even in log_snr, from the noisiest level with signal to time 0.
        probes: How many v for each picture and level.
        batch: Pictures at a time; memory grows with it alone.

    Returns:
        N levels; of a plan that starts from zero SNR, N - 1.

    Raises:
        ValueError: If `points` is below 2, `probes` or `batch` below 1, there are no examples, the
            plan is of another schedule, or its levels do not go from noise to data, one by one.
        FloatingPointError: If a prediction on the way, or its derivative, is not finite.
    """
    points, probes = whole("points", points, 2), whole("probes", probes, 1)
    num = len(examples.x)
    if not num:
        raise ValueError("there are no examples: statistics are means over at least one")
    if plan is None:
        plan = _even(schedule, points)
    elif not plan.belongs(schedule):
        raise ValueError(f"{plan} was written for another schedule: write it for this one")
    some = np.asarray(plan.alpha, np.float64) > 0
    with np.errstate(divide="ignore"):
        log_snr = np.log(np.asarray(plan.alpha)) - np.log(np.asarray(plan.sigma))
    if some.sum() < 2 or not (np.diff(log_snr) > 0).all():
        raise ValueError(
            f"{plan} calls the network at log_snr {log_snr}: statistics need a plan of one call a "
            "step, from noise to data, and two levels or more"
        )
    rates = _rates(schedule, plan, log_snr)
    sums = [
        jax.device_get(_moments(denoiser, plan, part, rates, probes))
        for part in examples.batches(min(whole("batch", batch, 1), num))
    ]
    means = np.concatenate(sums, axis=1)[some, :num].astype(np.float64).mean(axis=1)
    if not np.isfinite(means).all():
        raise FloatingPointError(
            "what the network says on the way, or its derivative, is not finite: no statistics "
            "come of it"
        )
    tiny = 16 * float(jnp.finfo(jnp.promote_types(examples.x.dtype, jnp.float32)).eps)
    return _solved(log_snr[some], rates.guess[some], means.T, tiny)


def _even(schedule: Schedule, points: int) -> Plan:
    """A plan with calls at levels even in log_snr."""
    noisiest = np.flatnonzero(schedule.alpha > 0)[-1]
    first, last = schedule.log_snr([noisiest, 0])
    times = schedule.time(np.linspace(first, last, points))
    if noisiest < schedule.T - 1:
        times = np.append(schedule.T - 1.0, times)
    return plans.dpmpp_3m(schedule, times) if len(times) > 2 else plans.ddim(schedule, times)


def _rates(schedule: Schedule, plan: Plan, log_snr: np.ndarray) -> _Rates:
    """By differences over both sides of a level, or one where the schedule has no other."""
    known = schedule.log_snr(np.arange(schedule.T))
    known = known[np.isfinite(known)]
    near = np.clip(log_snr, known.min(), known.max())
    below, above = np.maximum(near - STEP, known.min()), np.minimum(near + STEP, known.max())
    t_below, t_above = schedule.time(below), schedule.time(above)
    log_alpha = np.log(schedule.at(t_above)[0]) - np.log(schedule.at(t_below)[0])
    guess = 1 / (1 + np.exp(2 * log_snr))
    width = above - below
    return _Rates((t_above - t_below) / width, log_alpha / width, guess, -2 * guess * (1 - guess))


@partial(jax.jit, static_argnames="probes")
def _moments(
    denoiser: Denoiser, plan: Plan, examples: Examples, rates: _Rates, probes: int
) -> jax.Array:
    """Of each row and example l, <r, r>, <r, y>, <y, y>, <r', r>, <r', y>, by D; [N, B, 6]."""
    denoise = denoiser(examples)
    x = examples.x.astype(jnp.promote_types(examples.x.dtype, jnp.float32))
    table = jax.tree.map(lambda column: jnp.asarray(column, x.dtype), (plan, rates))
    keys = jax.vmap(jax.random.fold_in, (0, None))(examples.keys, PROBES)

    def step(carry, row):
        i, (row, rate) = row
        found = _at(denoise, row, rate, carry[0], keys, probes)
        return advance(carry, row, i, denoise, examples.keys)[0], found

    rows = jnp.arange(plan.nfe), table
    return jax.lax.scan(step, (x, no_history(plan, x)), rows)[1]


def _at(
    denoise: Denoise, row: Plan, rate: _Rates, x: jax.Array, keys: jax.Array, probes: int
) -> jax.Array:
    """`_moments` of one row, [B, 6]."""

    def eps(x, t, alpha, sigma):
        point = Point(t, alpha, sigma)
        return steered(denoise(x, point), point).eps.astype(x.dtype)

    level = row.t, row.alpha, row.sigma

    def trace(probe):
        some = jax.vmap(jax.random.fold_in, (0, None))(keys, probe)
        v = jax.vmap(lambda key: jax.random.rademacher(key, x.shape[1:], x.dtype))(some)
        return _mean(v, jax.jvp(lambda x: eps(x, *level), (x,), (v,))[1])

    l = row.sigma * jax.lax.map(trace, jnp.arange(probes)).mean(axis=0)  # noqa: E741
    said = eps(x, *level)
    along = rate.log_alpha * x - row.sigma * said
    # log_snr = log alpha - log sigma
    rates = rate.t, row.alpha * rate.log_alpha, row.sigma * (rate.log_alpha - 1)
    _, change = jax.jvp(eps, (x, *level), (along, *rates))
    y, rho = x / row.alpha, row.sigma / row.alpha
    r = rho * said - rate.guess * y
    r_rate = rho * (change - (1 - rate.guess) * said) - rate.guess_rate * y
    pairs = (r, r), (r, y), (y, y), (r_rate, r), (r_rate, y)
    return jnp.stack([l, *(_mean(a, b) for a, b in pairs)], axis=1)


def _mean(a: jax.Array, b: jax.Array) -> jax.Array:
    """<a, b> / D of each example, [B]."""
    return (a * b).reshape(len(a), -1).mean(axis=1)


def _solved(log_snr: np.ndarray, guess: np.ndarray, means: np.ndarray, tiny: float) -> Statistics:
    """l and s of the means over all examples, [6, G].

    Where f is what rounding leaves of sigma eps - l x, any s is as good: 0.
    """
    l, rr, ry, yy, qr, qy = means  # noqa: E741
    d = l - guess
    half = round(len(l) * WINDOW) // 2
    rate = np.gradient(d, log_snr, edge_order=2 if len(d) > 2 else 1)
    rate = np.convolve(np.pad(rate, half, "edge"), np.ones(2 * half + 1) / (2 * half + 1), "valid")
    e = d * guess - rate  # f' = r' + d r + e y
    square = rr - 2 * d * ry + d**2 * yy
    product = qr + d * rr + e * ry - d * (qy + d * ry + e * yy)
    # f is the difference of sigma eps / alpha and l x / alpha, and its square one of these means.
    rounded = tiny * (rr + d**2 * yy) + tiny**2 * (rr + guess**2 * yy)
    known = square > rounded
    s = np.where(known, product / np.where(known, square, 1), 0.0)
    return Statistics(log_snr, l, s)
