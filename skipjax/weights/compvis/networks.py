"""The networks of a single file: their configs from shapes, their tensors by diffusers' names."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from skipjax.weights import registry
from skipjax.weights.compvis import names, shapes
from skipjax.weights.lazy import Lazy

Tensors = Mapping[str, Any]
_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.")
_TEXT = "text_model."


@dataclass(frozen=True)
class Part:
    """One network of a file.

    Attributes:
        cls: Of diffusers or transformers.
        tensors: By the file's names, without the prefix of all.
        fields: Makes its config of the shapes, asked for by diffusers' names.
        find: The tensor of a name of diffusers', and the name in the file; None if there is none.
        averaged: Whether they are a moving average.
    """

    cls: str
    tensors: Tensors
    fields: Callable[[shapes.Shape], dict[str, Any]]
    find: Callable[[str], tuple[str, Any] | None]
    averaged: bool = False

    def described(self) -> tuple[str, dict[str, Any]]:
        """Its class, and the fields of its config."""

        def shape(name: str) -> tuple[int, ...] | None:
            found = self.find(name)
            return None if found is None else tuple(np.shape(found[1]))

        return self.cls, {"_class_name": self.cls} | self.fields(shape)

    def named(self, config: Any) -> dict[str, Any]:
        """The tensors by diffusers' names; what such a network does not have keeps its own."""
        wanted = registry.tensor_names(config)
        found = {name: one for name in wanted if (one := self.find(name)) is not None}
        used = {one[0] for one in found.values()}
        left = {name: tensor for name, tensor in self.tensors.items() if name not in used}
        return {name: one[1] for name, one in found.items()} | left


def unet(section: Tensors, averages: Tensors) -> Part:
    """A U-Net by CompVis's names, or diffusers'.

    Args:
        section: Its tensors.
        averages: A moving average of them, which is preferred; empty where there is none.
    """
    cls = "UNet2DConditionModel"
    if "input_blocks.0.0.weight" not in section:
        return Part(cls, section, shapes.unet, partial(_plain, section))
    downs = (re.match(r"input_blocks\.(\d+)\.0\.op\.weight", name) for name in section)
    blocks = (re.match(r"input_blocks\.(\d+)\.0\.in_layers\.0\.weight", name) for name in section)
    first = [int(found[1]) for found in downs if found]
    layers = min(first) - 1 if first else sum(1 for found in blocks if found)
    attended = (re.match(r"output_blocks\.(\d+)\.1\.transformer_blocks", name) for name in section)
    attends = {int(found[1]) // (layers + 1) for found in attended if found}
    averages = {k: v for k, v in averages.items() if k.startswith("diffusion_model")}

    def find(name: str) -> tuple[str, Any] | None:
        theirs = names.unet(name, layers, attends)
        if averages:
            return _plain(averages, names.flat(f"diffusion_model.{theirs}"))
        return _plain(section, theirs)

    return Part(cls, averages or section, shapes.unet, find, averaged=bool(averages))


def autoencoder(section: Tensors) -> Part:
    """An AutoencoderKL by CompVis's names, or diffusers'."""
    blocks = {name.split(".")[2] for name in section if name.startswith("encoder.down.")}

    def find(name: str) -> tuple[str, Any] | None:
        return _plain(section, names.autoencoder(name, len(blocks)) if blocks else name)

    return Part("AutoencoderKL", section, shapes.autoencoder, find)


def tiny_autoencoder(section: Tensors) -> Part:
    """TAESD by diffusers' names."""
    return Part("AutoencoderTiny", section, lambda shape: {}, partial(_plain, section))


def text_encoder(section: Tensors, openclip: bool, last: bool) -> Part:
    """A text encoder by transformers' names, or OpenCLIP's.

    Args:
        section: Its tensors.
        openclip: Whether it is OpenCLIP's.
        last: Whether the last of its layers, and the projection, are used.
    """
    if not openclip:
        section = {name.removeprefix(_TEXT): tensor for name, tensor in section.items()}
        projected = "text_projection.weight" in section
        cls = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
        fields = partial(shapes.text_encoder, activation="quick_gelu")
        return Part(cls, section, fields, partial(_plain, section))
    if not last:
        numbers = [int(found[1]) for name in section if (found := _LAYER.match(name))]
        unused = f"transformer.resblocks.{max(numbers, default=0)}."
        section = {
            name: tensor
            for name, tensor in section.items()
            if not name.startswith(unused) and name != "text_projection"
        }
    cls = "CLIPTextModelWithProjection" if last else "CLIPTextModel"
    fields = partial(shapes.text_encoder, activation="gelu")
    return Part(cls, section, fields, partial(_of_openclip, section))


def _plain(tensors: Tensors, name: str) -> tuple[str, Any] | None:
    return (name, tensors[name]) if name in tensors else None


def _of_openclip(tensors: Tensors, name: str) -> tuple[str, Any] | None:
    """A tensor by transformers' name: of q, k and v a third of one, of the projection the
    transpose.
    """
    found = _plain(tensors, names.openclip(name))
    if found is None:
        return None
    theirs, tensor = found
    shape = tuple(np.shape(tensor))
    if theirs == "text_projection":
        return theirs, Lazy(shape[::-1], lambda: np.asarray(tensor).T)
    if kind := re.search(r"\.([qkv])_proj\.\w+$", name):
        width, i = shape[0] // 3, "qkv".index(kind[1])
        rows = slice(i * width, (i + 1) * width)
        return theirs, Lazy((width, *shape[1:]), lambda: np.asarray(tensor)[rows])
    return found
