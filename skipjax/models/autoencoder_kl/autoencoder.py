"""AutoencoderKL of diffusers in Flax, the autoencoder of latent diffusion (Rombach et al. 2022,
arXiv:2112.10752).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from skipjax.models.autoencoder_kl.config import AutoencoderKLArguments
from skipjax.models.blocks import GroupNorm
from skipjax.models.config import FlaxConfig
from skipjax.models.conv import Conv
from skipjax.models.unet2d.blocks import DownBlock, MidBlock, Parts, UpBlock

EPS = 1e-6  # of all its group norms


@dataclass(frozen=True)
class AutoencoderKLConfig(AutoencoderKLArguments, FlaxConfig):
    """Architecture of an AutoencoderKL, and what it computes; `AutoencoderKLArguments` has the
    arguments.
    """

    def encode(self, params: Any, x: jax.Array, *, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Mean and log variance of the latents, one behind the other, neither scaled nor clamped.

        Args:
            params: As `init` makes them.
            x: Samples in [-1, 1], float [B, H, W, in_channels]; H and W divisible by `factor`.
            dtype: To compute in: float32 or bfloat16. Norms, softmax and the last layers compute
                in float32 all the same.

        Returns:
            float32 [B, h, w, 2 latent_channels].
        """
        return self.module(dtype).apply({"params": params}, x, method="encode")

    def decode(self, params: Any, z: jax.Array, *, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Samples of latents that are not scaled.

        Args:
            params: As `init` makes them.
            z: Latents, float [B, h, w, latent_channels].
            dtype: As in `encode`.

        Returns:
            float32 [B, H, W, out_channels].
        """
        return self.module(dtype).apply({"params": params}, z, method="decode")

    def module(self, dtype: DTypeLike = jnp.float32, remat: bool = False) -> Any:
        """The Flax module."""
        return AutoencoderKL(self, jnp.dtype(dtype), remat)

    def example(self) -> tuple[Any, ...]:
        """The least argument that the module takes: a sample."""
        return (jnp.zeros((1, self.factor, self.factor, self.in_channels)),)


class AutoencoderKL(nn.Module):
    """An encoder and a decoder.

    Args:
        config: The architecture.
        dtype: What the blocks compute in. Params are made in float32, and may be given in any
            float dtype.
        remat: Whether blocks are computed again in the backward pass instead of remembered.
    """

    config: AutoencoderKLConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    def setup(self):
        config = self.config
        parts = Parts(
            groups=config.norm_num_groups,
            eps=EPS,
            activation=config.act_fn,
            padding=0,
            dtype=self.dtype,
            remat=self.remat,
        )
        self.encoder, self.decoder = Encoder(config, parts), Decoder(config, parts)
        if config.use_quant_conv:
            self.quant_conv = Conv(2 * config.latent_channels, 1)
        if config.use_post_quant_conv:
            self.post_quant_conv = Conv(config.latent_channels, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        """What the decoder makes of the mean that the encoder gives: all of its layers."""
        return self.decode(jnp.split(self.encode(x), 2, axis=-1)[0])

    def encode(self, x: jax.Array) -> jax.Array:
        """As in `AutoencoderKLConfig`."""
        h = self.encoder(x)
        return self.quant_conv(h) if self.config.use_quant_conv else h

    def decode(self, z: jax.Array) -> jax.Array:
        """As in `AutoencoderKLConfig`."""
        return self.decoder(self.post_quant_conv(z) if self.config.use_post_quant_conv else z)


class Encoder(nn.Module):
    """From samples [B, H, W, C] to float32 [B, h, w, 2 latent_channels]."""

    config: AutoencoderKLConfig
    parts: Parts

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config, parts = self.config, self.parts
        h = Conv(config.block_out_channels[0], dtype=parts.dtype, name="conv_in")(x)
        for i, level in enumerate(config.encoder):
            h = DownBlock(parts, level, name=f"down_blocks_{i}")(h)[-1]
        h = MidBlock(parts, config.middle, name="mid_block")(h)
        return _last(parts, 2 * config.latent_channels, h)


class Decoder(nn.Module):
    """From latents [B, h, w, C] to float32 [B, H, W, out_channels]."""

    config: AutoencoderKLConfig
    parts: Parts

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        config, parts = self.config, self.parts
        h = Conv(config.block_out_channels[-1], dtype=parts.dtype, name="conv_in")(z)
        h = MidBlock(parts, config.middle, name="mid_block")(h)
        for i, level in enumerate(config.decoder):
            h = UpBlock(parts, level, name=f"up_blocks_{i}")(h)
        return _last(parts, config.out_channels, h)


def _last(parts: Parts, channels: int, h: jax.Array) -> jax.Array:
    """The last layers of either: norm, SiLU, convolution; in float32."""
    h = GroupNorm(parts.groups, parts.eps, name="conv_norm_out")(h.astype(jnp.float32))
    return Conv(channels, name="conv_out")(nn.silu(h))
