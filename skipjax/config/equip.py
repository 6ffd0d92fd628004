"""Options of a request that parts of a model carry: how prompts are read, how latents are decoded.

A part takes an option by having the field of it; a family of its own may, too.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from skipjax.conditioners import Conditioner, join, parts
from skipjax.config.sample_config import SampleConfig
from skipjax.pretrained import Pretrained

# By name of the option, the field of the part.
OF_TEXT = {"clip_skip": "clip_skip", "prompt_weights": "weighted", "long_prompts": "long"}
OF_CODEC = {"tiles": "tile", "vae_dtype": "dtype"}


def equip(model: Pretrained, config: SampleConfig, scale: float | None = None) -> Pretrained:
    """The model with what is asked of its conditioner and codec.

    Args:
        model: What is drawn from.
        config: What is asked for.
        scale: Of guidance, where the network is told it; None: the default.

    Raises:
        ValueError: For an option that no part of the model has a place for.
    """
    text, decoding = _given(config, OF_TEXT), _given(config, OF_CODEC)
    conditioner = model.conditioner
    for option, value in text.items():
        conditioner = _carried(conditioner, OF_TEXT[option], value)
        if conditioner is None:
            raise ValueError(f"{option} is given, and {model.name} reads no prompts: drop it")
    if config.size is not None:  # of those that tell the network how large a picture is
        size = tuple(map(int, config.size))
        conditioner = _carried(conditioner, "size", size) or conditioner
    if scale is not None:
        conditioner = _carried(conditioner, "default", float(scale)) or conditioner
    codec: Any = model.codec
    for option, value in decoding.items():
        if OF_CODEC[option] not in _names(codec):
            raise ValueError(
                f"{option} is given, and {model.name} has no autoencoder to decode by: drop it"
            )
        codec = replace(codec, **{OF_CODEC[option]: value})
    if conditioner is model.conditioner and codec is model.codec:
        return model
    return model.replace(conditioner=conditioner, codec=codec)


def _given(config: SampleConfig, options: Mapping[str, str]) -> dict[str, Any]:
    every = {option: getattr(config, option) for option in options}
    return {option: value for option, value in every.items() if value not in (None, False)}


def _carried(conditioner: Conditioner | None, field: str, value: Any) -> Conditioner | None:
    """The conditioner with another value of a field of its parts; None where no part has it."""
    several: Any = parts(conditioner)
    if not any(field in _names(part) for part in several):
        return None
    return join([replace(p, **{field: value}) if field in _names(p) else p for p in several])


def _names(part: Any) -> set[str]:
    return {field.name for field in fields(part)}
