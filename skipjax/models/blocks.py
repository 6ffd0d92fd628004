"""The parts of U-Nets, as ADM has them (Dhariwal & Nichol 2021, arXiv:2105.05233, section 3).

Arrays are NHWC. Blocks compute in `dtype`; group norms, softmax and embeddings in float32. Params
may be of any float dtype: each is cast to what it is computed in.
Submodules carry guided-diffusion's names with `.` written as `_`, so that a parameter can be
found under the same name in a released checkpoint and here. What diffusers builds otherwise
carries diffusers' names.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from skipjax.models.attention import attention
from skipjax.models.config import GROUPS
from skipjax.models.conv import Conv, Padding, upsample


def timestep_embedding(
    t: jax.Array, channels: int, freq_shift: float = 0.0, sine_first: bool = False
) -> jax.Array:
    """Sinusoids of the time, [cos(t f_i), sin(t f_i)] with f_i = 10000^(-i / (n - freq_shift))
    and n = channels // 2.

    Args:
        t: Times, [B], float, may be fractional.
        channels: Width of the result; an odd one ends in a column of zeros.
        freq_shift: 0 in ADM; 1 in DDPM, where the last frequency is 1 / 10000.
        sine_first: Whether it is [sin, cos], as in DDPM.

    Returns:
        float32 [B, channels].
    """
    half = channels // 2
    # On the host, and rounded where guided-diffusion rounds: at t = 999 the last bit of a
    # frequency is 6e-5 of an angle, and compilers do not agree on it.
    exponent = np.float32(-np.log(10000.0)) * np.arange(half, dtype=np.float32)
    exponent /= np.float32(half - freq_shift)
    frequency = np.exp(exponent.astype(np.float64)).astype(np.float32)
    angle = t.astype(jnp.float32)[:, None] * frequency[None, :]
    waves = [jnp.cos(angle), jnp.sin(angle)]
    embedding = jnp.concatenate(waves[::-1] if sine_first else waves, axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, channels % 2)))


def downsample(x: jax.Array) -> jax.Array:
    """Mean of each 2 x 2 square; x [B, H, W, C] with H and W even."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def enlarge(x: jax.Array, height: int, width: int) -> jax.Array:
    """Bilinear, to any size, pixel i centred at (i + 1/2) / side; x [B, H, W, C]."""
    shape = (x.shape[0], height, width, x.shape[-1])
    # PyTorch's interpolation, which a network was trained with, does not blur what it shrinks.
    return jax.image.resize(x, shape, "bilinear", antialias=False)


RESAMPLE = {"none": lambda x: x, "up": upsample, "down": downsample}
ACTIVATIONS = {
    "silu": nn.silu,
    "swish": nn.silu,
    "mish": jax.nn.mish,
    "gelu": partial(nn.gelu, approximate=False),
    "relu": nn.relu,
}


class GroupNorm(nn.Module):
    """In float32 whatever comes in; the result has the dtype of x."""

    groups: int = GROUPS
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        *batch, channels = x.shape
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        scale, bias = scale.astype(jnp.float32), bias.astype(jnp.float32)
        h = x.astype(jnp.float32).reshape(batch[0], -1, channels)
        width = channels // self.groups

        # Pixels are summed before the channels of a group: the large reduction then runs over
        # contiguous channels, several times faster on a CPU than over [pixels, group] at once.
        def mean(h):
            groups = h.mean(axis=1).reshape(-1, self.groups, width).mean(axis=-1)
            return jnp.repeat(groups, width, axis=-1)[:, None, :]

        h = h - mean(h)
        gain = jax.lax.rsqrt(mean(jnp.square(h)) + self.eps) * scale[None, None, :]
        return (h * gain + bias[None, None, :]).reshape(x.shape).astype(x.dtype)


class ResBlock(nn.Module):
    """norm, SiLU, [resample], conv; embedding; norm, SiLU, dropout, conv; plus a skip path.

    diffusers' ResnetBlock2D is the same with other numbers: another activation than SiLU, other
    norms, and a sum that is divided by `divisor`. An autoencoder has no embedding.
    """

    channels: int
    dropout: float = 0.0  # 0 where the network is not being trained
    scale_shift: bool = False
    resample: str = "none"
    dtype: jnp.dtype = jnp.float32
    groups: int = GROUPS
    eps: float = 1e-5
    activation: str = "silu"
    divisor: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, emb: jax.Array | None = None) -> jax.Array:
        resample, activation = RESAMPLE[self.resample], ACTIVATIONS[self.activation]
        h = activation(GroupNorm(self.groups, self.eps, name="in_layers_0")(x))
        h, x = resample(h), resample(x)
        h = Conv(self.channels, dtype=self.dtype, name="in_layers_2")(h)

        norm = GroupNorm(self.groups, self.eps, name="out_layers_0")
        if emb is None:
            h = norm(h)
        else:
            width = 2 * self.channels if self.scale_shift else self.channels
            told = nn.Dense(width, dtype=jnp.float32, name="emb_layers_1")(activation(emb))
            told = jnp.asarray(told, h.dtype)[:, None, None, :]
            if self.scale_shift:
                scale, shift = jnp.split(told, 2, axis=-1)
                h = norm(h) * (1 + scale) + shift
            else:
                h = norm(h + told)
        h = nn.Dropout(self.dropout, deterministic=False)(activation(h))
        zeros = nn.initializers.zeros
        h = Conv(self.channels, dtype=self.dtype, kernel_init=zeros, name="out_layers_3")(h)
        if x.shape[-1] != self.channels:
            x = Conv(self.channels, 1, dtype=self.dtype, name="skip_connection")(x)
        return (x + h) / self.divisor


