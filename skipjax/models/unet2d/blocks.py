"""The levels of diffusers' U-Nets: residual blocks and attention at one size, then another size.

Arrays are NHWC. Residual blocks and resampling are ADM's, and keep its names inside
(`models.blocks`); around them the names are diffusers', `_0` for `.0`.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from skipjax.models.blocks import Attention, Downsample, ResBlock, Upsample
from skipjax.models.config import GROUPS

# Downsample2D with `downsample_padding`: 1 is symmetric, 0 puts the zeros right and below.
PADDING = {0: (0, 1), 1: (1, 1)}


@dataclass(frozen=True)
class Parts:
    """What the blocks of one network have in common.

    Not a module: whoever calls it inside `nn.compact` gets the blocks as submodules.

    Args:
        groups: Of group norms.
        eps: Of group norms.
        activation: Of residual blocks, a name in `blocks.ACTIVATIONS`.
        scale_shift: Whether the embedding scales and shifts, or is added.
        padding: Of strided convolutions, a key of `PADDING`.
        dropout: Rate inside residual blocks; 0 where the network is not being trained.
        dtype: What the blocks compute in.
        remat: Whether blocks are computed again in the backward pass instead of remembered.
    """

    groups: int = GROUPS
    eps: float = 1e-5
    activation: str = "silu"
    scale_shift: bool = False
    padding: int = 1
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    def res_block(
        self, channels: int, name: str, resample: str = "none", divisor: float = 1.0
    ) -> nn.Module:
        """A residual block that widens to `channels`; resample is "none", "up" or "down"."""
        block = nn.remat(ResBlock) if self.remat else ResBlock
        return block(
            channels,
            self.dropout,
            self.scale_shift,
            resample,
            self.dtype,
            self.groups,
            self.eps,
            self.activation,
            divisor,
            name=name,
        )


def parts_of(config: Any, dtype: jnp.dtype, remat: bool, train: bool) -> Parts:
    """Those of a U-Net, by diffusers' argument names in its config."""
    return Parts(
        groups=config.norm_num_groups,
        eps=config.norm_eps,
        activation=config.act_fn,
        scale_shift=config.resnet_time_scale_shift == "scale_shift",
        padding=config.downsample_padding,
        dropout=config.dropout if train else 0.0,
        dtype=dtype,
        remat=remat,
    )


# What attends behind a residual block: called inside `nn.compact`, with the parts of the network,
# what the block gave [B, H, W, C], the context that the network was given (None where it takes
# none), and the block's number in its level.
Attends = Callable[[Parts, jax.Array, jax.Array | None, int], jax.Array]


@dataclass(frozen=True)
class OverPixels:
    """Attention of the pixels to each other.

    Args:
        head_width: Channels of a head; None for one head of all.
        groups: Of the norm before it; None for none.
        divisor: Of the residual sum.
    """

    head_width: int | None
    groups: int | None = GROUPS
    divisor: float = 1.0

    def __call__(
        self, parts: Parts, h: jax.Array, context: jax.Array | None, number: int
    ) -> jax.Array:
        block = nn.remat(Attention) if parts.remat else Attention
        channels = h.shape[-1]
        width = self.head_width or channels
        return block(
            channels // width,
            width,
            self.groups,
            parts.eps,
            self.divisor,
            parts.dtype,
            name=f"attentions_{number}",
        )(h)


@dataclass(frozen=True)
class Level:
    """What is at one size of the picture.

    Args:
        channels: Width of its blocks.
        layers: How many residual blocks it has.
        attends: What follows each of them, where anything does.
        resample: How it goes on to the next size: "conv", "resnet", or "none" at the last.
    """

    channels: int
    layers: int
    attends: Attends | None
    resample: str


def check_kinds(config: Any, down: Collection[str], up: Collection[str]) -> None:
    """Checks that a config has a known kind of block for each level, there and back.

    Raises:
        ValueError: If there are not as many as `block_out_channels`, or one is not known.
    """
    count = len(config.block_out_channels)
    for name, known in (("down_block_types", down), ("up_block_types", up)):
        kinds = getattr(config, name)
        if len(kinds) != count or not count:
            raise ValueError(
                f"{name} has {len(kinds)} entries, and block_out_channels {count}: there must be "
                "as many, one or more"
            )
        for kind in kinds:
            if kind not in known:
                raise ValueError(
                    f"{name} holds {kind!r}, which is not supported: known are {', '.join(known)}"
                )


