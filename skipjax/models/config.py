"""What fixes the shape of an ADM network, as frozen data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

GROUPS = 32  # of every group norm in ADM


class FlaxConfig:
    """What a config has that a Flax module is made by."""

    def module(self, dtype: DTypeLike = jnp.float32, remat: bool = False) -> Any:
        """The Flax module."""
        raise NotImplementedError

    def example(self) -> tuple[Any, ...]:
        """The least arguments that the module takes."""
        raise NotImplementedError

    def init(self, key: jax.Array) -> Any:
        """Params drawn at random, nested dict of float32 arrays."""
        return self.module().init(key, *self.example())["params"]


@dataclass(frozen=True)
class EncoderConfig(FlaxConfig):
    """What the U-Net and the classifier have in common, in guided-diffusion's argument names.

    Args:
        image_size: Pixels of the pictures it is meant for: a side of square ones, or (height,
            width).
        in_channels: Channels of x_t.
        model_channels: Base width; 4 times as many carry the time embedding.
        out_channels: Channels of the output; of a U-Net whose variance is learned, twice
            `in_channels`; of a classifier, the number of classes.
        num_res_blocks: Residual blocks per level of the encoder (the decoder has one more).
        attention_resolutions: Downsampling factors (1, 2, 4, ...) at which attention is used.
        dropout: Rate inside residual blocks while training, in [0, 1).
        channel_mult: Width of each level in units of `model_channels`; one level per entry.
        conv_resample: Whether plain down- and upsampling have a convolution of their own.
        num_heads: Attention heads, used where `num_head_channels` is -1.
        num_head_channels: Channels per attention head, or -1 to fix the number of heads instead.
        num_heads_upsample: Heads in the decoder, or -1 for `num_heads`.
        use_scale_shift_norm: Whether the embedding scales and shifts (FiLM) or is added.
        resblock_updown: Whether residual blocks do the resampling.
        use_new_attention_order: Whether qkv is laid out q|k|v first, then heads.

    Raises:
        ValueError: For a value that no network can be built from.
    """

    image_size: int | tuple[int, int]
    in_channels: int
    model_channels: int
    out_channels: int
    num_res_blocks: int
    attention_resolutions: Sequence[int]
    dropout: float = 0.0
    channel_mult: Sequence[float] = (1, 2, 4, 8)
    conv_resample: bool = True
    num_heads: int = 1
    num_head_channels: int = -1
    num_heads_upsample: int = -1
    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    use_new_attention_order: bool = False

    def __post_init__(self):
        # JSON has no tuples, and a config must hash to be static under jit.
        object.__setattr__(self, "attention_resolutions", tuple(self.attention_resolutions))
        object.__setattr__(self, "channel_mult", tuple(self.channel_mult))
        if not isinstance(self.image_size, int):
            h, w = self.image_size
            object.__setattr__(self, "image_size", h if h == w else (h, w))
        if not self.channel_mult:
            raise ValueError("channel_mult is empty: give one width per level, e.g. (1, 2, 4)")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: it must be in [0, 1)")
        for level, channels in enumerate(self.channels):
            if channels % GROUPS:
                raise ValueError(
                    f"level {level} has {channels} channels ({self.channel_mult[level]} x "
                    f"{self.model_channels}): group norm needs a multiple of {GROUPS}"
                )
            if self._attends(level) and not self._splits_into_heads(channels):
                raise ValueError(
                    f"level {level}: {channels} channels do not split into heads of one width "
                    f"(num_heads {self.num_heads}, num_head_channels {self.num_head_channels}, "
                    f"num_heads_upsample {self.num_heads_upsample})"
                )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures it is meant for."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one picture."""
        return *self.size, self.in_channels

    @property
    def channels(self) -> tuple[int, ...]:
        """Width of each level, finest first."""
        return tuple(int(mult * self.model_channels) for mult in self.channel_mult)

    @property
    def embedding_channels(self) -> int:
        """Width of the time and class embedding."""
        return 4 * self.model_channels

    @property
    def factor(self) -> int:
        """Pixels of the picture along a side of one of the coarsest level."""
        return 2 ** (len(self.channel_mult) - 1)

    def heads(self, channels: int, *, decoder: bool = False) -> int:
        """Number of attention heads of a block of that width."""
        if self.num_head_channels != -1:
            return channels // self.num_head_channels
        return (
            self.num_heads_upsample
            if decoder and self.num_heads_upsample != -1
            else self.num_heads
        )

    def _attends(self, level: int) -> bool:
        return 2**level in self.attention_resolutions or level == len(self.channel_mult) - 1

    def _splits_into_heads(self, channels: int) -> bool:
        if self.num_head_channels != -1:
            return self.num_head_channels > 0 and channels % self.num_head_channels == 0
        heads = self.heads(channels), self.heads(channels, decoder=True)
        return all(number > 0 and channels % number == 0 for number in heads)


def evaluate(module: Any, params: Any, arguments: tuple, dropout: jax.Array | None) -> jax.Array:
    """What a Flax module makes of its arguments; with a key of dropout, as in training."""
    rngs = None if dropout is None else {"dropout": dropout}
    return module.apply({"params": params}, *arguments, train=dropout is not None, rngs=rngs)
