"""What makes a denoiser prefer what its condition says: values, and denoisers that wrap denoisers.

A scale may be traced, so that a sweep over it runs one compiled program; so may the interval of
times (low, high), both included, outside which there is no guidance and nothing is computed for it
(Kynkaanniemi et al. 2024, arXiv:2404.07724).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from skipjax.conditioners import Condition
from skipjax.denoisers import Denoise, Prediction
from skipjax.pretrained import Classifier
from skipjax.process import Parameterization, Point

LogProb = Callable[[jax.Array, jax.Array], jax.Array]  # (x [B, ...], t [B]) -> log p(y | x) [B]
Interval = tuple[jax.Array | float, jax.Array | float]
# Key of a condition that the network is never told: the class that a classifier guides towards,
# where its numbers are not those of "label".
CLASS = "class"


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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ByClassifier:
    """Guidance by the gradient of a classifier of noisy samples: `classifier`.

    Attributes:
        classifier: What guides, towards the condition's "class", or its "label" where that is
            missing.
        scale: 1 for Bayes' rule, more to insist; one for all, or [B].
        interval: Least and largest time at which to guide; default: at all times.
        remat: Whether its layers are computed again for the gradient, to save memory. Static.
    """

    classifier: Classifier
    scale: Any = 1.0
    interval: Interval | None = None
    remat: bool = field(default=False, metadata={"static": True})


Guidance = ClassifierFree | ByClassifier


def classifier(
    denoise: Denoise, log_prob: LogProb, scale: jax.Array | float, interval: Interval | None = None
) -> Denoise:
    """Guidance by a classifier of noisy pictures: gradient = scale d log p(y | x) / dx.

    The gradient stands beside the prediction, added to that of what guides already. A plan adds it
    to the mean of a step, times the step's variance, where it draws from a posterior (DDPM,
    skipped-step), and takes it from eps elsewhere (DDIM and every other solver):
    `skipjax.denoisers.steered`.

    Args:
        denoise: What to guide; clip it before, as ADM does: what guidance adds is not clipped.
        log_prob: log p(y | x) of noisy pictures x [B, ...] at times t [B], float [B].
        scale: 1 for the posterior by Bayes' rule, more to insist, 0 for no guidance; one for all
            pictures, or one each, [B].
        interval: Least and largest time at which to guide; default: at all times.

    Source: Dhariwal & Nichol 2021 (arXiv:2105.05233), algorithms 1 and 2.
    """

    def guided(x: jax.Array, point: Point) -> Prediction:
        def gradient(x: jax.Array) -> jax.Array:
            t = jnp.broadcast_to(point.t, x.shape[:1])
            return jax.grad(lambda x: log_prob(x, t).sum())(x)

        inside = _inside(point.t, interval)
        if _for_all(inside, interval):
            found = jax.lax.cond(inside, gradient, jnp.zeros_like, x)
        else:
            found = gradient(x)
        scaled = jnp.where(_over(inside, x), _over(scale, x) * found, 0)
        prediction = denoise(x, point)
        others = prediction.gradient
        return prediction._replace(gradient=scaled if others is None else others + scaled)

    return guided


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
        inside = _inside(point.t, interval)

        def conditional(x: jax.Array) -> Prediction:
            return denoise(condition)(x, point)

        def mixed(x: jax.Array) -> Prediction:
            # A sample's two halves lie side by side, so that a batch split over devices stays so.
            both = denoise(jax.tree.map(_interleave, condition, null))(
                _twice(x), jax.tree.map(_twice, point)
            )
            wanted, without = _every_other(both, 0), _every_other(both, 1)

            def mix(a: jax.Array, b: jax.Array) -> jax.Array:
                mixed = jnp.where(_over(inside, x), b + _over(scale, x) * (a - b), a)
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
                scaled = jnp.where(_over(inside, x), factor, 1) * output
                if channels is not None:
                    scaled = jnp.concatenate(
                        [scaled[..., :channels], output[..., channels:]], axis=-1
                    )
                x_0, eps = row.predict(scaled, x, point)
            return Prediction(x_0, eps, wanted.log_variance)

        if _for_all(inside, interval):
            return jax.lax.cond(inside, mixed, conditional, x)
        return mixed(x)

    return guided


def _for_all(inside: jax.Array, interval: Interval | None) -> bool:
    """Whether guidance may be left out of a call, for the whole batch at once."""
    return interval is not None and not inside.ndim


def _inside(t: jax.Array, interval: Interval | None) -> jax.Array:
    low, high = (-jnp.inf, jnp.inf) if interval is None else interval
    return jnp.asarray((t >= low) & (t <= high))


def _over(value: jax.Array | float, x: jax.Array) -> jax.Array:
    """One for all pictures as it is; one per picture, [B], made to broadcast against x."""
    value = jnp.asarray(value)
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value


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
