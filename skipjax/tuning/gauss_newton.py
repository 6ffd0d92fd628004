"""The normal equations of a plan: what is observed of it, and how that depends on its numbers.

With J the derivatives of what is observed by the numbers, J^T J and J^T gradient, summed over
samples.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.plans import Plan
from skipjax.sampling import trajectory
from skipjax.tuning.examples import Denoiser, Examples, Features, draw
from skipjax.tuning.vjp import Vectors, forward, pull_back

PROBES = 4  # random vectors for each sample


@partial(jax.jit, static_argnames="features")
def observe(
    denoiser: Denoiser, plan: Plan, examples: Examples, path_weight: float, features: Features
) -> jax.Array:
    """Features of what a plan draws, and where that is known, how far its points are from the
    teacher's on the way there, [B, values].
    """
    if examples.path is None:
        return draw(denoiser, plan, examples, features).reshape(len(examples.x), -1)
    x = trajectory(plan, denoiser(examples), examples.x, examples.keys)
    end = features(x[-1]).reshape(len(examples.x), -1)
    off = jax.vmap(_off, (0, 0, 0, None))(x[:-1], plan.alpha[1:], plan.sigma[1:], examples.path)
    return jnp.concatenate(
        [end, path_weight * jnp.moveaxis(off, 0, 1).reshape(len(end), -1)], axis=1
    )


def normal_equations(
    denoiser: Denoiser,
    columns: Plan,
    by_numbers: Plan,
    examples: Examples,
    gradient: jax.Array | np.ndarray,
    key: jax.Array,
    path_weight: float,
    features: Features,
) -> tuple[jax.Array, jax.Array]:
    """J^T J and J^T gradient, J the derivatives of what is observed by the numbers of a plan.

    Args:
        denoiser: Of the network.
        columns: The plan.
        by_numbers: Derivatives of its columns, with an axis of the numbers behind.
        examples: B of them.
        gradient: Of the loss, by what is observed, [B, values]; 0 for a sample that is not
            to count.
        key: Of the random v, by which J^T J is estimated where there are many values.
        path_weight: Weight of the points on the way.
        features: What samples are compared in.
    """
    probes = _probes(key, jnp.asarray(gradient))
    carries = forward(denoiser, columns, examples)
    size = int(np.prod(np.shape(examples.target)[1:]))

    def vectors(i: int) -> Vectors | None:
        if i == columns.nfe:
            return Vectors(_through(features, carries[i][0], probes[..., :size]))
        if examples.path is None:
            return None
        rest = probes[..., size:].reshape(*probes.shape[:2], columns.nfe - 1, -1)[:, :, i - 1]
        at = carries[i][0], columns.alpha[i], columns.sigma[i]
        return Vectors(*_through_off(*at, examples.path, path_weight * rest))

    return _gathered(pull_back(denoiser, columns, examples, carries, vectors), by_numbers)


@jax.jit
def _probes(key: jax.Array, gradient: jax.Array) -> jax.Array:
    """Random v for each sample, or all unit vectors where they are few; and the gradient."""
    num, size = gradient.shape
    if size > PROBES:
        v = jax.random.rademacher(key, (PROBES, num, size), gradient.dtype) / PROBES**0.5
    else:
        v = jnp.broadcast_to(jnp.eye(size, dtype=gradient.dtype)[:, None], (size, num, size))
    # Pictures that fill the last batch have no gradient at all.
    v = v * jnp.any(gradient != 0, axis=1)[None, :, None]
    return jnp.concatenate([v, gradient[None]])


@partial(jax.jit, static_argnames="features")
def _through(features: Features, x: jax.Array, v: jax.Array) -> jax.Array:
    """Vectors at features of samples, [S, B, values], pulled back to these."""
    shown, pull = jax.vjp(features, x)
    return jax.lax.map(lambda v: pull(v.reshape(shown.shape))[0], v)


def _off(
    x: jax.Array, alpha: jax.Array, sigma: jax.Array, path: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """How far points of one level, or one each, are from the teacher's there, [B, ...]."""
    levels, known = path
    log_snr = jnp.broadcast_to(jnp.log(alpha / sigma).reshape(-1), len(x))

    def at(levels: jax.Array, known: jax.Array, log_snr: jax.Array) -> jax.Array:
        i = jnp.clip(jnp.searchsorted(levels, log_snr), 1, len(levels) - 1)
        part = (log_snr - levels[i - 1]) / (levels[i] - levels[i - 1])
        return known[i - 1] + part * (known[i] - known[i - 1])

    return x / jnp.hypot(alpha, sigma) - jax.vmap(at)(levels, known, log_snr)


@jax.jit
def _through_off(
    x: jax.Array,
    alpha: jax.Array,
    sigma: jax.Array,
    path: tuple[jax.Array, jax.Array],
    v: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Vectors at what `_off` says, pulled back to the points and to the level of each."""
    each = (len(x), *(1,) * (x.ndim - 1))
    off, pull = jax.vjp(
        lambda x, alpha, sigma: _off(x, alpha, sigma, path),
        x,
        jnp.broadcast_to(alpha, each),
        jnp.broadcast_to(sigma, each),
    )
    to_x, *to_level = jax.lax.map(lambda v: pull(v.reshape(off.shape)), v)
    to_alpha, to_sigma = (owed.reshape(len(v), len(x)) for owed in to_level)
    return to_x, to_alpha, to_sigma


@jax.jit
def _gathered(owed: Plan, by_numbers: Plan) -> tuple[jax.Array, jax.Array]:
    """J^T J and J^T gradient of all samples, of what each owes to the columns."""

    def through(column: jax.Array, derivative: jax.Array) -> jax.Array:
        column = column.reshape(-1, *column.shape[-2:])
        derivative = derivative.reshape(len(column), -1)
        return jnp.einsum("nsb,np->sbp", column, derivative, precision="highest")

    rows = jnp.stack(jax.tree.leaves(jax.tree.map(through, owed, by_numbers))).sum(axis=0)
    flat = rows[:-1].reshape(-1, rows.shape[-1])
    return jnp.matmul(flat.T, flat, precision="highest"), rows[-1].sum(axis=0)
