"""Configs of networks from the shapes of their tensors, by diffusers' names.

What shapes do not tell is as in all that were released: heads of 64 channels, but 8 heads in the
U-Nets whose projections are convolutions (those of Stable Diffusion 1).
"""

from collections.abc import Callable
from itertools import count, takewhile
from typing import Any

# The shape of the tensor of a name; None where there is none.
Shape = Callable[[str], tuple[int, ...] | None]
Fields = dict[str, Any]
HEAD = 64  # channels of an attention head


def unet(shape: Shape) -> Fields:
    """The config of a UNet2DConditionModel, but for its sample_size.

    Raises:
        ValueError: If it has no attention to text.
    """
    channels, layers, depths = [], 0, []
    for level in count():
        block = f"down_blocks.{level}"
        found = _number(shape, block + ".resnets.{}.conv1.weight")
        if not found:
            break
        layers = layers or found
        channels.append(_of(shape, f"{block}.resnets.0.conv1.weight")[0])
        depths.append(_depth(shape, f"{block}.attentions.0"))
    middle = "mid_block.attentions.0"
    first = next((f"down_blocks.{i}.attentions.0" for i, depth in enumerate(depths) if depth), "")
    if not first or not channels:
        raise ValueError("its U-Net has no attention to text: it is not one of Stable Diffusion")
    linear = len(_of(shape, f"{first}.proj_in.weight")) == 2
    # That of the middle is the last level's, which may have no attention itself.
    last = _depth(shape, middle) or depths[-1]
    deep = [depth or 1 for depth in depths[:-1]] + [last or 1]
    kinds = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    fields: Fields = {
        "in_channels": _of(shape, "conv_in.weight")[1],
        "out_channels": _of(shape, "conv_out.weight")[0],
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": kinds,
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(kinds)],
        "cross_attention_dim": _of(shape, f"{first}.transformer_blocks.0.attn2.to_k.weight")[1],
        "transformer_layers_per_block": deep[0] if len({*deep}) == 1 else deep,
        "use_linear_projection": linear,
        "attention_head_dim": [c // HEAD for c in channels] if linear else 8,
    }
    if told := shape("add_embedding.linear_1.weight"):
        fields |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
        fields["projection_class_embeddings_input_dim"] = told[1]
    if told := shape("time_embedding.cond_proj.weight"):
        fields["time_cond_proj_dim"] = told[1]
    if told := shape("class_embedding.weight"):
        fields["num_class_embeds"] = told[0]
    return fields


def autoencoder(shape: Shape) -> Fields:
    """The config of an AutoencoderKL, but for its scaling_factor."""
    down = "encoder.down_blocks.{}.resnets.0.conv1.weight"
    levels = _number(shape, down)
    return {
        "in_channels": _of(shape, "encoder.conv_in.weight")[1],
        "out_channels": _of(shape, "decoder.conv_out.weight")[0],
        "latent_channels": _of(shape, "decoder.conv_in.weight")[1],
        "block_out_channels": [_of(shape, down.format(i))[0] for i in range(levels)],
        "layers_per_block": _number(shape, "encoder.down_blocks.0.resnets.{}.conv1.weight"),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_quant_conv": shape("quant_conv.weight") is not None,
        "use_post_quant_conv": shape("post_quant_conv.weight") is not None,
    }


def text_encoder(shape: Shape, activation: str) -> Fields:
    """The config of a CLIPTextModel, by names without the prefix "text_model."."""
    tokens, width = _of(shape, "embeddings.token_embedding.weight")
    return {
        "vocab_size": tokens,
        "hidden_size": width,
        "intermediate_size": _of(shape, "encoder.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": _number(shape, "encoder.layers.{}.layer_norm1.weight"),
        "num_attention_heads": max(width // HEAD, 1),
        "max_position_embeddings": _of(shape, "embeddings.position_embedding.weight")[0],
        "hidden_act": activation,
        "projection_dim": (shape("text_projection.weight") or (width,))[0],
        "eos_token_id": 2,  # as in those that were released: the greatest token is the end
    }


def _number(shape: Shape, name: str) -> int:
    """How many tensors there are of a name with 0, 1, 2, ... in it."""
    return sum(1 for _ in takewhile(lambda i: shape(name.format(i)) is not None, count()))


def _depth(shape: Shape, block: str) -> int:
    return _number(shape, block + ".transformer_blocks.{}.norm1.weight")


def _of(shape: Shape, name: str) -> tuple[int, ...]:
    found = shape(name)
    if found is None:
        raise ValueError(f"it lacks {name}, as diffusers calls it")
    return found
