"""diffusers' UNet2DConditionModel, the U-Net of Stable Diffusion: its config.json, its parameter
names and layouts, and Flax's.

Names are those of UNet2DModel (`weights.unet2d`). What leads into a transformer and out of it is a
1 x 1 convolution or a linear layer, as the config says, here and there alike.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from skipjax import conditioners
from skipjax.codecs import Latents
from skipjax.conditioners import Conditioner, EmbeddedGuidance, Given, Labels
from skipjax.models import UNet2DConditionConfig, param_shapes
from skipjax.pretrained import Pretrained
from skipjax.process import Process, as_schedule
from skipjax.weights import layout
from skipjax.weights.fields import construct
from skipjax.weights.layout import Convert
from skipjax.weights.unet2d import known_fields
from skipjax.weights.unet2d import name as name

# What these must be where they are given.
ONLY: dict[str, tuple[Any, ...]] = {
    "dual_cross_attention": (False, None),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "attention_type": ("default",),
    "class_embeddings_concat": (False, None),
    "cross_attention_norm": (None,),
    "resnet_skip_time_act": (False, None),
    "resnet_out_scale_factor": (1.0,),
    "time_embedding_type": ("positional",),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
}
# That change nothing in the blocks that are supported.
IDLE = {"mid_block_only_cross_attention", "addition_embed_type_num_heads"}


def to_params(
    state_dict: Mapping[str, Any], config: UNet2DConditionConfig, convert: Convert | None = None
) -> dict[str, Any]:
    """Turns diffusers' state dict into the params of `skipjax.models.network(config)`.

    Args:
        state_dict: Arrays by name, e.g. "down_blocks.0.attentions.0.proj_in.weight", as
            `layout.to_params` takes them.
        config: The architecture that the names belong to.
        convert: As in `layout.to_params`.

    Returns:
        Nested dict of what `convert` gives; without it, of NumPy arrays of the dtypes that came
        in.

    Raises:
        ValueError: If a name is missing or unexpected, or a shape another one; says which, and
            what seems to be the matter.
    """
    return layout.to_params(
        state_dict,
        param_shapes(config),
        name,
        convert,
        accepted=_accepted,
        diagnosis=lambda: _diagnosis(state_dict, config),
    )


def config_of(fields: Mapping[str, Any]) -> UNet2DConditionConfig:
    """The architecture that a config.json describes; what it lacks has the class's default.

    A network that sees more channels than it says is taken to have the others beside x:
    `concat_channels`. That is so of inpainting (9), of instructions (8) and of enlarging (7).

    Args:
        fields: Of the file. Those that begin with "_" say nothing of the network.

    Raises:
        ValueError: For an option that is not supported, a value of another type, or no
            sample_size.
    """
    for key, accepted in ONLY.items():
        value = fields.get(key, accepted[0])
        if value not in accepted:
            raise ValueError(
                f"{key} is {value!r}, which is not supported of a UNet2DConditionModel; it must "
                f"be {accepted[0]!r}"
            )
    told = {k: v for k, v in fields.items() if k not in ONLY and k not in IDLE}
    told = known_fields(UNet2DConditionConfig, "UNet2DConditionModel", told)
    what = "the config of UNet2DConditionModel"
    config = construct(what, UNet2DConditionConfig, told)
    more = max(config.in_channels - config.out_channels, 0)
    return dataclasses.replace(config, concat_channels=told.get("concat_channels", more))


def model(config: UNet2DConditionConfig, name: str) -> Pretrained:
    """What an architecture is taken to be, where nothing else is known: trained as Stable
    Diffusion was (betas of .00085 .. .012, linear in their roots, T = 1000, eps), told its
    condition as arrays, and of latents whose autoencoder is not at hand. Without params.
    """
    process = Process(as_schedule("scaled_linear"), bounds=None)
    shapes: dict[str, tuple[int | None, ...]] = {
        "text": (None, config.text_channels),
        "pooled": (None,),
        "time_ids": (None,),
        "label": (),
        "embedding": (None,),
        "concat": (None, None, config.concat_channels),
    }
    parts: list[Conditioner] = []
    for key in config.takes:
        if key == "guidance":
            parts.append(EmbeddedGuidance())
        elif key == "label" and config.num_classes is not None:
            parts.append(Labels(config.num_classes))
        else:
            parts.append(Given(key, shapes[key]))
    return Pretrained(None, config, process, conditioners.join(parts), Latents(), name)


def _accepted(path: layout.Path, shape: layout.Shape) -> tuple[layout.Shape, ...]:
    """Whichever way a file has what leads into a transformer and out of it."""
    found = layout.accepted(path, shape)
    if path[-1] == "kernel" and shape[:2] == (1, 1) and path[-2] in ("proj_in", "proj_out"):
        return (*found, shape[:1:-1])
    return found


def _diagnosis(state_dict: Mapping[str, Any], config: UNet2DConditionConfig) -> list[str]:
    """What is the matter with a state dict that does not fit, as far as it can be told."""
    if "conv_in.weight" not in state_dict:
        return ["the state dict is not one of diffusers' U-Nets: conv_in.weight is missing"]
    found = []
    reads = next((key for key in state_dict if key.endswith("attn2.to_k.weight")), "")
    for what, key, axis, ours in (
        ("input channels", "conv_in.weight", 1, config.in_channels),
        ("output channels", "conv_out.weight", 0, config.out_channels),
        ("channels of the text", reads, 1, config.text_channels),
        ("classes", "class_embedding.weight", 0, config.num_classes),
    ):
        theirs = np.shape(state_dict[key])[axis] if key in state_dict else None
        if theirs != ours and (theirs is not None or key == "class_embedding.weight"):
            found.append(f"the file has {theirs or 'no'} {what}, the config {ours or 'none'}")
    return found
