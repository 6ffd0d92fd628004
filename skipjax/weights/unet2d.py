"""diffusers' UNet2DModel: its config.json, its parameter names and layouts, and Flax's.

Residual blocks and resampling are ADM's (`models.blocks`), whose names they have in the tree of
params; in files they have diffusers'.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from skipjax import conditioners
from skipjax.conditioners import Conditioner, Labels, Pictures
from skipjax.models import UNet2DConfig, param_shapes
from skipjax.pretrained import Pretrained
from skipjax.process import Process, as_schedule
from skipjax.weights import layout
from skipjax.weights.fields import construct, known
from skipjax.weights.layout import Convert

# diffusers' names of the modules of ADM's blocks.
_MODULES = {
    "in_layers_0": "norm1",
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_0": "norm2",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
    "op": "conv",
}
# Of attention, in files from before 2023.
_OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLDER_NAME = re.compile(rf"(attentions\.\d+)\.({'|'.join(_OLDER)})\.")


def to_params(
    state_dict: Mapping[str, Any], config: UNet2DConfig, convert: Convert | None = None
) -> dict[str, Any]:
    """Turns diffusers' state dict into the params of `skipjax.models.network(config)`.

    Args:
        state_dict: Arrays by name, e.g. "down_blocks.0.resnets.0.conv1.weight" [O, I, 3, 3], as
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


def config_of(fields: Mapping[str, Any]) -> UNet2DConfig:
    """The architecture that a config.json describes; what it lacks has the class's default.

    A network that sees more channels than it says is taken to have the others beside x:
    `concat_channels`.

    Args:
        fields: Of the file. Those that begin with "_" say nothing of the network.

    Raises:
        ValueError: For an option that is not supported, a value of another type, or no
            sample_size.
    """
    told = known_fields(UNet2DConfig, "UNet2DModel", fields)
    for option in ("down_block_types", "up_block_types"):
        if isinstance(kinds := told.get(option), list):  # UNetResDownBlock2D, before it was named
            told[option] = [str(kind).removeprefix("UNetRes") for kind in kinds]
    for option in ("downsample_type", "upsample_type"):
        if option in told and told[option] is None:
            del told[option]
    config = construct("the config of UNet2DModel", UNet2DConfig, told)
    more = max(config.in_channels - config.out_channels, 0)
    return dataclasses.replace(config, concat_channels=told.get("concat_channels", more))


def known_fields(part: type, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a config.json that a U-Net's config has, as `fields.known` has it.

    Raises:
        ValueError: If there is no sample_size.
    """
    told = known(part, name, fields)
    if told.get("sample_size") is None:
        raise ValueError(
            f"the config of {name} lacks sample_size: say in it how many pixels what it denoises "
            "has, 64 or [64, 96]"
        )
    return told


def model(config: UNet2DConfig, name: str) -> Pretrained:
    """What an architecture is taken to be, where nothing else is known: trained as DDPM's are
    (linear schedule, T = 1000, eps); without params.
    """
    process = Process(as_schedule("linear"))
    if config.out_channels == 2 * config.shape[-1]:
        process = process.replace(variance="learned_range")
    parts: list[Conditioner] = []
    if config.num_classes is not None:
        parts.append(Labels(config.num_classes))
    if config.concat_channels:
        parts.append(Pictures("concat", (*config.shape[:2], config.concat_channels)))
    return Pretrained(None, config, process, conditioners.join(parts), name=name)


def name(path: tuple[str, ...]) -> str:
    """diffusers' name of the parameter at a path of the Flax tree."""
    *modules, leaf = path
    # What ends in a number is one of a list, but for linear_1 and linear_2.
    names = (_MODULES.get(m) or re.sub(r"(?<!linear)_(?=\d+$)", ".", m) for m in modules)
    return ".".join([*names, "bias" if leaf == "bias" else "weight"])


def with_newer_names(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict whose attention has the newer names; one that has both names keeps both, and
    does not fit.
    """

    def newer(key: str) -> str:
        return _OLDER_NAME.sub(lambda found: f"{found[1]}.{_OLDER[found[2]]}.", key)

    return {
        key if newer(key) in state_dict else newer(key): value for key, value in state_dict.items()
    }


def _diagnosis(state_dict: Mapping[str, Any], config: UNet2DConfig) -> list[str]:
    """What is the matter with a state dict that does not fit, as far as it can be told."""
    if "conv_in.weight" not in state_dict:
        return ["the state dict is not one of diffusers' U-Nets: conv_in.weight is missing"]
    found = []
    for what, key, axis, ours in (
        ("input channels", "conv_in.weight", 1, config.in_channels),
        ("output channels", "conv_out.weight", 0, config.out_channels),
        ("classes", "class_embedding.weight", 0, config.num_classes),
    ):
        theirs = np.shape(state_dict[key])[axis] if key in state_dict else None
        if theirs != ours and (theirs is not None or config.class_embed_type is None):
            found.append(f"the file has {theirs or 'no'} {what}, the config {ours or 'none'}")
    return found
