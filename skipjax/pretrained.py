"""A network with its weights, and what sampling has to know about it."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import jax

from skipjax import schedules
from skipjax.models import ClassifierConfig, UNetConfig

SCHEDULES = {
    "linear": schedules.linear,
    "scaled_linear": schedules.scaled_linear,
    "cosine": schedules.cosine,
}
PREDICTIONS = ("eps", "x_0", "v")


@dataclass(frozen=True)
class Spec:
    """What fixes the meaning of a network's output; hashable, static under jit.

    Args:
        name: What the checkpoint is called.
        unet: The architecture.
        schedule: The forward process it was trained on: "linear", "scaled_linear" or "cosine".
        T: Number of training times.
        prediction: What its first `in_channels` output channels are: "eps", "x_0" or "v".
        class_names: Names of the labels 0, 1, ...; empty where they have none.
        variance: Of the noise that its own sampler adds, ADM's FIXED_SMALL, FIXED_LARGE,
            LEARNED_RANGE or LEARNED: "small", "large", "learned_range" or "learned".
        rescale_timesteps: Whether the network is told t 1000 / T instead of t.
        null_label: The label that stands for no class, for classifier-free guidance; or None.
        low_res: Side in pixels of the pictures that it enlarges; None if any, or if it does not.

    Raises:
        ValueError: For a value that is not known, a number of names that does not fit the labels,
            or a learned variance that the network has no channels for.
    """

    name: str
    unet: UNetConfig
    schedule: str = "linear"
    T: int = 1000
    prediction: Literal["eps", "x_0", "v"] = "eps"
    class_names: tuple[str, ...] = ()
    variance: schedules.Variance = "small"
    rescale_timesteps: bool = False
    null_label: int | None = None
    low_res: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "class_names", tuple(self.class_names))
        _one_of("schedule", self.schedule, tuple(SCHEDULES))
        _one_of("prediction", self.prediction, PREDICTIONS)
        _one_of("variance", self.variance, schedules.VARIANCES)
        classes = self.unet.num_classes
        _named(self.class_names, self.classes)
        if self.null_label is not None and not 0 <= self.null_label < (classes or 0):
            raise ValueError(
                f"null_label is {self.null_label}: it must be one of the {classes or 0} labels"
            )
        if self.learns_variance and self.unet.out_channels != 2 * self.unet.in_channels:
            raise ValueError(
                f"variance is {self.variance!r}, and the network has {self.unet.out_channels} "
                f"output channels: it needs {2 * self.unet.in_channels} to learn a variance"
            )

    @property
    def classes(self) -> int:
        """Number of labels that stand for a class; 0 for an unconditional network."""
        return (self.unet.num_classes or 0) - (self.null_label is not None)

    @property
    def learns_variance(self) -> bool:
        """Whether its own sampler asks the network for the variance."""
        return self.variance.startswith("learned")


@dataclass(frozen=True)
class ClassifierSpec:
    """What guidance has to know of a classifier of noisy pictures; hashable, static under jit.

    Args:
        name: What the checkpoint is called.
        classifier: The architecture.
        schedule: The forward process whose pictures it was trained on.
        T: Number of training times.
        class_names: Names of its outputs 0, 1, ...; empty where they have none.

    Raises:
        ValueError: For a schedule that is not known, or a wrong number of names.
    """

    name: str
    classifier: ClassifierConfig
    schedule: str = "linear"
    T: int = 1000
    class_names: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "class_names", tuple(self.class_names))
        _one_of("schedule", self.schedule, tuple(SCHEDULES))
        _named(self.class_names, self.classes)

    @property
    def classes(self) -> int:
        """Number of classes that it tells apart."""
        return self.classifier.out_channels


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pretrained:
    """Params that know what they are: what `load` returns and `sample` takes.

    A pytree whose leaves are the weights, so it goes through `jax.jit`, `jax.device_put` and
    `jax.tree.map` as plain params do; `spec` is static.

    Attributes:
        params: Weights of `skipjax.models.UNet(spec.unet)`, nested dict of float arrays.
        spec: What the network is.
    """

    params: dict
    spec: Spec = field(metadata={"static": True})

    @property
    def schedule(self) -> schedules.Schedule:
        """The forward process that the network was trained on."""
        return _schedule(self.spec.schedule, self.spec.T)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a picture."""
        unet = self.spec.unet
        return unet.image_size, unet.image_size, unet.in_channels


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Classifier:
    """A classifier of noisy pictures, to guide sampling with: what `load` returns for one.

    Attributes:
        params: Weights of `skipjax.models.Classifier(spec.classifier)`.
        spec: What the network is.
    """

    params: dict
    spec: ClassifierSpec = field(metadata={"static": True})


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{what} is {value!r}: it must be one of {', '.join(known)}")


def _named(names: tuple[str, ...], classes: int) -> None:
    if names and len(names) != classes:
        raise ValueError(f"{len(names)} class names for num_classes = {classes}")


@lru_cache
def _schedule(name: str, T: int) -> schedules.Schedule:
    return SCHEDULES[name](T)
