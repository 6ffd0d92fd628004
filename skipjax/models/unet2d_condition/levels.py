"""The levels that the arguments of a UNet2DConditionModel describe."""

from collections.abc import Sequence
from typing import Any

from skipjax.models.unet2d.blocks import Level, OverPixels
from skipjax.models.unet2d_condition.blocks import OverText

# What follows the residual blocks of a level: nothing, attention, or attention to the text too.
DOWN = {"DownBlock2D": None, "AttnDownBlock2D": "pixels", "CrossAttnDownBlock2D": "text"}
UP = {"UpBlock2D": None, "AttnUpBlock2D": "pixels", "CrossAttnUpBlock2D": "text"}


def encoder(config: Any) -> tuple[Level, ...]:
    """Levels of the encoder, finest first.

    Raises:
        ValueError: If heads do not divide a level's width, or there are not as many numbers of
            transformer blocks as residual blocks.
    """
    kinds = [DOWN[kind] for kind in config.down_block_types]
    return _levels(config, kinds, config.transformer_layers_per_block)


def decoder(config: Any) -> tuple[Level, ...]:
    """Levels of the decoder, coarsest first; raises what `encoder` does."""
    kinds = [UP[kind] for kind in config.up_block_types]
    depths = config.reverse_transformer_layers_per_block
    if depths is None:
        depths = _each(config, config.transformer_layers_per_block)[::-1]
    return _levels(config, kinds, depths, decoder=True)


def middle(config: Any) -> OverText | None:
    """What attends in the middle, where anything does; raises what `encoder` does."""
    if config.mid_block_type != "UNetMidBlock2DCrossAttn":
        return None
    depth = _each(config, config.transformer_layers_per_block)[-1]
    depths = tuple(depth[:1]) if isinstance(depth, Sequence) else (depth,)
    width, number = config.block_out_channels[-1], len(config.block_out_channels) - 1
    return OverText(_heads(config, width, number), depths, config.use_linear_projection)


def _levels(
    config: Any, kinds: list[str | None], depths: Any, decoder: bool = False
) -> tuple[Level, ...]:
    found, count = [], len(kinds)
    for i, (kind, depth) in enumerate(zip(kinds, _each(config, depths), strict=True)):
        number = count - 1 - i if decoder else i  # of the level, finest first
        layers = _each(config, config.layers_per_block)[number] + decoder
        if layers < 1 + decoder:
            raise ValueError(f"layers_per_block is {config.layers_per_block}: at least 1")
        width = config.block_out_channels[number]
        if kind == "pixels":
            # diffusers reads these from the encoder's end in the decoder too.
            attends = _over_pixels(config, width, _each(config, config.attention_head_dim)[i])
        else:
            attends = _over_text(config, width, number, depth, layers) if kind else None
        found.append(Level(width, layers, attends, "none" if i == count - 1 else "conv"))
    return tuple(found)


def _over_pixels(config: Any, width: int, head: int) -> OverPixels:
    if not 1 <= head <= width:
        raise ValueError(f"attention_head_dim is {head}: it must be in 1 .. {width}")
    return OverPixels(head, config.norm_num_groups)


def _over_text(config: Any, width: int, number: int, depth: Any, layers: int) -> OverText:
    depths = depth if isinstance(depth, Sequence) else layers * (depth,)
    if len(depths) != layers or min(depths) < 0:
        raise ValueError(
            f"level {number} has {layers} residual blocks and transformer blocks {depth}: say one "
            "number for all, or one for each, and reverse_transformer_layers_per_block for those "
            "of the decoder"
        )
    only = _each(config, config.only_cross_attention)[number]
    heads = _heads(config, width, number)
    return OverText(heads, tuple(depths), config.use_linear_projection, only)


def _heads(config: Any, width: int, number: int) -> int:
    said = config.num_attention_heads
    heads = _each(config, config.attention_head_dim if said is None else said)[number]
    if heads < 1 or width % heads:
        raise ValueError(
            f"level {number} has {width} channels and {heads} heads: their number must divide it "
            "(attention_head_dim is the number of heads where levels attend to text)"
        )
    return heads


def _each(config: Any, value: Any) -> Sequence[Any]:
    """One for each level, of one for all or one for each."""
    return value if isinstance(value, Sequence) else len(config.block_out_channels) * (value,)
