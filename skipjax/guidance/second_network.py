"""Guidance by a second network, which does the same worse."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from skipjax.denoisers import Denoise, Point, Prediction
from skipjax.guidance.interval import Interval, for_all, inside_of, over
from skipjax.pretrained import Pretrained
from skipjax.process import Times, called, same_schedule


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Autoguidance:
    """Guidance by a second network that does the same worse: `autoguided`.

    Attributes:
        model: What guides, of samples of the same shape: a smaller network, one that was trained
            less, or one that is told less.
        scale: 1 for the first network's own prediction, more to move away from the guide's; one
            for all, or [B].
        interval: Least and largest time at which to guide; default: at all times.
        told: Keys of the condition that the guide is told; default: those that its conditioner
            gives. Static.
    """

    model: Pretrained
    scale: Any
    interval: Interval | None = None
    told: tuple[str, ...] | None = field(default=None, metadata={"static": True})

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the condition that the guide is told."""
        if self.told is not None:
            return self.told
        return () if self.model.conditioner is None else self.model.conditioner.gives

    @property
    def core(self) -> "Autoguidance":
        """What a sampling program takes: the guide without what encodes, decodes and names."""
        return replace(self, model=self.model.core, told=self.keys)

    def told_of(self, given: Iterable[str]) -> tuple[str, ...]:
        """`keys`, if all of them are among those of a condition.

        Raises:
            ValueError: If one is missing.
        """
        missing = [key for key in self.keys if key not in set(given)]
        if missing:
            raise ValueError(
                f"the guide {self.model.name} is told {', '.join(missing)}, and the network that "
                "it is to guide is not: take a guide that is told no more than that"
            )
        return self.keys


def autoguided(
    denoise: Denoise,
    guide: Denoise,
    scale: jax.Array | float,
    interval: Interval | None = None,
) -> Denoise:
    """Guidance by another network's prediction: x_0 = x_0(guide) + scale (x_0 - x_0(guide)), and
    eps alike; a learned variance is that of the first.

    Args:
        denoise: What to guide, by itself or guided already.
        guide: The worse one.
        scale: 1 for no guidance; one for all samples, or one each, [B].
        interval: Least and largest time at which to guide, the guide is not called at others;
            default: at all times.

    Source: Karras et al. 2024 (arXiv:2406.02507), equation 3.
    """

    def guided(x: jax.Array, point: Point) -> Prediction:
        inside, prediction = inside_of(point.t, interval), denoise(x, point)

        def mixed(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            other = guide(x, point)

            def mix(a: jax.Array, b: jax.Array) -> jax.Array:
                return jnp.where(over(inside, x), b + over(scale, x) * (a - b), a)

            return mix(prediction.x_0, other.x_0), mix(prediction.eps, other.eps)

        if for_all(inside, interval):
            own = prediction.x_0, prediction.eps
            x_0, eps = jax.lax.cond(inside, mixed, lambda x: own, x)
        else:
            x_0, eps = mixed(x)
        return prediction._replace(x_0=x_0, eps=eps)

    return guided


def check_guide(model: Pretrained, guide: Pretrained) -> None:
    """Refuses a guide that does not fit the network that it is to guide.

    Raises:
        TypeError: If it is no network that denoises.
        ValueError: If it is of samples of another shape, or is told times of another schedule.
    """
    if not isinstance(guide, Pretrained):
        raise TypeError(
            f"the guide is a {type(guide).__name__}: pass what skipjax.load gives for a network "
            "that denoises"
        )
    if guide.shape != model.shape:
        raise ValueError(
            f"the guide {guide.name} does not fit {model.name}: it is of samples of shape "
            f"{guide.shape}, and {model.shape} is needed"
        )
    # Others are told the level, which they know on any schedule.
    told_times = isinstance(guide.process.precondition, Times)
    if told_times and not same_schedule(model.schedule, guide.schedule):
        raise ValueError(
            f"the guide {guide.name} does not fit {model.name}: it was trained on another "
            f"schedule, {called(guide.schedule)}, and {called(model.schedule)} is needed"
        )
