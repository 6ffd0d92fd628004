"""Denoising Langevin-Gibbs: a chain through pictures and noise levels at once.

Of a variance-exploding process, x = x_0 + sigma eps, the state is (x, sigma). A move is

    x <- x + eta / 2 grad log p_sigma(x) + sqrt(eta) z         a step of Langevin's
    sigma <- a draw from p(sigma | x)                          Gibbs'

and what the chain visits at small sigma is denoised by a few steps of the probability-flow ODE.
The chain stays near the data, so that a new picture costs but the moves in between.

What is exact and what is not. The second half is exact. The first is not corrected by Metropolis
and Hastings, and leaves an error of order eta; along a direction in which p_sigma has variance v
it needs eta < 4 v, at every level that the chain may visit. The state after a fixed number of
moves has, that apart, the law p(x, sigma), so that denoising it is a draw of the data. The least
noisy state of several, which the paper denoises, is chosen by looking, and is that only nearly.

Source: Kim & Ye 2022, "Denoising MCMC" (arXiv:2209.14593).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.adaptive import levels
from skipjax.adaptive.levels import over
from skipjax.checks import whole
from skipjax.denoisers import Denoise, steered
from skipjax.sampling import gaussian
from skipjax.schedules import Schedule

# x [B, ...] -> log p(sigma_t | x) for t = 0 .. T-1, up to a constant for each picture, [B, T]:
# what a classifier of noise levels gives before its softmax.
LogLevels = Callable[[jax.Array], jax.Array]


class Chain(NamedTuple):
    """Where the chains stand, and the least noisy state on the way.

    Attributes:
        x: Points, [B, ...].
        t: Their levels, as times of the schedule, int [B].
        least_x: The point of least t, the latest of equals, since the chain was last asked for,
            [B, ...].
        least_t: Its level, int [B].
        moves: Moves made since the start: what noise is drawn with, int.
    """

    x: jax.Array
    t: jax.Array
    least_x: jax.Array
    least_t: jax.Array
    moves: jax.Array


def start(x: jax.Array, t: jax.Array) -> Chain:
    """Chains that begin at x [B, ...], of level t, int [B]."""
    x = levels.carried(x)
    t = jnp.broadcast_to(jnp.asarray(t, jnp.int32), x.shape[:1])
    return Chain(x, t, x, t, jnp.zeros((), jnp.int32))


def by_density(
    schedule: Schedule, log_density: Callable[[jax.Array, jax.Array], jax.Array]
) -> LogLevels:
    """p(sigma_t | x) by Bayes' rule from log p_sigma(x), all T levels as likely before.

    The levels of `schedules.variance_exploding` are even in log sigma, and so is the prior then.

    Args:
        schedule: Variance-exploding.
        log_density: (x [B, ...], sigma, a scalar) -> log p_sigma(x), [B], up to one constant.

    Raises:
        ValueError: If the schedule is not variance-exploding.
    """
    _exploding(schedule)

    def log_levels(x):
        sigma = jnp.asarray(schedule.sigma, x.dtype)
        return jax.vmap(log_density, (None, 0), out_axes=1)(x, sigma)

    return log_levels


def langevin_gibbs(
    schedule: Schedule,
    denoise: Denoise,
    log_levels: LogLevels,
    chain: Chain,
    keys: jax.Array,
    *,
    num: int,
    eta: float,
    draw: bool = True,
) -> Chain:
    """`num` moves of every chain, one call of the network each.

    For a picture of every `num` moves, call it again with the chain that it returned, and give
    least_x and least_t, or x and t, to `descend`. Under `jit`, close over schedule and settings.

    Args:
        schedule: Variance-exploding; its T levels are those that sigma takes.
        denoise: Its eps gives the score, -eps / sigma; called with one level per picture.
        log_levels: Of p(sigma | x): `by_density`, or a classifier.
        chain: Where to go on: `start`, or what this function returned.
        keys: Keys of the chains, [B]; a chain depends on its own alone, and not on how its moves
            are divided into calls. Move i draws z with fold_in(key, 2 i), sigma with 2 i + 1.
        num: Number of moves, at least 1; `n_skip` of the release.
        eta: Step of Langevin's, > 0, in units of x squared, the same at every level.
        draw: Whether sigma is drawn. If not, it is the likeliest level, as the release has it:
            that is no Gibbs sampler, and the chain's law is another than p(x, sigma).

    Raises:
        ValueError: If the schedule is not variance-exploding, or a number is out of its range.
    """
    _exploding(schedule)
    num = whole("num", num, 1)
    if not 0 < eta < np.inf:
        raise ValueError(f"eta is {eta}: it must be a positive number")
    table = levels.table(schedule, chain.x.dtype)

    def move(chain, _):
        x, t, least_x, least_t, moves = chain
        of_x, of_t = (jax.vmap(jax.random.fold_in, (0, None))(keys, 2 * moves + i) for i in (0, 1))
        z = gaussian(of_x, x.shape[1:], x.dtype)
        point = table.at(t, x)
        score = -steered(denoise(x, point), point).eps.astype(x.dtype) / point.sigma
        x = x + eta / 2 * score + eta**0.5 * z
        logits = log_levels(x)
        if draw:
            t = jax.vmap(jax.random.categorical)(of_t, logits)
        else:
            t = jnp.argmax(logits, axis=1)
        t = t.astype(jnp.int32)
        less = t <= least_t
        least_x = jnp.where(over(less, x), x, least_x)
        return Chain(x, t, least_x, jnp.minimum(t, least_t), moves + 1), None

    none_yet = jnp.full_like(chain.t, schedule.T)
    chain, _ = jax.lax.scan(move, chain._replace(least_t=none_yet), length=num)
    return chain


def descend(
    schedule: Schedule,
    denoise: Denoise,
    x: jax.Array,
    t: jax.Array,
    *,
    steps: int,
    rho: float = 7.0,
) -> jax.Array:
    """The probability-flow ODE from a level of each picture's own to the data, by Heun's method.

        sigma_i = (sigma^(1/rho) + i / (steps - 1) (sigma_min^(1/rho) - sigma^(1/rho)))^rho

    for i = 0 .. steps-1, sigma_min being that of time 0, and sigma_steps = 0. The last step is
    Euler's, which is Tweedie's formula, x_0 as predicted there; 2 steps - 1 calls in all.

    Args:
        schedule: Variance-exploding.
        denoise: Called with one time, whole or between, and level per picture.
        x: Points, [B, ...]. Carried in float32, or float64.
        t: Their levels, int [B], in 0 .. T-1.
        steps: At least 1, which is Tweedie's formula alone.
        rho: How the levels are spaced, > 0.

    Returns:
        The pictures, [B, ...].

    Raises:
        ValueError: If the schedule is not variance-exploding, or a number is out of its range.

    Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 1 and equation 5.
    """
    _exploding(schedule)
    steps = whole("steps", steps, 1)
    if not 0 < rho < np.inf:
        raise ValueError(f"rho is {rho}: it must be a positive number")
    x = levels.carried(x)
    level = levels.between(schedule, x.dtype)
    root = levels.table(schedule, x.dtype).sigma[t] ** (1 / rho)
    least = float(schedule.sigma[0]) ** (1 / rho)

    def at(part):
        return (root + part * (least - root)) ** rho

    def predict(x, sigma):
        point = level(-jnp.log(sigma), x)
        prediction = steered(denoise(x, point), point)
        return prediction.x_0.astype(x.dtype), prediction.eps.astype(x.dtype)

    def heun(x, part):
        now, then = at(part), at(part + 1 / (steps - 1))
        h = over(then - now, x)
        _, eps = predict(x, now)
        _, ahead = predict(x + h * eps, then)
        return x + h * (eps + ahead) / 2, None

    if steps > 1:
        parts = jnp.arange(steps - 1, dtype=x.dtype) / (steps - 1)
        x, _ = jax.lax.scan(heun, x, parts)
    return predict(x, at(1.0))[0]


def _exploding(schedule: Schedule) -> None:
    if not np.all(schedule.alpha == 1):
        raise ValueError(
            "the schedule must be variance-exploding, alpha = 1: see schedules.variance_exploding"
        )
