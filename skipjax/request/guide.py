"""How sampling is to be guided."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from skipjax.generation import Guide
from skipjax.plans import Plan
from skipjax.pretrained import Classifier, ClassifierSpec, Pretrained, Spec
from skipjax.request.arguments import numbers


def guide(
    spec: Spec,
    plan: Plan,
    scale: float | None,
    classifier: Any,
    interval: tuple[float, float] | None,
) -> Guide | None:
    """How to guide, if at all."""
    if scale is None and classifier is None:
        if interval is not None:
            raise ValueError("guidance_interval is given without guidance: say its scale too")
        return None
    if classifier is not None:
        _fits(spec, classifier)
        if np.any(np.asarray(plan.alpha) == 0):
            raise ValueError(
                "a classifier is given, and the plan calls the network where x is noise alone "
                f"(zero SNR), of which it can say nothing: start at time {spec.T - 2} or below"
            )
    elif spec.null_label is None:
        raise ValueError(
            f"guidance is {scale}, and {spec.name} has no null label by which it could be guided: "
            "give a classifier too"
        )
    scale = 1.0 if scale is None else scale
    if not numbers(scale, ()) or not np.isfinite(scale):
        raise ValueError(f"guidance is {scale!r}: it must be one finite number")
    if interval is None and classifier is None:
        # The network stands twice in a program that may leave guidance out, once where it may not.
        return Guide(jnp.float32(scale))
    interval = (-np.inf, np.inf) if interval is None else interval
    if not numbers(interval, (2,)) or not interval[0] <= interval[1]:
        raise ValueError(f"guidance_interval is {interval!r}: it must be two times, least first")
    low, high = map(jnp.float32, interval)
    return Guide(jnp.float32(scale), (low, high), classifier)


def labelled(spec: Spec, guide: Guide | None) -> Spec | ClassifierSpec:
    """Who says what labels there are: the network, or what guides one that takes none."""
    if spec.classes or guide is None or guide.classifier is None:
        return spec
    return guide.classifier.spec


def towards(spec: Spec, guide: Guide | None, labels: np.ndarray | None) -> np.ndarray | None:
    """The labels, if each stands for a class where a classifier guides towards it."""
    by_classifier = guide is not None and guide.classifier is not None
    if by_classifier and spec.null_label is not None and np.any(labels == spec.null_label):
        raise ValueError(
            f"label {spec.null_label} stands for no class: a classifier has nothing to guide "
            "towards there"
        )
    return labels


def called(spec: Spec | ClassifierSpec) -> str:
    """What to call the schedule: betas would be a thousand numbers, of which these are enough."""
    if isinstance(spec.schedule, str):
        return spec.schedule
    return f"of betas {spec.schedule[0]} ... {spec.schedule[-1]}"


def _fits(spec: Spec, classifier: Any) -> None:
    if not isinstance(classifier, Classifier):
        what = f"a {type(classifier).__name__}"
        if isinstance(classifier, Pretrained):
            what = f"{classifier.spec.name}, a network that denoises"
        raise TypeError(f"classifier is {what}: pass what skipjax.load gives for a classifier")
    theirs = classifier.spec
    for what, wanted, got in (
        ("pictures of side", spec.unet.image_size, theirs.classifier.image_size),
        ("channels", spec.unet.in_channels, theirs.classifier.in_channels),
        ("the schedule", called(spec), called(theirs)),
        ("T", spec.T, theirs.T),
        ("classes", spec.classes or theirs.classes, theirs.classes),
    ):
        if wanted != got:
            raise ValueError(
                f"classifier {theirs.name} does not fit {spec.name}: {what} {got}, and {wanted} "
                "is needed"
            )
