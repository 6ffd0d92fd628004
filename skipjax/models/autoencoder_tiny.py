"""AutoencoderTiny of diffusers in Flax: TAESD, which approximates the autoencoder of Stable
Diffusion by few narrow layers without norms (github.com/madebyollin/taesd).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from skipjax.models.blocks import ACTIVATIONS
from skipjax.models.config import FlaxConfig
from skipjax.models.conv import Conv

BOUND = 3.0  # of latents: larger ones are squashed


@dataclass(frozen=True)
class AutoencoderTinyConfig(FlaxConfig):
    """Architecture of an AutoencoderTiny, in diffusers' argument names and with its defaults, and
    what it computes.

    Args:
        in_channels: Channels of what is encoded.
        out_channels: Channels of what is decoded.
        encoder_block_out_channels: Width of each level of the encoder, finest first: all alike.
        decoder_block_out_channels: Width of each level of the decoder, coarsest first: all alike.
        act_fn: Activation inside blocks: relu, silu, swish, mish or gelu.
        upsample_fn: "nearest".
        latent_channels: Channels of a latent.
        upsampling_scaling_factor: 2.
        num_encoder_blocks: Blocks of each level of the encoder, finest first.
        num_decoder_blocks: Blocks of each level of the decoder, coarsest first.
        latent_magnitude: For latents kept in 8 bits, which nothing here does.
        latent_shift: Likewise.
        force_upcast: As in `AutoencoderKLArguments`.
        scaling_factor: s of what is diffused, s (z - shift): 1, as it is trained on that.
        shift_factor: The shift.

    Raises:
        ValueError: For a value that no network can be built from.
    """

    in_channels: int = 3
    out_channels: int = 3
    encoder_block_out_channels: Sequence[int] = (64, 64, 64, 64)
    decoder_block_out_channels: Sequence[int] = (64, 64, 64, 64)
    act_fn: str = "relu"
    upsample_fn: str = "nearest"
    latent_channels: int = 4
    upsampling_scaling_factor: int = 2
    num_encoder_blocks: Sequence[int] = (1, 3, 3, 3)
    num_decoder_blocks: Sequence[int] = (3, 3, 3, 1)
    latent_magnitude: float = 3
    latent_shift: float = 0.5
    force_upcast: bool = False
    scaling_factor: float = 1.0
    shift_factor: float = 0.0

    def __post_init__(self):
        # JSON has no tuples, and a config must hash to be static under jit.
        for part in ("encoder", "decoder"):
            for name in (f"{part}_block_out_channels", f"num_{part}_blocks"):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, known in (
            ("act_fn", tuple(ACTIVATIONS)),
            ("upsample_fn", ("nearest",)),
            ("upsampling_scaling_factor", (2,)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: it must be "
                    f"{'one of ' if len(known) > 1 else ''}{', '.join(map(str, known))}"
                )
        for name in ("in_channels", "out_channels", "latent_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        levels = len(self.num_encoder_blocks)
        for part in ("encoder", "decoder"):
            widths, blocks = f"{part}_block_out_channels", f"num_{part}_blocks"
            if not len(getattr(self, widths)) == len(getattr(self, blocks)) == levels > 0:
                raise ValueError(
                    f"{widths} has {len(getattr(self, widths))} entries, {blocks} "
                    f"{len(getattr(self, blocks))}, and num_encoder_blocks {levels}: there must "
                    "be as many, one or more"
                )
            if len({*getattr(self, widths)}) > 1 or min(getattr(self, widths)) < 1:
                raise ValueError(
                    f"{widths} is {getattr(self, widths)}: they must be alike, and at least 1"
                )
            if min(getattr(self, blocks)) < 0:
                raise ValueError(f"{blocks} is {getattr(self, blocks)}: they must be at least 0")
        if not self.scaling_factor > 0:
            raise ValueError(f"scaling_factor is {self.scaling_factor}: it must be positive")

    @property
    def factor(self) -> int:
        """Pixels of a picture along a side of a latent."""
        return 2 ** (len(self.num_encoder_blocks) - 1)

    def scaled(self, z: jax.Array) -> jax.Array:
        """What is diffused of latents z [B, h, w, C]: scaling_factor (z - shift_factor)."""
        return (z - self.shift_factor) * self.scaling_factor

    def unscaled(self, z: jax.Array) -> jax.Array:
        """Latents of what is diffused, z [B, h, w, C]: the inverse of `scaled`."""
        return z / self.scaling_factor + self.shift_factor

    def encode(self, params: Any, x: jax.Array, *, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Latents, not scaled.

        Args:
            params: As `init` makes them.
            x: Samples in [-1, 1], float [B, H, W, in_channels]; H and W divisible by `factor`.
            dtype: To compute in: float32 or bfloat16; the last layer in float32 all the same.

        Returns:
            float32 [B, h, w, latent_channels].
        """
        return self.module(dtype).apply({"params": params}, x, method="encode")

    def decode(self, params: Any, z: jax.Array, *, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Samples, float32 [B, H, W, out_channels], of latents that are not scaled, z float
        [B, h, w, latent_channels]; params and dtype as in `encode`.
        """
        return self.module(dtype).apply({"params": params}, z, method="decode")

    def module(self, dtype: DTypeLike = jnp.float32, remat: bool = False) -> Any:
        """The Flax module; it has so few layers that `remat` changes nothing."""
        return AutoencoderTiny(self, jnp.dtype(dtype))

    def example(self) -> tuple[Any, ...]:
        """The least argument that the module takes: a sample."""
        return (jnp.zeros((1, self.factor, self.factor, self.in_channels)),)


class AutoencoderTiny(nn.Module):
    """An encoder and a decoder.

    Args:
        config: The architecture.
        dtype: What all but the last layers compute in. Params are made in float32, and may be
            given in any float dtype.
    """

    config: AutoencoderTinyConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.encoder = Encoder(self.config, self.dtype)
        self.decoder = Decoder(self.config, self.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """What the decoder makes of what the encoder gives."""
        return self.decode(self.encode(x))

    def encode(self, x: jax.Array) -> jax.Array:
        """As in `AutoencoderTinyConfig`."""
        return self.encoder((x + 1) / 2)

    def decode(self, z: jax.Array) -> jax.Array:
        """As in `AutoencoderTinyConfig`."""
        return 2 * self.decoder(BOUND * jnp.tanh(z / BOUND)) - 1


class Encoder(nn.Module):
    """From samples in [0, 1] to latents, float32 [B, h, w, C]."""

    config: AutoencoderTinyConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config, number = self.config, count()
        width = config.encoder_block_out_channels[0]
        h = Conv(width, dtype=self.dtype, name=f"layers_{next(number)}")(x)
        for level, blocks in enumerate(config.num_encoder_blocks):
            if level:
                name = f"layers_{next(number)}"
                h = Conv(width, stride=2, dtype=self.dtype, use_bias=False, name=name)(h)
            for _ in range(blocks):
                h = Block(config.act_fn, self.dtype, name=f"layers_{next(number)}")(h)
        return Conv(config.latent_channels, name=f"layers_{next(number)}")(h)


class Decoder(nn.Module):
    """From latents, squashed, to samples in [0, 1], float32 [B, H, W, C]."""

    config: AutoencoderTinyConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        config, number = self.config, count()
        width = config.decoder_block_out_channels[0]
        h = Conv(width, dtype=self.dtype, name=f"layers_{next(number)}")(z)
        h = ACTIVATIONS[config.act_fn](h)
        next(number)  # the activation's
        for level, blocks in enumerate(config.num_decoder_blocks):
            if level:
                next(number)  # that of making it larger
                name = f"layers_{next(number)}"
                h = Conv(width, upsampled=True, dtype=self.dtype, use_bias=False, name=name)(h)
            for _ in range(blocks):
                h = Block(config.act_fn, self.dtype, name=f"layers_{next(number)}")(h)
        return Conv(config.out_channels, name=f"layers_{next(number)}")(h)


class Block(nn.Module):
    """Three convolutions with a residual path, and ReLU."""

    activation: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        activation, h = ACTIVATIONS[self.activation], x
        for i in (0, 2, 4):
            h = Conv(x.shape[-1], dtype=self.dtype, name=f"conv_{i}")(activation(h) if i else h)
        return nn.relu(h + x)
