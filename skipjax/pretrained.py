"""A network with its weights, and what sampling has to know about it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import jax
import jax.numpy as jnp

from skipjax import schedules
from skipjax.models import ClassifierConfig, UNetConfig

SCHEDULES = {
    "linear": schedules.linear,
    "scaled_linear": schedules.scaled_linear,
    "cosine": schedules.cosine,
    "sigmoid": schedules.sigmoid,
    "rectified_flow": schedules.rectified_flow,
}
PREDICTIONS = ("eps", "x_0", "v", "score", "velocity")


@dataclass(frozen=True)
class Spec:
    """What fixes the meaning of a network's output; hashable, static under jit.

    Args:
        name: What the checkpoint is called.
        unet: The architecture.
        schedule: The forward process it was trained on: "linear", "scaled_linear", "cosine",
            "sigmoid" or "rectified_flow"; or T betas of your own.
        T: Number of training times.
        prediction: What its first `in_channels` output channels are: "eps", "x_0", "v", "score"
            or "velocity", see `denoisers`.
        class_names: Names of the labels 0, 1, ...; empty where they have none.
        variance: Of the noise that its own sampler adds, ADM's FIXED_SMALL, FIXED_LARGE,
            LEARNED_RANGE or LEARNED: "small", "large", "learned_range" or "learned".
        rescale_timesteps: Whether the network is told t 1000 / T instead of t.
        null_label: The label that stands for no class, for classifier-free guidance; or None.
        low_res: Side in pixels of the pictures that it enlarges; None if any, or if it does not.

    Raises:
        ValueError: For a value that is not known, a number of betas that is not T or of names
            that does not fit the labels, v of a schedule that does not preserve variance, or a
            learned variance that the network has no channels for.
    """

    name: str
    unet: UNetConfig
    schedule: str | tuple[float, ...] = "linear"
    T: int = 1000
    prediction: Literal["eps", "x_0", "v", "score", "velocity"] = "eps"
    class_names: tuple[str, ...] = ()
    variance: schedules.Variance = "small"
    rescale_timesteps: bool = False
    null_label: int | None = None
    low_res: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "schedule", _known(self.schedule, self.T))
        _one_of("prediction", self.prediction, PREDICTIONS)
        if self.prediction == "v" and not _schedule(self.schedule, self.T).preserves_variance:
            raise ValueError(
                f"prediction is 'v', which the schedule {self.schedule!r} does not have: it must "
                "preserve variance. Of rectified flow 'velocity' is predicted"
            )
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
        schedule: The forward process whose pictures it was trained on, as in `Spec`.
        T: Number of training times.
        class_names: Names of its outputs 0, 1, ...; empty where they have none.

    Raises:
        ValueError: For a schedule that is not known, or a wrong number of betas or names.
    """

    name: str
    classifier: ClassifierConfig
    schedule: str | tuple[float, ...] = "linear"
    T: int = 1000
    class_names: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "schedule", _known(self.schedule, self.T))
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

    @property
    def fingerprint(self) -> str:
        """What tells these weights from others, whatever precision they are kept in: a hash of
        some of each array, as bfloat16.
        """
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self.params):
            # Taken out on the host: on a device, every shape would be a program to compile.
            some = jax.device_get(leaf)[(0,) * (leaf.ndim - 1)][:64]
            digest.update(repr(leaf.shape).encode() + some.astype(jnp.bfloat16).tobytes())
        return digest.hexdigest()[:16]


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


def _known(schedule: str | Sequence[float], T: int) -> str | tuple[float, ...]:
    """The schedule, if it is one; betas as a tuple of floats, whatever sequence they came as."""
    if isinstance(schedule, str):
        _one_of("schedule", schedule, tuple(SCHEDULES))
        return schedule
    try:
        betas = tuple(float(beta) for beta in schedule)
    except (TypeError, ValueError):
        raise ValueError(
            f"schedule is {schedule!r}: it must be one of {', '.join(SCHEDULES)}, or a vector of "
            "betas"
        ) from None
    if len(betas) != T:
        raise ValueError(f"schedule has {len(betas)} betas, and T is {T}: they must be as many")
    schedules.from_betas(betas)
    return betas


def _named(names: tuple[str, ...], classes: int) -> None:
    if names and len(names) != classes:
        raise ValueError(f"{len(names)} class names for num_classes = {classes}")


@lru_cache
def _schedule(schedule: str | tuple[float, ...], T: int) -> schedules.Schedule:
    if isinstance(schedule, str):
        return SCHEDULES[schedule](T)
    return schedules.from_betas(schedule)
