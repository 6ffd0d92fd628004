"""The levels of diffusers' U-Nets: residual blocks and attention at one size, then another size.

Arrays are NHWC. Residual blocks and resampling are ADM's, and keep its names inside
(`models.blocks`); around them the names are diffusers', `_0` for `.0`.
"""

from dataclasses import dataclass

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
        head_width: Channels of an attention head; None for one head of all.
        padding: Of strided convolutions, a key of `PADDING`.
        dropout: Rate inside residual blocks; 0 where the network is not being trained.
        dtype: What the blocks compute in.
        remat: Whether blocks are computed again in the backward pass instead of remembered.
    """

    groups: int = GROUPS
    eps: float = 1e-5
    activation: str = "silu"
    scale_shift: bool = False
    head_width: int | None = None
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

    def attention(
        self, channels: int, name: str, groups: int | None, divisor: float = 1.0
    ) -> nn.Module:
        """Attention over `channels`, with a norm of so many groups before it, or none."""
        block = nn.remat(Attention) if self.remat else Attention
        width = self.head_width or channels
        return block(channels // width, width, groups, self.eps, divisor, self.dtype, name=name)


@dataclass(frozen=True)
class Level:
    """What is at one size of the picture.

    Args:
        channels: Width of its blocks.
        layers: How many residual blocks it has.
        attends: Whether attention follows each of them.
        resample: How it goes on to the next size: "conv", "resnet", or "none" at the last.
    """

    channels: int
    layers: int
    attends: bool
    resample: str


class DownBlock(nn.Module):
    """A level of the encoder, which halves the size at its end."""

    parts: Parts
    level: Level

    @nn.compact
    def __call__(self, h: jax.Array, emb: jax.Array | None = None) -> list[jax.Array]:
        """What every part of it gives, for h [B, H, W, C] and the embedding [B, E], if any."""
        parts, level, features = self.parts, self.level, []
        for i in range(level.layers):
            h = parts.res_block(level.channels, f"resnets_{i}")(h, emb)
            if level.attends:
                h = parts.attention(level.channels, f"attentions_{i}", parts.groups)(h)
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
        attends: Whether there is attention.
        groups: Of its norm; None for none.
        divisor: Of every residual sum.
    """

    parts: Parts
    attends: bool = True
    groups: int | None = GROUPS
    divisor: float = 1.0

    @nn.compact
    def __call__(self, h: jax.Array, emb: jax.Array | None = None) -> jax.Array:
        parts, channels = self.parts, h.shape[-1]
        h = parts.res_block(channels, "resnets_0", divisor=self.divisor)(h, emb)
        if self.attends:
            h = parts.attention(channels, "attentions_0", self.groups, self.divisor)(h)
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
        skips: list[jax.Array] | None = None,
    ) -> jax.Array:
        """h [B, 2 H, 2 W, C'], with as many skips beside it as it has layers, the last first; an
        autoencoder has none.
        """
        parts, level = self.parts, self.level
        for i in range(level.layers):
            if skips is not None:
                h = jnp.concatenate([h, skips[-1 - i]], axis=-1)
            h = parts.res_block(level.channels, f"resnets_{i}")(h, emb)
            if level.attends:
                h = parts.attention(level.channels, f"attentions_{i}", parts.groups)(h)
        if level.resample == "resnet":
            return parts.res_block(level.channels, "upsamplers_0", "up")(h, emb)
        if level.resample == "conv":
            return Upsample(dtype=parts.dtype, name="upsamplers_0")(h)
        return h
