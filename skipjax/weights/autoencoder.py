"""diffusers' autoencoders: their config.json, their parameter names and layouts, and Flax's.

Blocks and their names are those of `weights.unet2d`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from skipjax.codecs import AutoencoderKL, AutoencoderTiny
from skipjax.models import AutoencoderKLConfig, AutoencoderTinyConfig, param_shapes
from skipjax.weights import layout
from skipjax.weights.fields import construct, known
from skipjax.weights.layout import Convert
from skipjax.weights.unet2d import name, with_newer_names

Config = AutoencoderKLConfig | AutoencoderTinyConfig

CONFIGS: dict[str, type[Config]] = {
    "AutoencoderKL": AutoencoderKLConfig,
    "AutoencoderTiny": AutoencoderTinyConfig,
}
# Of older files, and written beside what is said already; they change nothing.
IDLE = {"block_out_channels"}


def to_params(
    state_dict: Mapping[str, Any], config: Config, convert: Convert | None = None
) -> dict[str, Any]:
    """Turns diffusers' state dict into the params of an autoencoder, both halves.

    Args:
        state_dict: Arrays by name, e.g. "decoder.conv_in.weight" [O, I, 3, 3], as
            `layout.to_params` takes them. Attention may have its older names ("query",
            "proj_attn", ...), and linear layers the shape of 1 x 1 convolutions.
        config: The architecture that the names belong to.
        convert: As in `layout.to_params`.

    Returns:
        Nested dict of what `convert` gives; without it, of NumPy arrays of the dtypes that came
        in.

    Raises:
        ValueError: If a name is missing or unexpected, or a shape another one; says which.
    """
    return layout.to_params(
        with_newer_names(state_dict),
        param_shapes(config),
        name,
        convert,
        diagnosis=lambda: _diagnosis(state_dict, config),
    )


def config_of(fields: Mapping[str, Any]) -> Config:
    """The architecture that a config.json describes; what it lacks has the class's default.

    Args:
        fields: Of the file. Its `_class_name` says which of the two it is, AutoencoderKL where
            there is none; others that begin with "_" say nothing of the network.

    Raises:
        ValueError: For an option that is not supported, or a value of another type.
    """
    kind = fields.get("_class_name", "AutoencoderKL")
    if kind not in CONFIGS:
        raise ValueError(f"_class_name is {kind!r}: it must be one of {', '.join(CONFIGS)}")
    config = CONFIGS[kind]
    return construct(f"the config of {kind}", config, known(config, kind, fields, IDLE))


def model(config: Config, name: str) -> AutoencoderKL | AutoencoderTiny:
    """The codec of an architecture, without params; it goes by no name."""
    if isinstance(config, AutoencoderTinyConfig):
        return AutoencoderTiny(None, config)
    return AutoencoderKL(None, config)


def _diagnosis(state_dict: Mapping[str, Any], config: Config) -> list[str]:
    """What is the matter with a state dict that does not fit, as far as it can be told."""
    tiny = isinstance(config, AutoencoderTinyConfig)
    first = "decoder.layers.0.weight" if tiny else "decoder.conv_in.weight"
    if first not in state_dict:
        kind = "AutoencoderTiny" if tiny else "AutoencoderKL"
        return [f"the state dict is not one of diffusers' {kind}: {first} is missing"]
    theirs, ours = np.shape(state_dict[first])[1], config.latent_channels
    if theirs == ours:
        return []
    return [f"the file has {theirs} channels of latents, the config {ours}"]