class AttentionBlock(nn.Module):
    """Self-attention over the pixels, with a residual path.

    The two layouts of the 3C channels of `qkv` have the same parameter shapes: a checkpoint read
    with the wrong one loads, and samples noise. `new_order` must come from its card.
    """

    heads: int
    new_order: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        y = GroupNorm(name="norm")(x).reshape(b, h * w, c)
        qkv = nn.Dense(3 * c, dtype=self.dtype, name="qkv")(y)
        if self.new_order:
            q, k, v = jnp.moveaxis(qkv.reshape(b, h * w, 3, self.heads, -1), 2, 0)
        else:
            q, k, v = jnp.moveaxis(qkv.reshape(b, h * w, self.heads, 3, -1), 3, 0)
        y = attention(q, k, v).reshape(b, h * w, c)
        zeros = nn.initializers.zeros
        y = nn.Dense(c, dtype=self.dtype, kernel_init=zeros, name="proj_out")(y)
        return x + y.reshape(x.shape)


class Attention(nn.Module):
    """Self-attention over the pixels with a residual path, as diffusers has it.

    Args:
        heads: Number of heads.
        width: Channels of a head; all heads together may be narrower than x.
        groups: Of the norm before it; None for none.
        eps: Of the norm.
        divisor: Of the sum.
        dtype: What it computes in.
    """

    heads: int
    width: int
    groups: int | None = GROUPS
    eps: float = 1e-5
    divisor: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        y = x if self.groups is None else GroupNorm(self.groups, self.eps, name="group_norm")(x)
        y = y.reshape(b, h * w, c)
        inner = self.heads * self.width
        q, k, v = (
            nn.Dense(inner, dtype=self.dtype, name=name)(y).reshape(b, h * w, self.heads, -1)
            for name in ("to_q", "to_k", "to_v")
        )
        y = attention(q, k, v).reshape(b, h * w, inner)
        zeros = nn.initializers.zeros
        y = nn.Dense(c, dtype=self.dtype, kernel_init=zeros, name="to_out_0")(y)
        return (x + y.reshape(x.shape)) / self.divisor


class Fourier(nn.Module):
    """Random frequencies of the time, [sin(2 pi w log t), cos(2 pi w log t)], [B, 2 channels].

    Source: Song et al. 2021 (arXiv:2011.13456), appendix G. The frequencies are not learned.
    """

    channels: int

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        w = self.param("weight", nn.initializers.normal(16.0), (self.channels,))
        w = jax.lax.stop_gradient(w.astype(jnp.float32))
        angle = jnp.log(t.astype(jnp.float32))[:, None] * w[None, :] * 2 * np.float32(np.pi)
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class TimeEmbedding(nn.Module):
    """Linear, activation, linear, in float32 and in diffusers' names; to [B, channels].

    Args:
        channels: Width of the result.
        activation: A name in `ACTIVATIONS`.
    """

    channels: int
    activation: str = "silu"

    @nn.compact
    def __call__(self, x: jax.Array, beside: jax.Array | None = None) -> jax.Array:
        """Embeds x [B, C], and what is told beside it, if anything is, [B, C']."""
        if beside is not None:
            told = nn.Dense(x.shape[-1], use_bias=False, dtype=jnp.float32, name="cond_proj")
            x = x + told(beside)
        h = nn.Dense(self.channels, dtype=jnp.float32, name="linear_1")(x)
        h = ACTIVATIONS[self.activation](h)
        return nn.Dense(self.channels, dtype=jnp.float32, name="linear_2")(h)


class Downsample(nn.Module):
    """Half the side: a strided convolution, or the mean of 2 x 2 squares.

    Args:
        conv: Which of them.
        dtype: What it computes in.
        padding: Of the convolution, as in `conv.convolve`.
    """

    conv: bool = True
    dtype: jnp.dtype = jnp.float32
    padding: Padding | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.conv:
            return downsample(x)
        strided = Conv(x.shape[-1], stride=2, padding=self.padding, dtype=self.dtype, name="op")
        return strided(x)


class Upsample(nn.Module):
    """Twice the side: nearest neighbour, with a convolution behind it where `conv` is set.

    To a size that was odd before it was halved, it is cut short in front of the convolution.
    """

    conv: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, size: tuple[int, ...] | None = None) -> jax.Array:
        _, h, w, channels = x.shape
        size = size or (2 * h, 2 * w)
        whole = size == (2 * h, 2 * w)
        if not (whole and self.conv):
            x = upsample(x)[:, : size[0], : size[1]]
        if not self.conv:
            return x
        return Conv(channels, upsampled=whole, dtype=self.dtype, name="conv")(x)