class DownBlock(nn.Module):
    """A level of the encoder, which halves the size at its end."""

    parts: Parts
    level: Level

    @nn.compact
    def __call__(
        self, h: jax.Array, emb: jax.Array | None = None, context: jax.Array | None = None
    ) -> list[jax.Array]:
        """What every part of it gives, for h [B, H, W, C] and the embedding [B, E], if any."""
        parts, level, features = self.parts, self.level, []
        for i in range(level.layers):
            h = parts.res_block(level.channels, f"resnets_{i}")(h, emb)
            if level.attends is not None:
                h = level.attends(parts, h, context, i)
            features.append(h)
        if level.resample == "resnet":
            features.append(parts.res_block(level.channels, "downsamplers_0", "down")(h, emb))
        elif level.resample == "conv":
            padding = PADDING[parts.padding]
            half = Downsample(dtype=parts.dtype, padding=padding, name="downsamplers_0")
            features.append(half(h))
        return features


class MidBlock(nn.Module):
    """The coarsest level: a residual block, attention where there is any, a residual block.

    Args:
        parts: As everywhere in the network.
        attends: What is between the residual blocks, where anything is.
        divisor: Of the residual sums of residual blocks.
        alone: Whether the first residual block is all there is.
    """

    parts: Parts
    attends: Attends | None
    divisor: float = 1.0
    alone: bool = False

    @nn.compact
    def __call__(
        self, h: jax.Array, emb: jax.Array | None = None, context: jax.Array | None = None
    ) -> jax.Array:
        parts, channels = self.parts, h.shape[-1]
        h = parts.res_block(channels, "resnets_0", divisor=self.divisor)(h, emb)
        if self.alone:
            return h
        if self.attends is not None:
            h = self.attends(parts, h, context, 0)
        return parts.res_block(channels, "resnets_1", divisor=self.divisor)(h, emb)


class UpBlock(nn.Module):
    """A level of the decoder, which doubles the size at its end."""

    parts: Parts
    level: Level

    @nn.compact
    def __call__(
        self,
        h: jax.Array,
        emb: jax.Array | None = None,
        skips: Sequence[jax.Array] | None = None,
        context: jax.Array | None = None,
        size: tuple[int, ...] | None = None,
    ) -> jax.Array:
        """h [B, 2 H, 2 W, C'], with as many skips beside it as it has layers, the last first; an
        autoencoder has none. `size` is that of the next level, where it may be odd.
        """
        parts, level = self.parts, self.level
        for i in range(level.layers):
            if skips is not None:
                h = jnp.concatenate([h, skips[-1 - i]], axis=-1)
            h = parts.res_block(level.channels, f"resnets_{i}")(h, emb)
            if level.attends is not None:
                h = level.attends(parts, h, context, i)
        if level.resample == "resnet":
            return parts.res_block(level.channels, "upsamplers_0", "up")(h, emb)
        if level.resample == "conv":
            return Upsample(dtype=parts.dtype, name="upsamplers_0")(h, size)
        return h


def through(
    h: jax.Array,
    emb: jax.Array,
    context: jax.Array | None,
    *,
    parts: Parts,
    encoder: Sequence[Level],
    middle: MidBlock | None,
    decoder: Sequence[Level],
) -> jax.Array:
    """What the levels make of h: down, across and up again, inside `nn.compact`.

    Args:
        h: [B, H, W, C], as wide as the finest level.
        emb: Of the time and what else is told, float32 [B, E].
        context: What attention reads, [B, L, D]; None where it reads nothing.
        parts: As everywhere in the network.
        encoder: Levels, finest first.
        middle: The block between them, named "mid_block"; None for none.
        decoder: Levels, coarsest first.

    Returns:
        [B, H, W, width of the decoder's last level].
    """
    features = [h]
    for i, level in enumerate(encoder):
        features += DownBlock(parts, level, name=f"down_blocks_{i}")(features[-1], emb, context)
    h = features[-1]
    if middle is not None:
        h = middle(h, emb, context)
    for i, level in enumerate(decoder):
        features, skips = features[: -level.layers], features[-level.layers :]
        size = features[-1].shape[1:3] if features else None
        h = UpBlock(parts, level, name=f"up_blocks_{i}")(h, emb, skips, context, size)
    return h
