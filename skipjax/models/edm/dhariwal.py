"""EDM's ADM (Dhariwal & Nichol 2021, arXiv:2105.05233; arXiv:2206.00364, table 7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from skipjax.models.blocks import timestep_embedding
from skipjax.models.conv import Conv
from skipjax.models.edm.blocks import Block, Style
from skipjax.models.edm.config import PixelConfig

HEAD = 64  # channels of an attention head


@dataclass(frozen=True)
class DhariwalUNetConfig(PixelConfig):
    """EDM's ADM, after Dhariwal & Nichol 2021 (arXiv:2105.05233): heads of 64 channels, and an
    embedding that scales and shifts.
    """

    model_channels: int = 192
    channel_mult: Sequence[int] = (1, 2, 3, 4)
    num_blocks: int = 3
    attn_resolutions: Sequence[int] = (32, 16, 8)
    dropout: float = 0.10

    def module(self, dtype: DTypeLike = jnp.float32, remat: bool = False) -> Any:
        """The Flax module."""
        return DhariwalUNet(self, jnp.dtype(dtype), remat)


class DhariwalUNet(nn.Module):
    """The raw network F(x, t, y); arguments as of `SongUNet`."""

    config: DhariwalUNetConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        y: jax.Array | None = None,
        augment: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """float32 [B, H, W, out_channels] of x [B, H, W, C], c_noise t [B] and labels y [B]."""
        config = self.config
        config.check(x, y)
        emb = self._embedding(t, y, augment)
        dropout = config.dropout if train else 0.0
        style = Style(HEAD, True, 1.0, 1e-5, project=False, dropout=dropout, dtype=self.dtype)
        make = nn.remat(Block) if self.remat else Block

        def block(h, name, channels, resample="none", attends=False):
            return make(style, channels, resample, attends, name=name)(h, emb)

        levels = list(zip(config.sides, config.channels, strict=True))
        skips = []
        h = x.astype(self.dtype)
        for level, (side, channels) in enumerate(levels):
            name, attends = f"enc_{side}x{side}", side in config.attn_resolutions
            if level:
                h = block(h, f"{name}_down", h.shape[-1], "down")
            else:
                h = Conv(channels, dtype=self.dtype, name=f"{name}_conv")(h)
            skips.append(h)
            for i in range(config.num_blocks):
                h = block(h, f"{name}_block{i}", channels, attends=attends)
                skips.append(h)

        for level, (side, channels) in reversed(list(enumerate(levels))):
            name, attends = f"dec_{side}x{side}", side in config.attn_resolutions
            if level == len(levels) - 1:
                h = block(h, f"{name}_in0", h.shape[-1], attends=True)
                h = block(h, f"{name}_in1", h.shape[-1])
            else:
                h = block(h, f"{name}_up", h.shape[-1], "up")
            for i in range(config.num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, f"{name}_block{i}", channels, attends=attends)

        h = nn.silu(style.norm(h.shape[-1], "out_norm")(h.astype(jnp.float32)))
        zeros = nn.initializers.zeros
        return Conv(config.out_channels, kernel_init=zeros, name="out_conv")(h)

    def _embedding(self, t, y, augment):
        """Of the noise level, the class and the augmentation, float32 [B, E]."""
        config, width = self.config, self.config.embedding_channels

        def linear(channels, name, use_bias=True):
            return nn.Dense(channels, use_bias=use_bias, dtype=jnp.float32, name=name)

        emb = timestep_embedding(t, config.model_channels)
        told = config.augmented(augment, len(t))
        if config.augment_dim:
            emb = emb + linear(config.model_channels, "map_augment", False)(told)
        emb = linear(width, "map_layer1")(nn.silu(linear(width, "map_layer0")(emb)))
        if y is not None:
            emb = emb + linear(width, "map_label", False)(config.one_hot(y))
        return nn.silu(emb)
