"""Where sampling starts and where it should end, and how far plans are from that."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.denoisers import Denoise
from skipjax.plans import Plan, stack
from skipjax.sampling import integrate

# The denoiser of pictures with some labels, [B] or None: a pytree, as `jax.tree_util.Partial` is.
Denoiser = Callable[[jax.Array | None], Denoise]
# What pictures are compared in: [B, ...] -> [B, ...].
Features = Callable[[jax.Array], jax.Array]


class Examples(NamedTuple):
    """Arrays with a first axis of M pictures.

    Attributes:
        x: Starting noise, [M, ...].
        keys: Of the noise that a plan adds, [M].
        labels: int [M], or None.
        target: What the features should be, those of the teacher's pictures, [M, ...].
    """

    x: Any
    keys: Any
    labels: Any = None
    target: Any = None

    def take(self, chosen: Any) -> "Examples":
        """Those at some places."""
        return jax.tree.map(lambda a: a[chosen], self)

    def batches(self, size: int) -> list["Examples"]:
        """All of them, `size` at a time; the last is repeated to fill the last batch."""
        num = len(self.x)
        places = np.minimum(np.arange(-(-num // size) * size), num - 1)
        return [self.take(some) for some in places.reshape(-1, size)]


def pixels(x: jax.Array) -> jax.Array:
    """The pictures themselves."""
    return x


@partial(jax.jit, static_argnames="features")
def drawn(
    denoiser: Denoiser, plan: Plan, examples: Examples, features: Features = pixels
) -> jax.Array:
    """Features of what a plan draws of some examples, all at once."""
    return features(integrate(plan, denoiser(examples.labels), examples.x, examples.keys))


def residuals(
    denoiser: Denoiser, plan: Plan, examples: Examples, features: Features = pixels
) -> jax.Array:
    """Features of what a plan draws, less the target, [B, values]."""
    off = drawn(denoiser, plan, examples, features) - examples.target
    return off.reshape(len(off), -1)


def squares(
    denoiser: Denoiser,
    plans: list[Plan],
    examples: Examples,
    features: Features = pixels,
    batch: int = 256,
) -> np.ndarray:
    """Mean square of each picture's features - target, by plan, float64 [plans, M].

    Plans of one number of calls and one space share a program, whatever their history.
    """
    found: Any = np.full((len(plans), len(examples.x)), np.nan)
    for space in {plan.space for plan in plans}:
        places = [i for i, plan in enumerate(plans) if plan.space == space]
        stacked = stack([plans[i] for i in places])
        parts = [_squares(denoiser, stacked, part, features) for part in examples.batches(batch)]
        found[places] = np.concatenate(jax.device_get(parts), axis=1)[:, : len(examples.x)]
    return found


@partial(jax.jit, static_argnames="features")
def _squares(
    denoiser: Denoiser, stacked: Plan, examples: Examples, features: Features
) -> jax.Array:
    def of(plan: Plan) -> jax.Array:
        return jnp.square(residuals(denoiser, plan, examples, features)).mean(axis=1)

    return jax.lax.map(of, stacked)


def rmse(squares: np.ndarray) -> np.ndarray:
    """Root of the mean over pictures; infinite where one is not finite."""
    return np.sqrt(np.nan_to_num(squares, nan=np.inf, posinf=np.inf).mean(axis=-1))
