"""A request, resolved against a model: everything that fixes a sample but its key and id."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.checks import as_dtype
from skipjax.conditioners import Condition, Labels
from skipjax.config import guides, plans, words
from skipjax.config.arguments import as_model, is_numeric
from skipjax.config.equip import equip
from skipjax.config.sample_config import SampleConfig
from skipjax.denoisers import Threshold, Transform, keep_within
from skipjax.generation import null_of
from skipjax.guidance import CLASS, ByClassifier, ClassifierFree, Guidance
from skipjax.plans import Plan
from skipjax.pretrained import Classifier, Pretrained
from skipjax.sharding import Placement


class Sampler(NamedTuple):
    """A model and how to draw from it.

    Attributes:
        model: What is drawn from.
        plan: The sampler.
        guidance: How to guide, if at all.
        transform: What changes predictions.
        shape: Of one sample of what is diffused.
        dtype: What the networks compute in.
    """

    model: Pretrained
    plan: Plan
    guidance: tuple[Guidance, ...]
    transform: Transform
    shape: tuple[int, ...]
    dtype: jnp.dtype[Any]

    @property
    def labels(self) -> Labels | None:
        """The classes that may be asked for: the network's, or those of what guides one that knows
        none.
        """
        if self.model.labels is not None or self._classifier is None:
            return self.model.labels
        return self._classifier.labels

    @property
    def _classifier(self) -> Classifier | None:
        return next((g.classifier for g in self.guidance if isinstance(g, ByClassifier)), None)

    def number_of(self, given: Mapping[str, Any]) -> int | None:
        """How many samples words are for; None where each of them is for any number."""
        return words.number_of(self.model.conditioner, given)

    def check(self, given: Mapping[str, Any]) -> None:
        """Refuses words that the model does not understand.

        Raises:
            ValueError: For a label, prompt, negative or low_res where there is no place for one.
            TypeError: For any other, with the nearest that there is.
        """
        words.check(self.model, self.takes, given, guides.told_scale(self.model))

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the words that the model understands."""
        conditioner = self.model.conditioner
        takes = () if conditioner is None else conditioner.takes
        if "label" not in takes and self.labels is not None:
            takes += ("label",)
        free = any(isinstance(way, ClassifierFree) for way in self.guidance)
        return (*takes, words.NEGATIVE) if free else takes

    def condition(
        self, given: Mapping[str, Any], key: jax.Array, ids: np.ndarray
    ) -> tuple[Condition | None, Condition | None]:
        """What the network is told of the samples `ids`, and what stands for nothing where
        guidance needs it; leaves [len(ids), ...].

        Args:
            given: Words, by name: "label", "low_res", "prompt", "negative", ...
            key: Key of the run.
            ids: Ids of the samples.

        Raises:
            ValueError: For words that are unknown, missing or out of range.
        """
        self.check(given)
        conditioner, by = self.model.conditioner, self._classifier
        found: Condition = {} if conditioner is None else conditioner.encode(given, key, ids)
        if by is not None:
            if self.model.labels is None:
                found[CLASS] = by.labels.encode(given, key, ids)["label"]
            elif self.model.labels.null_label is not None:
                found[CLASS] = self.model.labels.to_class(np.asarray(found["label"]))
        condition = found or None
        if not any(isinstance(way, ClassifierFree) for way in self.guidance):
            return condition, None
        return condition, null_of(self.model, condition, given.get(words.NEGATIVE))


def resolve(model: Any, config: SampleConfig, sharding: Placement | None = None) -> Sampler:
    """The one place where what is asked for meets the model: every check, every default.

    Args:
        model: What `load` returned.
        config: What is asked for.
        sharding: Where to put the weights of a classifier that is named, as `skipjax.load` has it.

    Raises:
        ValueError: For an argument out of range, with what is accepted.
        TypeError: If `model`, `plan` or `classifier` is of another kind.
    """
    model = as_model(model)
    dtype = as_dtype(config.dtype)
    plan = plans.choose(model, config)
    transform, shape = _transform(model, config), diffused_shape(model, config.size)
    guidance = guides.choose(model, plan, config, sharding)
    model = equip(model, config, guides.scale_to_tell(model, config))
    return Sampler(model, plan, guidance, transform, shape, dtype)


def _transform(model: Pretrained, config: SampleConfig) -> Transform:
    bounds = model.process.bounds
    if config.threshold is not None:
        if not is_numeric(config.threshold, ()) or not 0 < config.threshold <= 1:
            raise ValueError(
                f"threshold is {config.threshold!r}: it must be a quantile, in (0, 1]"
            )
        if bounds != (-1.0, 1.0):
            raise ValueError(
                f"threshold is given, and {model.name} is not of pixels in -1 .. 1: drop it"
            )
        return Threshold(jnp.float32(config.threshold))
    own = plans.own_scheduler(model, config)
    if own is not None and config.clip is None:
        if own.threshold is not None:
            return Threshold(*map(jnp.float32, own.threshold))
        return keep_within(None if own.clip is None else (-own.clip, own.clip))
    if config.clip and bounds is None:
        raise ValueError(f"clip is given, and what {model.name} diffuses has no bounds: drop it")
    return keep_within(None if config.clip is False else bounds)


def diffused_shape(model: Pretrained, size: Any) -> tuple[int, ...]:
    """Shape of one sample of what is diffused, for samples of a size; default: the network's own.

    Raises:
        ValueError: If size is not (height, width), or not one that the codec can do.
    """
    if size is None:
        return model.shape
    whole = is_numeric(size, (2,)) and all(int(side) == side and side > 0 for side in size)
    if not whole:
        raise ValueError(f"size is {size!r}: it must be (height, width), in pixels")
    height, width = map(int, size)
    network = model.network
    halved = getattr(network, "multiple", getattr(network, "factor", 1))
    multiple = halved * getattr(model.codec, "factor", 1)
    if halved > 1 and (height % multiple or width % multiple):
        raise ValueError(
            f"size is {(height, width)}: height and width must be multiples of {multiple} for "
            f"{model.name}"
        )
    return model.codec.shape(model.shape, (height, width))
