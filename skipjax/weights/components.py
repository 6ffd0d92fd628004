"""The networks that a checkpoint is made of, each with its tensors, before any weight is read.

They are called as diffusers calls their folders: "unet" or "transformer", "vae", "text_encoder",
"text_encoder_2".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from jax.typing import DTypeLike

from skipjax import conditioners
from skipjax.conditioners import ClipText
from skipjax.models import AutoencoderKLConfig, AutoencoderTinyConfig, CLIPTextConfig, param_shapes
from skipjax.pretrained import Pretrained
from skipjax.sharding import Placement
from skipjax.weights import checksums, placing

NETWORK, CODEC, ENCODERS = "unet", "vae", ("text_encoder", "text_encoder_2")
Tensors = Mapping[str, Any]


@dataclass(frozen=True)
class Component:
    """One network, and what opens its tensors.

    Attributes:
        config: The architecture.
        tensors: Gives the tensors by the names that diffusers has for them, each with a `shape`
            and read by `numpy.asarray`.
        place: Folder or file, for errors.
    """

    config: Any
    tensors: Callable[[], Tensors]
    place: Path

    def params(self, dtype: DTypeLike, where: Placement | None) -> Any:
        """Reads the weights, one at a time.

        Raises:
            ValueError: If a file is damaged, or the weights do not fit the config, or are not
                finite.
        """
        try:
            return placing.params(self.tensors(), self.config, dtype, where)
        except ValueError as error:
            raise of(self.place, error) from None


@dataclass(frozen=True)
class Found:
    """What was found of a checkpoint.

    Attributes:
        path: Its folder or file.
        model: What it describes, without params: a Pretrained, or a part alone.
        components: Its networks by name; of a part alone, one.
        files: Of all weights.
    """

    path: Path
    model: Any
    components: dict[str, Component]
    files: tuple[Path, ...]

    def load(self, dtype: DTypeLike, where: Placement | None) -> Any:
        """The model with its params.

        Raises:
            ValueError: As `Component.params` does.
        """
        for path in self.files:
            checksums.check_blob(path)
        params = {name: c.params(dtype, where) for name, c in self.components.items()}
        model = fill(self.model, params)
        return replace(model, source=str(self.path)) if isinstance(model, Pretrained) else model

    def sha256(self) -> str:
        """The checksum of the weights: of the file, or of what `sha256sum` would print of all."""
        if len(self.files) == 1:
            return checksums.sha256(self.files[0])
        return checksums.of_listing((p.name, checksums.sha256(p)) for p in self.files)


def role(config: Any) -> str:
    """What a network is called that lies alone."""
    if isinstance(config, CLIPTextConfig):
        return ENCODERS[0]
    autoencoder = isinstance(config, (AutoencoderKLConfig, AutoencoderTinyConfig))
    return CODEC if autoencoder else NETWORK


def fill(model: Any, params: Mapping[str, Any]) -> Any:
    """A model with params of its networks, by component."""
    if not isinstance(model, Pretrained):
        (alone,) = params.values()
        return replace(model, params=alone)
    others = dict(params)
    encoders = tuple(others.pop(name) for name in ENCODERS if name in others)
    codec: Any = model.codec
    if CODEC in others:
        codec = replace(codec, params=others.pop(CODEC))
    (network,) = others.values()
    told = [
        replace(part, params=encoders) if isinstance(part, ClipText) else part
        for part in conditioners.parts(model.conditioner)
    ]
    return model.replace(params=network, codec=codec, conditioner=conditioners.join(told))


def networks(model: Any) -> dict[str, tuple[Any, Any]]:
    """The networks of a model by component: each its config and its params, if they are read."""
    if not isinstance(model, Pretrained):
        config = model.network
        return {role(config): (config, model.params)}
    found = {NETWORK: (model.network, model.params)}
    codec: Any = model.codec
    if hasattr(codec, "network"):
        found[CODEC] = codec.network, codec.params
    text = conditioners.part(model.conditioner, ClipText)
    if text is not None:
        params = text.params or (None,) * len(text.networks)
        names = encoders_of(text)
        found |= dict(zip(names, zip(text.networks, params, strict=True), strict=True))
    return found


def parameters(model: Any) -> dict[str, int]:
    """How many parameters each network of a model has."""
    return {
        name: sum(leaf.size for leaf in jax.tree.leaves(param_shapes(config)))
        for name, (config, _) in networks(model).items()
    }


def encoders_of(text: ClipText) -> tuple[str, ...]:
    """What the encoders of a conditioner are called: one that is projected alone is a second."""
    if len(text.networks) == 1 and "pooled" in text.gives:
        return ENCODERS[1:]
    return ENCODERS[: len(text.networks)]


def of(path: Path, error: ValueError) -> ValueError:
    """The error with the folder or file before it."""
    return ValueError(f"{path}: {str(error).removeprefix(f'{path}: ').removeprefix(f'{path}/')}")
