"""The half that the U-Net and the classifier have in common: time in, levels down, middle."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from skipjax.models.blocks import AttentionBlock, Downsample, ResBlock, timestep_embedding
from skipjax.models.config import EncoderConfig
from skipjax.models.conv import Conv


def embed_time(config: EncoderConfig, t: jax.Array) -> jax.Array:
    """The time embedding, float32 [B, 4 model_channels], of times t, float [B]."""
    width = config.embedding_channels
    emb = timestep_embedding(t, config.model_channels)
    emb = nn.Dense(width, dtype=jnp.float32, name="time_embed_0")(emb)
    return nn.Dense(width, dtype=jnp.float32, name="time_embed_2")(nn.silu(emb))


@dataclass(frozen=True)
class Encoder:
    """The blocks of one network and how they follow each other.

    Not a module of its own, so that names stay as flat as guided-diffusion's: whoever calls it
    inside `nn.compact` gets the blocks as submodules.

    Args:
        config: The architecture.
        emb: Embedding of the time, and of the class where there is one, float32 [B, E].
        dtype: What the blocks compute in.
        remat: Whether blocks are computed again in the backward pass instead of remembered.
        train: Whether dropout is active.
    """

    config: EncoderConfig
    emb: jax.Array
    dtype: jnp.dtype
    remat: bool
    train: bool

    def down(self, x: jax.Array) -> list[jax.Array]:
        """What every input block gives for x [B, H, W, C], the finest first."""
        config = self.config
        h = Conv(config.channels[0], dtype=self.dtype, name="input_blocks_0_0")(x)
        features = [h]
        for level, channels in enumerate(config.channels):
            for _ in range(config.num_res_blocks):
                block = f"input_blocks_{len(features)}"
                h = self.res_block(h, channels, f"{block}_0")
                if 2**level in config.attention_resolutions:
                    h = self.attention(h, f"{block}_1")
                features.append(h)
            if level < len(config.channels) - 1:
                name = f"input_blocks_{len(features)}_0"
                if config.resblock_updown:
                    h = self.res_block(h, channels, name, "down")
                else:
                    h = Downsample(config.conv_resample, self.dtype, name=name)(h)
                features.append(h)
        return features

    def middle(self, h: jax.Array) -> jax.Array:
        """The blocks at the coarsest level that follow the last input block."""
        h = self.res_block(h, h.shape[-1], "middle_block_0")
        h = self.attention(h, "middle_block_1")
        return self.res_block(h, h.shape[-1], "middle_block_2")

    def res_block(
        self, h: jax.Array, channels: int, name: str, resample: str = "none"
    ) -> jax.Array:
        """A residual block that widens to `channels`; resample is "none", "up" or "down"."""
        config = self.config
        block = nn.remat(ResBlock) if self.remat else ResBlock
        dropout = config.dropout if self.train else 0.0
        scale_shift = config.use_scale_shift_norm
        module = block(channels, dropout, scale_shift, resample, self.dtype, name=name)
        return module(h, self.emb)

    def attention(self, h: jax.Array, name: str, *, decoder: bool = False) -> jax.Array:
        """An attention block, with the decoder's number of heads where it is one of it."""
        config = self.config
        block = nn.remat(AttentionBlock) if self.remat else AttentionBlock
        heads = config.heads(h.shape[-1], decoder=decoder)
        return block(heads, config.use_new_attention_order, self.dtype, name=name)(h)


def check_keys(config: Any, condition: dict[str, jax.Array] | None) -> dict[str, jax.Array]:
    """A condition that holds what the network takes, and nothing else.

    Args:
        config: With `takes`.
        condition: None is an empty one.

    Raises:
        ValueError: If something is missing or not wanted; says what.
    """
    given = dict(condition or {})
    wrong = [f"lacks {key}" for key in config.takes if key not in given]
    wrong += [f"holds {key}" for key in given if key not in config.takes]
    if wrong:
        raise ValueError(
            f"the condition {' and '.join(wrong)}: this network takes "
            f"{', '.join(config.takes) or 'none'}"
        )
    return given


def check_pictures(config: Any, x: jax.Array) -> None:
    """Checks that x is [B, H, W, C] with sizes that the network can take.

    Args:
        config: With `in_channels`, and the `factor` by which the sizes must divide, or a
            `multiple` that is less.
        x: The pictures.

    Raises:
        ValueError: If it is not; says what it is and what it must be.
    """
    if x.ndim != 4 or x.shape[-1] != config.in_channels:
        raise ValueError(
            f"x is {list(x.shape)}: it must be [batch, height, width, {config.in_channels}]"
        )
    multiple = getattr(config, "multiple", config.factor)
    if x.shape[1] % multiple or x.shape[2] % multiple:
        raise ValueError(
            f"x is {x.shape[1]} x {x.shape[2]} pixels: height and width must be multiples of "
            f"{multiple} for the {config.factor.bit_length()} levels of the network"
        )


def beside(x: jax.Array, concat: jax.Array | None) -> jax.Array:
    """x [B, H, W, C] with a condition [B, H, W, C'] on further channels, if there is one.

    Raises:
        ValueError: If it is of another batch or size.
    """
    if concat is None:
        return x
    if concat.shape[:3] != x.shape[:3]:
        raise ValueError(
            f"concat is {list(concat.shape)}: it must be of the batch and size of x, "
            f"{list(x.shape)}"
        )
    return jnp.concatenate([x, concat.astype(x.dtype)], axis=-1)
