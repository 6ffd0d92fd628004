"""A network with its weights, and what sampling has to know about it."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import jax

from skipjax import schedules
from skipjax.models import UNetConfig

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

    Raises:
        ValueError: For a schedule or prediction that is not known, or a wrong number of names.
    """

    name: str
    unet: UNetConfig
    schedule: str = "linear"
    T: int = 1000
    prediction: Literal["eps", "x_0", "v"] = "eps"
    class_names: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "class_names", tuple(self.class_names))
        for what, value, known in (
            ("schedule", self.schedule, tuple(SCHEDULES)),
            ("prediction", self.prediction, PREDICTIONS),
        ):
            if value not in known:
                raise ValueError(f"{what} is {value!r}: it must be one of {', '.join(known)}")
        if self.class_names and len(self.class_names) != self.unet.num_classes:
            raise ValueError(
                f"{len(self.class_names)} class names for num_classes = {self.unet.num_classes}"
            )


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


@lru_cache
def _schedule(name: str, T: int) -> schedules.Schedule:
    return SCHEDULES[name](T)
