"""The parts of ADM's networks (Dhariwal & Nichol 2021, arXiv:2105.05233, section 3).

Arrays are NHWC. Blocks compute in `dtype`; group norms, softmax and embeddings in float32. Params
may be of any float dtype: each is cast to what it is computed in.
Submodules carry guided-diffusion's names with `.` written as `_`, so that a parameter can be
found under the same name in a released checkpoint and here.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from skipjax.models.attention import attention
from skipjax.models.config import GROUPS
from skipjax.models.conv import Conv


def timestep_embedding(t: jax.Array, channels: int) -> jax.Array:
    """Sinusoids of the time, [cos(t f_i), sin(t f_i)] with f_i = 10000^(-i / (channels // 2)).

    Args:
        t: Times, [B], float, may be fractional.
        channels: Width of the result; an odd one ends in a column of zeros.

    Returns:
        float32 [B, channels].
    """
    half = channels // 2
    # On the host, and rounded where guided-diffusion rounds: at t = 999 the last bit of a
    # frequency is 6e-5 of an angle, and compilers do not agree on it.
    exponent = np.float32(-np.log(10000.0)) * np.arange(half, dtype=np.float32) / np.float32(half)
    frequency = np.exp(exponent.astype(np.float64)).astype(np.float32)
    angle = t.astype(jnp.float32)[:, None] * frequency[None, :]
    embedding = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, channels % 2)))


def upsample(x: jax.Array) -> jax.Array:
    """Nearest neighbour, twice as high and wide; x [B, H, W, C]."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


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


class GroupNorm(nn.Module):
    """32 groups, epsilon 1e-5, in float32 whatever comes in; the result has the dtype of x."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        *batch, channels = x.shape
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        scale, bias = scale.astype(jnp.float32), bias.astype(jnp.float32)
        h = x.astype(jnp.float32).reshape(batch[0], -1, channels)

        # Pixels are summed before the channels of a group: the large reduction then runs over
        # contiguous channels, several times faster on a CPU than over [pixels, group] at once.
        def mean(h):
            groups = h.mean(axis=1).reshape(-1, GROUPS, channels // GROUPS).mean(axis=-1)
            return jnp.repeat(groups, channels // GROUPS, axis=-1)[:, None, :]

        h = h - mean(h)
        gain = jax.lax.rsqrt(mean(jnp.square(h)) + 1e-5) * scale[None, None, :]
        return (h * gain + bias[None, None, :]).reshape(x.shape).astype(x.dtype)


class ResBlock(nn.Module):
    """norm, SiLU, [resample], conv; embedding; norm, SiLU, dropout, conv; plus a skip path."""

    channels: int
    dropout: float = 0.0  # 0 where the network is not being trained
    scale_shift: bool = False
    resample: str = "none"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, emb: jax.Array) -> jax.Array:
        resample = RESAMPLE[self.resample]
        h = nn.silu(GroupNorm(name="in_layers_0")(x))
        h, x = resample(h), resample(x)
        h = Conv(self.channels, dtype=self.dtype, name="in_layers_2")(h)

        width = 2 * self.channels if self.scale_shift else self.channels
        emb = nn.Dense(width, dtype=jnp.float32, name="emb_layers_1")(nn.silu(emb))
        emb = emb.astype(h.dtype)[:, None, None, :]
        norm = GroupNorm(name="out_layers_0")
        if self.scale_shift:
            scale, shift = jnp.split(emb, 2, axis=-1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + emb)
        h = nn.Dropout(self.dropout, deterministic=False)(nn.silu(h))
        zeros = nn.initializers.zeros
        h = Conv(self.channels, dtype=self.dtype, kernel_init=zeros, name="out_layers_3")(h)
        if x.shape[-1] != self.channels:
            x = Conv(self.channels, 1, dtype=self.dtype, name="skip_connection")(x)
        return x + h


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


class Downsample(nn.Module):
    """Half the side: a strided convolution, or the mean of 2 x 2 squares."""

    conv: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.conv:
            return downsample(x)
        return Conv(x.shape[-1], stride=2, dtype=self.dtype, name="op")(x)


class Upsample(nn.Module):
    """Twice the side: nearest neighbour, with a convolution behind it where `conv` is set."""

    conv: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = upsample(x)
        if not self.conv:
            return x
        return Conv(x.shape[-1], dtype=self.dtype, name="conv")(x)
