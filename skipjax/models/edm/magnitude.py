"""EDM2's U-Net, whose layers preserve magnitudes (Karras et al. 2024, arXiv:2312.02696, config G).

There, each weight is divided by its own size whenever it is used. Here that is done once, when a
file is read, with the gains in it: params are the weights that are multiplied with. Activations
have unit magnitude on expectation: sums and concatenations are weighted so that they keep it.
Submodules carry EDM2's names with `.` written as `_`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from skipjax.models.attention import attention
from skipjax.models.conv import Conv
from skipjax.models.edm.config import EdmConfig, check_taps
from skipjax.models.edm.resample import down, up

# Weights of unit magnitude, as they are multiplied with.
UNIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
ZEROS = nn.initializers.zeros


@dataclass(frozen=True)
class MagnitudeUNetConfig(EdmConfig):
    """EDM2's architecture, in the names of its own arguments.

    Args:
        img_channels: Channels of x.
        channel_mult_noise: Width of the embedding of the noise level, in units of
            `model_channels`; None for that of the first level.
        channel_mult_emb: Width of the embedding, likewise; None for that of the widest level.
        label_balance: Weight of the class in its sum with the noise level, 0 .. 1.
        concat_balance: Weight of what skips in its concatenation with what came the whole way.
        resample_filter: Of what halves and doubles the side.
        channels_per_head: Of attention.
        res_balance: Weight of the residual branch in its sum with what passes by.
        attn_balance: Weight of attention, likewise.
        clip_act: Bound of activations behind every block; None for none.
    """

    img_channels: int = 4
    channel_mult_noise: float | None = None
    channel_mult_emb: float | None = None
    label_balance: float = 0.5
    concat_balance: float = 0.5
    resample_filter: Sequence[float] = (1, 1)
    channels_per_head: int = 64
    res_balance: float = 0.3
    attn_balance: float = 0.3
    clip_act: float | None = 256

    def __post_init__(self):
        super().__post_init__()
        check_taps(self.resample_filter)
        for name in ("label_balance", "concat_balance", "res_balance", "attn_balance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be in 0 .. 1")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one sample of what is diffused."""
        return self.img_resolution, self.img_resolution, self.img_channels

    @property
    def noise_channels(self) -> int:
        """Width of the embedding of the noise level alone."""
        mult = self.channel_mult_noise
        return self.channels[0] if mult is None else int(self.model_channels * mult)

    @property
    def embedding_channels(self) -> int:
        """Width of the embedding of the noise level and the class."""
        mult = self.channel_mult_emb
        return max(self.channels) if mult is None else int(self.model_channels * mult)

    def module(self, dtype: DTypeLike = jnp.float32, remat: bool = False) -> Any:
        """The Flax module."""
        return MagnitudeUNet(self, jnp.dtype(dtype), remat)


class MagnitudeUNet(nn.Module):
    """The raw network F(x, t, y); arguments as of `SongUNet`."""

    config: MagnitudeUNetConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, y: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """float32 [B, H, W, C] of x [B, H, W, C], c_noise t [B] and labels y [B]."""
        config = self.config
        config.check(x, y)
        emb = self._embedding(t, y)
        make = nn.remat(Block) if self.remat else Block

        def block(h, name, channels, resample="none", attends=False):
            decoder = name.startswith("dec")
            module = make(
                config, channels, decoder, resample, attends, train, self.dtype, name=name
            )
            return module(h, emb)

        def conv(h, channels, name, dtype=self.dtype, init=UNIT):
            return Conv(channels, dtype=dtype, kernel_init=init, use_bias=False, name=name)(h)

        levels = list(zip(config.sides, config.channels, strict=True))
        skips = []
        # A channel of ones stands for the biases that no layer has.
        h = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1).astype(self.dtype)
        for level, (side, channels) in enumerate(levels):
            name, attends = f"enc_{side}x{side}", side in config.attn_resolutions
            if level:
                h = block(h, f"{name}_down", h.shape[-1], "down")
            else:
                h = conv(h, channels, f"{name}_conv")
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
                h = joined(h, skips.pop(), config.concat_balance)
                h = block(h, f"{name}_block{i}", channels, attends=attends)
        return conv(h.astype(jnp.float32), config.img_channels, "out_conv", jnp.float32, ZEROS)

    def _embedding(self, t, y):
        """Of the noise level and the class, float32 [B, E]."""
        config, width = self.config, self.config.embedding_channels
        emb = _linear(width, "emb_noise")(Fourier(config.noise_channels, name="emb_fourier")(t))
        if y is not None:
            label = config.one_hot(y) * sqrt(config.label_dim)
            emb = summed(emb, _linear(width, "emb_label")(label), config.label_balance)
        return silu(emb)


