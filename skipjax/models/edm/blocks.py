"""The block that EDM's DDPM++, NCSN++ and ADM are made of (arXiv:2206.00364, appendix F.1).

Submodules carry EDM's names with `.` written as `_`. Arrays are NHWC.
"""

from dataclasses import dataclass
from math import sqrt

import jax
import jax.numpy as jnp
from flax import linen as nn

from skipjax.models.attention import attention
from skipjax.models.blocks import GroupNorm
from skipjax.models.conv import Conv
from skipjax.models.edm.resample import Taps, down, up


@dataclass(frozen=True)
class Style:
    """What all blocks of a network have in common.

    Args:
        head_channels: Channels of an attention head; None for one head.
        adaptive_scale: Whether the embedding scales and shifts, or is added.
        skip_scale: What each sum is multiplied by.
        epsilon: Of group norms.
        taps: Of the filter that resamples.
        project: Whether the skip path of a block that resamples has a convolution at any rate, or
            only where the width changes.
        dropout: Rate; 0 where the network is not being trained.
        dtype: What blocks compute in.
    """

    head_channels: int | None = None
    adaptive_scale: bool = False
    skip_scale: float = sqrt(0.5)
    epsilon: float = 1e-6
    taps: Taps = (1, 1)
    project: bool = True
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    def heads(self, channels: int) -> int:
        """Attention heads of a block of that width; 0 where it is too narrow for one."""
        heads = 1 if self.head_channels is None else channels // self.head_channels
        if heads and channels % heads:
            raise ValueError(
                f"a block of {channels} channels does not split into {heads} heads: its width "
                f"must be a multiple of {self.head_channels}"
            )
        return heads

    def norm(self, channels: int, name: str) -> GroupNorm:
        """A group norm: 32 groups, or fewer of at least 4 channels."""
        groups = min(32, channels // 4)
        if not groups or channels % groups:
            raise ValueError(
                f"{channels} channels do not split into {groups} groups of one size: widths must "
                "be multiples of 4 below 128, and of 32 from there on"
            )
        return GroupNorm(groups, self.epsilon, name=name)


class Block(nn.Module):
    """norm, SiLU, [resample], conv; embedding; norm, SiLU, dropout, conv; plus a skip path; and
    self-attention where it is wanted.

    Args:
        style: What it has in common with the others.
        channels: Its width.
        resample: "none", "up" or "down".
        attends: Whether there is attention.
    """

    style: Style
    channels: int
    resample: str = "none"
    attends: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, emb: jax.Array) -> jax.Array:
        style, width, dtype = self.style, self.channels, self.style.dtype
        zeros = nn.initializers.zeros
        h = self._resampled(nn.silu(style.norm(x.shape[-1], "norm0")(x)))
        h = Conv(width, dtype=dtype, name="conv0")(h)

        told = (1 + style.adaptive_scale) * width
        emb = nn.Dense(told, dtype=jnp.float32, name="affine")(emb)
        emb = emb.astype(h.dtype)[:, None, None, :]
        norm = style.norm(width, "norm1")
        if style.adaptive_scale:
            scale, shift = jnp.split(emb, 2, axis=-1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + emb)
        h = nn.Dropout(style.dropout, deterministic=False)(nn.silu(h))
        h = Conv(width, dtype=dtype, kernel_init=zeros, name="conv1")(h)

        resampled, narrow = self._resampled(x), x.shape[-1] != width
        if narrow or style.project and self.resample != "none":
            resampled = Conv(width, 1, dtype=dtype, name="skip")(resampled)
        x = (resampled + h) * style.skip_scale
        heads = style.heads(width) if self.attends else 0
        if not heads:
            return x
        b, height, wide, _ = x.shape
        y = style.norm(width, "norm2")(x).reshape(b, height * wide, width)
        qkv = nn.Dense(3 * width, dtype=dtype, name="qkv")(y)
        # Innermost are q, k and v: a third order beside ADM's two.
        q, k, v = jnp.moveaxis(qkv.reshape(b, height * wide, heads, -1, 3), -1, 0)
        y = attention(q, k, v).reshape(b, height * wide, width)
        y = nn.Dense(width, dtype=dtype, kernel_init=zeros, name="proj")(y)
        return (x + y.reshape(x.shape)) * style.skip_scale

    def _resampled(self, x: jax.Array) -> jax.Array:
        if self.resample == "none":
            return x
        return {"up": up, "down": down}[self.resample](x, self.style.taps)
