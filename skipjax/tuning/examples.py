"""Where sampling starts and where it should end, and what plans make of it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.denoisers import Denoise
from skipjax.plans import Plan, stack
from skipjax.sampling import integrate, trajectory

GROUP = 4  # plans that are run in one call of a program


class Examples(NamedTuple):
    """Arrays with a first axis of M samples.

    Attributes:
        x: Starting noise, [M, ...].
        keys: Of the noise that a plan adds, [M].
        condition: What conditions the samples, a pytree of leaves [M, ...]; or None.
        scale: Of guidance, [M]; None where it is one for all, or there is none.
        target: What the features should be, [M, ...]: those of the teacher's samples.
        path: How the teacher came there: log_snr of its levels, increasing, [M, P], and
            x / sqrt(alpha^2 + sigma^2) there, [M, P, ...]. None where the end alone counts.
    """

    x: Any
    keys: Any
    condition: Any = None
    scale: Any = None
    target: Any = None
    path: Any = None

    def take(self, chosen: Any) -> "Examples":
        """Those at some indices."""
        return jax.tree.map(lambda a: a[chosen], self)

    def batches(self, size: int) -> list["Examples"]:
        """All of them, `size` at a time; the last is repeated to fill the last batch."""
        num = len(self.x)
        indices = np.minimum(np.arange(-(-num // size) * size), num - 1)
        return [self.take(some) for some in indices.reshape(-1, size)]


# The denoiser of some examples: a pytree, as `jax.tree_util.Partial` is.
Denoiser = Callable[[Examples], Denoise]
# What samples are compared in: [B, ...] -> [B, ...].
Features = Callable[[jax.Array], jax.Array]


def identity(x: jax.Array) -> jax.Array:
    """The samples themselves."""
    return x


@partial(jax.jit, static_argnames="features")
def draw(
    denoiser: Denoiser, plan: Plan, examples: Examples, features: Features = identity
) -> jax.Array:
    """Features of what a plan draws of some examples, all at once, [B, ...]."""
    return features(integrate(plan, denoiser(examples), examples.x, examples.keys))


@jax.jit
def draw_path(
    denoiser: Denoiser, plan: Plan, examples: Examples, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What a plan draws of some examples, [B, ...], and x_{i+1} / sqrt(alpha^2 + sigma^2) of some
    of its rows i, [B, rows, ...].
    """
    x = trajectory(plan, denoiser(examples), examples.x, examples.keys)
    size = jnp.hypot(plan.alpha, plan.sigma)[rows + 1].reshape(-1, *(1,) * examples.x.ndim)
    return x[-1], jnp.moveaxis(x[rows] / size.astype(x.dtype), 0, 1)


def draw_all(
    denoiser: Denoiser,
    plans: list[Plan],
    examples: Examples,
    features: Features = identity,
    batch: int = 256,
) -> list[np.ndarray]:
    """Features of what plans draw of all examples, `batch` at a time, [M, values] of each.

    Plans of one number of calls and one space share a program, whatever their history and however
    many they are beyond `GROUP`: so many are run at a time, with K = N.
    """
    found: dict[int, np.ndarray] = {}
    parts = examples.batches(min(batch, len(examples.x)))
    for kind in dict.fromkeys((plan.space, plan.nfe) for plan in plans):
        indices = [i for i, plan in enumerate(plans) if (plan.space, plan.nfe) == kind]
        for at in range(0, len(indices), GROUP):
            some = indices[at : at + GROUP]
            group = [plans[i].widened(max(plans[i].nfe, plans[i].history)) for i in some]
            stacked = stack(group + [group[-1]] * (min(GROUP, len(indices)) - len(group)))
            drawn = [_draw_stacked(denoiser, stacked, part, features) for part in parts]
            values = np.concatenate(jax.device_get(drawn), axis=1)[:, : len(examples.x)]
            found |= dict(zip(some, values, strict=False))
    return [found[i] for i in range(len(plans))]


@partial(jax.jit, static_argnames="features")
def _draw_stacked(
    denoiser: Denoiser, stacked: Plan, examples: Examples, features: Features
) -> jax.Array:
    def of(plan: Plan) -> jax.Array:
        return draw(denoiser, plan, examples, features).reshape(len(examples.x), -1)

    return jax.lax.map(of, stacked)
