"""What is to guide, and whether it fits the model."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from skipjax.config.arguments import is_numeric
from skipjax.config.sample_config import SampleConfig
from skipjax.guidance import (
    Autoguidance,
    ByClassifier,
    ClassifierFree,
    Guidance,
    Interval,
    check_guide,
)
from skipjax.plans import Plan
from skipjax.pretrained import Classifier, Pretrained
from skipjax.process import called, same_schedule
from skipjax.sharding import Placement
from skipjax.weights import loading


def choose(
    model: Pretrained, plan: Plan, config: SampleConfig, sharding: Placement | None = None
) -> tuple[Guidance, ...]:
    """The ways to guide that are asked for: a scale, for a classifier, a guide or none of them;
    and values of `skipjax.guidance`, in Python.

    Raises:
        ValueError: For what is out of range, or given beside what replaces it.
        TypeError: If a classifier or guide is of another kind.
    """
    scale, values = _sorted(config.guidance)
    interval, by, guide = config.guidance_interval, config.classifier, config.guide
    if told_scale(model) and by is None and guide is None and not values:
        scale_to_tell(model, config)
        return ()
    if scale is None and by is None and guide is None and not values:
        scale = _own(model)
    if scale is None and by is None:
        if guide is not None:
            raise ValueError("guide is given without guidance: say its scale too")
        given = ["guidance_rescale"] if values else ["guidance_interval", "guidance_rescale"]
        for name in given:
            if getattr(config, name) is not None:
                raise ValueError(f"{name} is given without guidance: say its scale too")
    if by is not None and guide is not None:
        raise ValueError(
            "classifier and guide are given, and one scale: drop one of them; or give guidance a "
            "list of skipjax.guidance.Autoguidance(model, scale) and the classifier's scale"
        )
    if interval is not None and (not is_numeric(interval, (2,)) or not interval[0] <= interval[1]):
        raise ValueError(f"guidance_interval is {interval!r}: it must be two times, least first")
    within = None if interval is None else tuple(map(jnp.float32, interval))
    ways = [_checked(model, value, within) for value in values]
    if scale is None and by is None:
        return tuple(ways)
    scale = _finite(1.0 if scale is None else scale)
    if by is not None:
        return (_by_classifier(model, plan, config, scale, within, sharding), *ways)
    if guide is not None:
        return (_by_guide(model, config, scale, within, sharding), *ways)
    free = _free(model, config, scale, within)
    return tuple(ways) if _is_none(model, scale) else (free, *ways)


def told_scale(model: Pretrained) -> bool:
    """Whether the network is told the scale of guidance, as those of latent consistency are, and
    is called once where others are twice.
    """
    return model.conditioner is not None and "guidance" in model.conditioner.gives


def scale_to_tell(model: Pretrained, config: SampleConfig) -> float | None:
    """The scale that such a network is to be told; None for its default, and for other networks.

    Raises:
        ValueError: If it is no number, or an option is given that has no place in one call.
    """
    scale = _sorted(config.guidance)[0]
    if not told_scale(model) or config.classifier is not None or config.guide is not None:
        return None
    for name in ("guidance_interval", "guidance_rescale"):
        if getattr(config, name) is not None:
            raise ValueError(
                f"{name} is given, and {model.name} is told the scale of guidance in one call: "
                "drop it"
            )
    return None if scale is None else _finite(scale)


def _own(model: Pretrained) -> float | None:
    """The scale that a checkpoint is sampled with by itself, where that guides."""
    scale = model.guidance
    return None if scale is None or scale <= 1 else scale


def _is_none(model: Pretrained, scale: float) -> bool:
    """Whether a scale says not to guide, so that the network need not be called twice: 1 of a
    network of text, anything up to 1 where it was distilled to need no guidance.
    """
    of_text = model.conditioner is not None and "prompt" in model.conditioner.takes
    distilled = model.guidance is not None and model.guidance <= 1
    return (of_text and scale == 1) or (distilled and scale <= 1)


def _finite(scale: Any) -> float:
    if not is_numeric(scale, ()) or not np.isfinite(scale):
        raise ValueError(f"guidance is {scale!r}: it must be one finite number")
    return scale


def _sorted(guidance: Any) -> tuple[Any, list[Guidance]]:
    """The scale, if one is given, and the values beside it."""
    kinds = (Autoguidance, ByClassifier, ClassifierFree)
    given = list(guidance) if isinstance(guidance, (list, tuple)) else [guidance]
    values = [value for value in given if isinstance(value, kinds)]
    scales = [value for value in given if not isinstance(value, kinds)]
    if not values:
        return guidance, []
    if len(scales) > 1:
        raise ValueError(f"guidance holds {len(scales)} scales: it must hold one, or none")
    return (scales or [None])[0], values


def _checked(model: Pretrained, way: Guidance, within: Interval | None) -> Guidance:
    if isinstance(way, Autoguidance):
        check_guide(model, way.model)
        way.told_of(() if model.conditioner is None else model.conditioner.gives)
    return replace(way, interval=within) if way.interval is None else way


def _free(
    model: Pretrained, config: SampleConfig, scale: float, within: Interval | None
) -> ClassifierFree:
    rescale = config.guidance_rescale
    if rescale is not None and (not is_numeric(rescale, ()) or not 0 <= rescale <= 1):
        raise ValueError(f"guidance_rescale is {rescale!r}: it must be in 0 .. 1")
    labels, conditioner = model.labels, model.conditioner
    only_labels = conditioner is None or conditioner.gives == ("label",)
    if only_labels and (labels is None or labels.null_label is None):
        raise ValueError(
            f"guidance is {scale}, and {model.name} has no null label by which it could be "
            "guided: give a classifier too"
        )
    # The network stands twice in a program that may leave guidance out, once where it may not.
    rescale = None if rescale is None else jnp.float32(rescale)
    return ClassifierFree(jnp.float32(scale), within, rescale)


def _by_guide(
    model: Pretrained,
    config: SampleConfig,
    scale: float,
    within: Interval | None,
    sharding: Placement | None,
) -> Guidance:
    if config.guidance_rescale is not None:
        raise ValueError("guidance_rescale is given, and a second network guides: drop one")
    guide: Any = config.guide
    if isinstance(guide, str):
        guide = loading.load(guide, sharding=sharding)
    if isinstance(guide, Classifier):
        raise TypeError(f"guide is {guide.name}, a classifier: give it as classifier")
    return _checked(model, Autoguidance(guide, jnp.float32(scale)), within)


def _by_classifier(
    model: Pretrained,
    plan: Plan,
    config: SampleConfig,
    scale: float,
    within: Interval | None,
    sharding: Placement | None,
) -> ByClassifier:
    by: Any = config.classifier
    if config.guidance_rescale is not None:
        raise ValueError("guidance_rescale is given, and a classifier guides: drop one")
    if isinstance(by, str):
        by = loading.load(by, sharding=sharding)
        if isinstance(by, Pretrained):
            raise ValueError(f"{by.name} is no classifier: it draws samples")
    classifier = _fitting(model, by)
    if np.any(np.asarray(plan.alpha) == 0):
        raise ValueError(
            "a classifier is given, and the plan calls the network where x is noise alone "
            "(zero SNR), of which it can say nothing: start at time "
            f"{model.schedule.T - 2} or below"
        )
    always = (jnp.float32(-np.inf), jnp.float32(np.inf))
    return ByClassifier(classifier, jnp.float32(scale), within or always, bool(config.remat))


def _fitting(model: Pretrained, by: Any) -> Classifier:
    if not isinstance(by, Classifier):
        what = f"a {type(by).__name__}"
        if isinstance(by, Pretrained):
            what = f"{by.name}, a network that denoises"
        raise TypeError(f"classifier is {what}: pass what skipjax.load gives for a classifier")
    classes = by.labels.classes if model.labels is None else model.labels.classes
    schedules = called(model.schedule), called(by.process.schedule)
    if schedules[0] == schedules[1] and not same_schedule(model.schedule, by.process.schedule):
        raise ValueError(
            f"classifier {by.name} does not fit {model.name}: their schedules differ within "
            f"{schedules[0]}"
        )
    for what, wanted, got in (
        ("samples of shape", model.shape, by.network.shape),
        ("the schedule", *schedules),
        ("times told as", model.process.precondition, by.process.precondition),
        ("classes", classes, by.labels.classes),
    ):
        if wanted != got:
            raise ValueError(
                f"classifier {by.name} does not fit {model.name}: {what} {got}, and {wanted} "
                "is needed"
            )
    return by
