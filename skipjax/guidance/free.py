"""Guidance by what the network itself says without its condition."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from skipjax.conditioners import Condition
from skipjax.denoisers import Denoise, Prediction
from skipjax.guidance.interval import Interval, for_all, inside_of, over
from skipjax.process import Parameterization, Point


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClassifierFree:
    """Guidance by what the network itself says without the condition: `classifier_free`.

    Attributes:
        scale: 1 for the conditional prediction, more to insist; one for all, or [B].
        interval: Least and largest time at which to guide; default: at all times.
        rescale: Part of the way back to the spread of the conditional output, 0 .. 1; default: 0.
        channels: Number of leading channels that are guided, the rest being conditional; default:
            the network's `guided_channels`, and all where it has none. Static.
    """

    scale: Any
    interval: Interval | None = None
    rescale: Any = None
    channels: int | None = field(default=None, metadata={"static": True})


def classifier_free(
    denoise: Callable[[Condition], Denoise],
    condition: Condition,
    null: Condition,
    scale: jax.Array | float,
    interval: Interval | None = None,
    *,
    rescale: jax.Array | float | None = None,
    channels: int | None = None,
    row: Parameterization | None = None,
) -> Denoise:
    """Guidance without a classifier: eps = eps(null) + scale (eps(condition) - eps(null)).

    x_0 is mixed alike; a learned variance is that of the condition. The network sees each sample
    twice, in one call on a batch of 2B. Clip the result, not what goes in.

    Args:
        denoise: From a condition to a denoiser of a batch of it.
        condition: What is wanted, leaves [B, ...].
        null: What stands for nothing, or for what is not wanted; of the same structure,
            leaves [B, ...] or one for all.
        scale: 1 for the network's own conditional prediction, more to insist, 0 for none; one
            for all samples, or one each, [B].
        interval: Least and largest time at which to guide, the prediction is the conditional one
            at others; default: at all times.
        rescale: phi in 0 .. 1: the output is then multiplied by phi std(conditional) / std(mixed)
            + 1 - phi, each standard deviation over the guided channels of one sample; default: not
            at all.
        channels: Number of leading channels that are mixed; default: all.
        row: What the output is, needed for `rescale`.

    Source: Ho & Salimans 2022 (arXiv:2207.12598), equation 6, with scale = 1 + w; rescale: Lin et
    al. 2024 (arXiv:2305.08891), section 3.4.
    """

    def guided(x: jax.Array, point: Point) -> Prediction:
        inside = inside_of(point.t, interval)

        def conditional(x: jax.Array) -> Prediction:
            return denoise(condition)(x, point)

        def mixed(x: jax.Array) -> Prediction:
            # A sample's two halves lie side by side, so that a batch split over devices stays so.
            both = denoise(jax.tree.map(_interleave, condition, null))(
                _twice(x), jax.tree.map(_twice, point)
            )
            wanted, without = _every_other(both, 0), _every_other(both, 1)

            def mix(a: jax.Array, b: jax.Array) -> jax.Array:
                mixed = jnp.where(over(inside, x), b + over(scale, x) * (a - b), a)
                if channels is None:
                    return mixed
                return jnp.concatenate([mixed[..., :channels], a[..., channels:]], axis=-1)

            x_0, eps = mix(wanted.x_0, without.x_0), mix(wanted.eps, without.eps)
            if rescale is not None:
                assert row is not None
                theirs = row.target(wanted.x_0, wanted.eps, point)
                output = row.target(x_0, eps, point)
                spread = _std(theirs[..., :channels]) / _std(output[..., :channels])
                factor = rescale * spread + 1 - rescale
                scaled = jnp.where(over(inside, x), factor, 1) * output
                if channels is not None:
                    scaled = jnp.concatenate(
                        [scaled[..., :channels], output[..., channels:]], axis=-1
                    )
                x_0, eps = row.predict(scaled, x, point)
            return Prediction(x_0, eps, wanted.log_variance)

        if for_all(inside, interval):
            return jax.lax.cond(inside, mixed, conditional, x)
        return mixed(x)

    return guided


def _std(x: jax.Array) -> jax.Array:
    return jnp.std(x, axis=tuple(range(1, x.ndim)), keepdims=True)


def _interleave(a: Any, b: Any) -> jax.Array:
    """Both, [2B, ...], sample by sample."""
    a = jnp.asarray(a)
    b = jnp.broadcast_to(b, a.shape)
    return jnp.stack([a, b], axis=1).reshape(2 * a.shape[0], *a.shape[1:])


def _every_other(both: Prediction, first: int) -> Prediction:
    def half(a: jax.Array) -> jax.Array:
        return a[first::2]

    return jax.tree.map(half, both)


def _twice(value: jax.Array) -> jax.Array:
    return jnp.repeat(value, 2, axis=0) if jnp.ndim(value) else value