class Block(nn.Module):
    """The block of the encoder or the decoder, with attention where it is wanted.

    Args:
        config: The architecture.
        channels: Its width.
        decoder: Whether it is one of the decoder, whose skip path has its convolution behind the
            branch and no norm.
        resample: "none", "up" or "down".
        attends: Whether there is attention.
        train: Whether dropout is active.
        dtype: What it computes in.
    """

    config: MagnitudeUNetConfig
    channels: int
    decoder: bool = False
    resample: str = "none"
    attends: bool = False
    train: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, emb: jax.Array) -> jax.Array:
        config, width = self.config, self.channels
        if self.resample != "none":
            x = {"up": up, "down": down}[self.resample](x, config.resample_filter)

        def conv(h, channels, size, name):
            module = Conv(
                channels, size, dtype=self.dtype, kernel_init=UNIT, use_bias=False, name=name
            )
            return module(h)

        def passed(x):
            return conv(x, width, 1, "conv_skip") if x.shape[-1] != width else x

        if not self.decoder:
            x = normalized(passed(x))
        h = conv(silu(x), width, 3, "conv_res0")
        gain = _linear(width, "emb_linear", ZEROS)(emb) + 1
        h = silu(h * gain.astype(h.dtype)[:, None, None, :])
        h = nn.Dropout(config.dropout if self.train else 0.0, deterministic=False)(h)
        h = conv(h, width, 3, "conv_res1")
        if self.decoder:
            x = passed(x)
        x = summed(x, h, config.res_balance)

        heads = width // config.channels_per_head if self.attends else 0
        if heads:
            b, height, wide, _ = x.shape
            qkv = conv(x, 3 * width, 1, "attn_qkv").reshape(b, height * wide, heads, -1, 3)
            q, k, v = (normalized(part) for part in jnp.moveaxis(qkv, -1, 0))
            y = attention(q, k, v).reshape(x.shape)
            x = summed(x, conv(y, width, 1, "attn_proj"), config.attn_balance)
        bound = config.clip_act
        return x if bound is None else jnp.clip(x, -bound, bound)


class Fourier(nn.Module):
    """sqrt(2) cos(t f + p) with frequencies f and phases p that are drawn once, not learned."""

    number: int

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        freqs = self.param("freqs", nn.initializers.normal(2 * pi), (self.number,))
        phases = self.param("phases", nn.initializers.uniform(2 * pi), (self.number,))
        freqs, phases = (
            jax.lax.stop_gradient(a.astype(jnp.float32))[None, :] for a in (freqs, phases)
        )
        return jnp.cos(t.astype(jnp.float32)[:, None] * freqs + phases) * sqrt(2)


def _linear(channels: int, name: str, init: Any = UNIT) -> nn.Dense:
    return nn.Dense(channels, use_bias=False, dtype=jnp.float32, kernel_init=init, name=name)


def silu(x: jax.Array) -> jax.Array:
    """SiLU, scaled to unit magnitude of what comes of N(0, 1)."""
    return nn.silu(x) / 0.596


def summed(a: jax.Array, b: jax.Array, t: float) -> jax.Array:
    """(1 - t) a + t b, over sqrt((1 - t)^2 + t^2)."""
    return ((1 - t) * a + t * b) / sqrt((1 - t) ** 2 + t**2)


def joined(a: jax.Array, b: jax.Array, t: float) -> jax.Array:
    """a and b side by side, weighted so that they have parts 1 - t and t of the result, and it
    unit magnitude.
    """
    wide, other = a.shape[-1], b.shape[-1]
    scale = sqrt((wide + other) / ((1 - t) ** 2 + t**2))
    parts = [a * (scale * (1 - t) / sqrt(wide)), b * (scale * t / sqrt(other))]
    return jnp.concatenate(parts, axis=-1)


def normalized(x: jax.Array) -> jax.Array:
    """x over 1e-4 + its root mean square along the channels, the last axis."""
    square = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return (x.astype(jnp.float32) / (1e-4 + jnp.sqrt(square))).astype(x.dtype)
