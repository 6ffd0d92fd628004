"""EDM's DDPM++ and NCSN++ (Song et al. 2021, arXiv:2011.13456; arXiv:2206.00364, table 7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from skipjax.models.blocks import timestep_embedding
from skipjax.models.conv import Conv
from skipjax.models.edm.blocks import Block, Style
from skipjax.models.edm.config import PixelConfig, check_taps
from skipjax.models.edm.resample import down, margin_of, up


@dataclass(frozen=True)
class SongUNetConfig(PixelConfig):
    """EDM's DDPM++ (embedding_type "positional", encoder_type "standard") and NCSN++ ("fourier",
    "residual"), after Song et al. 2021 (arXiv:2011.13456).

    Args:
        embedding_type: Of the noise level: "positional" or "fourier".
        channel_mult_noise: Width of that, in units of `model_channels`.
        encoder_type: How x itself goes down beside the blocks: "standard" for not at all, "skip"
            or "residual".
        decoder_type: How the output is made: "standard" of the last level, or "skip" of all.
        resample_filter: Of what halves and doubles the side.
    """

    model_channels: int = 128
    channel_mult: Sequence[int] = (1, 2, 2, 2)
    num_blocks: int = 4
    attn_resolutions: Sequence[int] = (16,)
    dropout: float = 0.10
    embedding_type: str = "positional"
    channel_mult_noise: int = 1
    encoder_type: str = "standard"
    decoder_type: str = "standard"
    resample_filter: Sequence[float] = (1, 1)

    def __post_init__(self):
        super().__post_init__()
        for name, accepted in {
            "embedding_type": ("positional", "fourier"),
            "encoder_type": ("standard", "skip", "residual"),
            "decoder_type": ("standard", "skip"),
        }.items():
            if getattr(self, name) not in accepted:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(accepted)}"
                )
        check_taps(self.resample_filter)

    @property
    def noise_channels(self) -> int:
        """Width of the embedding of the noise level alone."""
        return self.model_channels * self.channel_mult_noise

    def module(self, dtype: DTypeLike = jnp.float32, remat: bool = False) -> Any:
        """The Flax module."""
        return SongUNet(self, jnp.dtype(dtype), remat)


class SongUNet(nn.Module):
    """The raw network F(x, t, y).

    Args:
        config: The architecture.
        dtype: What the blocks compute in; embeddings, norms, softmax and the last layers compute
            in float32 all the same.
        remat: Whether blocks are computed again in the backward pass.
    """

    config: SongUNetConfig
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
        config, dtype = self.config, self.dtype
        config.check(x, y)
        emb = self._embedding(t, y, augment)
        taps = config.resample_filter
        dropout = config.dropout if train else 0.0
        style = Style(taps=taps, dropout=dropout, dtype=dtype)
        make = nn.remat(Block) if self.remat else Block

        def block(h, name, channels, resample="none", attends=False):
            return make(style, channels, resample, attends, name=name)(h, emb)

        aux = x.astype(dtype)
        h = Conv(config.model_channels, dtype=dtype, name=f"enc_{_named(config.sides[0])}_conv")(
            aux
        )
        skips = [h]
        for level, (side, channels) in enumerate(zip(config.sides, config.channels, strict=True)):
            name = f"enc_{_named(side)}"
            if level:
                h = block(h, f"{name}_down", h.shape[-1], "down")
                if config.encoder_type == "skip":
                    aux = down(aux, taps)
                    h = h + Conv(h.shape[-1], 1, dtype=dtype, name=f"{name}_aux_skip")(aux)
                elif config.encoder_type == "residual":
                    h = aux = (h + self._halved(aux, h.shape[-1], name)) * sqrt(0.5)
                skips.append(h)
            for i in range(config.num_blocks):
                h = block(h, f"{name}_block{i}", channels, attends=side in config.attn_resolutions)
                skips.append(h)

        out = None
        for level, (side, channels) in reversed(
            list(enumerate(zip(config.sides, config.channels, strict=True)))
        ):
            name, coarsest = f"dec_{_named(side)}", level == len(config.sides) - 1
            if coarsest:
                h = block(h, f"{name}_in0", h.shape[-1], attends=True)
                h = block(h, f"{name}_in1", h.shape[-1])
            else:
                h = block(h, f"{name}_up", h.shape[-1], "up")
            for i in range(config.num_blocks + 1):
                attends = i == config.num_blocks and side in config.attn_resolutions
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, f"{name}_block{i}", channels, attends=attends)
            if config.decoder_type == "skip" or not level:
                said = nn.silu(style.norm(channels, f"{name}_aux_norm")(h.astype(jnp.float32)))
                zeros = nn.initializers.zeros
                conv = Conv(config.out_channels, kernel_init=zeros, name=f"{name}_aux_conv")
                said = conv(said)
                out = said if out is None else said + up(out, taps)
        assert out is not None
        return out

    def _embedding(self, t, y, augment):
        """Of the noise level, the class and the augmentation, float32 [B, E]."""
        config, width = self.config, self.config.embedding_channels
        noise = config.noise_channels
        if config.embedding_type == "positional":
            emb = timestep_embedding(t, noise, freq_shift=1, sine_first=True)
        else:
            emb = Fourier(noise // 2, name="map_noise")(t)
        if y is not None:
            label = config.one_hot(y) * sqrt(config.label_dim)
            emb = emb + nn.Dense(noise, dtype=jnp.float32, name="map_label")(label)
        told = config.augmented(augment, len(t))
        if config.augment_dim:
            linear = nn.Dense(noise, use_bias=False, dtype=jnp.float32, name="map_augment")
            emb = emb + linear(told)
        emb = nn.silu(nn.Dense(width, dtype=jnp.float32, name="map_layer0")(emb))
        return nn.silu(nn.Dense(width, dtype=jnp.float32, name="map_layer1")(emb))

    def _halved(self, aux, channels, name):
        """A convolution and the filter behind it in one: it looks beyond the border as both do."""
        taps = self.config.resample_filter
        around = margin_of(taps)
        wide = jnp.pad(aux, ((0, 0), (around, around), (around, around), (0, 0)))
        conv = Conv(channels, dtype=self.dtype, name=f"{name}_aux_residual")
        return down(conv(wide), taps, margin=False)


class Fourier(nn.Module):
    """[sin(2 pi t f), cos(2 pi t f)] with frequencies f that are drawn once, not learned."""

    number: int

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        freqs = self.param("freqs", nn.initializers.normal(16.0), (self.number,))
        freqs = jax.lax.stop_gradient(freqs.astype(jnp.float32))
        angle = t.astype(jnp.float32)[:, None] * (2 * jnp.pi * freqs)[None, :]
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def _named(side: int) -> str:
    return f"{side}x{side}"
