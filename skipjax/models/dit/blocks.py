"""The parts of DiT (Peebles & Xie 2023, arXiv:2212.09748, section 3.2).

Tokens are [B, N, D]. What a block is told, c, float32 [B, D], scales, shifts and gates what it
does to them: adaLN-Zero. Submodules carry the names of Facebook's code with `.` written as `_`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from skipjax.models.attention import attention
from skipjax.models.blocks import timestep_embedding

_SINUSOIDS = 256  # that a time becomes first


class Squares(nn.Module):
    """Squares of p x p as tokens: [B, H / p * W / p, width] of x [B, H, W, C]."""

    p: int
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        p, (b, h, w, c) = self.p, x.shape
        init = nn.initializers.xavier_uniform(in_axis=(0, 1, 2))
        kernel = self.param("kernel", init, (p, p, c, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        x, kernel, bias = (jnp.asarray(array, self.dtype) for array in (x, kernel, bias))
        squares = x.reshape(b, h // p, p, w // p, p, c).swapaxes(2, 3).reshape(b, -1, p * p * c)
        return squares @ kernel.reshape(-1, self.width) + bias[None, None, :]


class Embedder(nn.Module):
    """What a block is told: float32 [B, width] of times t [B] and labels y [B]."""

    num_classes: int
    width: int
    freq_shift: float

    @nn.compact
    def __call__(self, t: jax.Array, y: jax.Array) -> jax.Array:
        normal = nn.initializers.normal(0.02)
        dense = {"features": self.width, "dtype": jnp.float32, "kernel_init": normal}
        c = timestep_embedding(t, _SINUSOIDS, self.freq_shift)
        c = nn.silu(nn.Dense(**dense, name="t_embedder_mlp_0")(c))
        c = nn.Dense(**dense, name="t_embedder_mlp_2")(c)
        table = nn.Embed(
            self.num_classes,
            self.width,
            embedding_init=normal,
            name="y_embedder_embedding_table",
        )
        return c + table(y).astype(jnp.float32)


class Block(nn.Module):
    """Attention, then an MLP; each scaled and shifted in front, and gated behind."""

    heads: int
    hidden: int  # width inside the MLP
    mlp_norm_eps: float
    qkv_bias: bool
    exact_gelu: bool
    dropout: float  # 0 where the network is not being trained
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, c: jax.Array) -> jax.Array:
        told = _dense(6 * x.shape[-1], self.dtype, "adaLN_modulation_1", zero=True)(nn.silu(c))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.split(told[:, None, :], 6, -1)
        h = modulate(x, shift_a, scale_a).astype(self.dtype)
        x = x + gate_a * self._attend(h)
        h = modulate(x, shift_m, scale_m, self.mlp_norm_eps).astype(self.dtype)
        return x + gate_m * self._mlp(h)

    def _attend(self, h: jax.Array) -> jax.Array:
        b, n, width = h.shape
        qkv = _dense(3 * width, self.dtype, "attn_qkv", bias=self.qkv_bias)(h)
        q, k, v = jnp.moveaxis(qkv.reshape(b, n, 3, self.heads, -1), 2, 0)
        h = _dense(width, self.dtype, "attn_proj")(attention(q, k, v).reshape(b, n, width))
        return nn.Dropout(self.dropout, deterministic=False)(h)

    def _mlp(self, h: jax.Array) -> jax.Array:
        width = h.shape[-1]
        h = _dense(self.hidden, self.dtype, "mlp_fc1")(h)
        h = nn.gelu(h, approximate=not self.exact_gelu)
        h = nn.Dropout(self.dropout, deterministic=False)(h)
        return _dense(width, self.dtype, "mlp_fc2")(h)


class FinalLayer(nn.Module):
    """Tokens to the values of their squares, float32 [B, N, features]."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, c: jax.Array) -> jax.Array:
        told = _dense(2 * x.shape[-1], jnp.float32, "adaLN_modulation_1", zero=True)(nn.silu(c))
        shift, scale = jnp.split(told[:, None, :], 2, -1)
        linear = _dense(self.features, jnp.float32, "linear", zero=True)
        return linear(modulate(x, shift, scale))


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array, eps: float = 1e-6) -> jax.Array:
    """(x - mean) / sqrt(variance + eps) (1 + scale) + shift, in float32.

    Args:
        x: Tokens, [B, N, D]; mean and variance are those of a token.
        shift: [B, 1, D].
        scale: [B, 1, D].
        eps: Keeps tokens of one value finite.
    """
    x = x.astype(jnp.float32)
    x = x - x.mean(axis=-1, keepdims=True)
    gain = jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + eps)
    return x * gain * (1 + scale.astype(jnp.float32)) + shift.astype(jnp.float32)


def sinusoids(width: int, grid: tuple[int, ...], extent: tuple[int, ...]) -> np.ndarray:
    """Sinusoids of the places of tokens: of the column in the first half of the channels, of the
    row in the second, each [sin(place f_i), cos(place f_i)] with f_i = 10000^(-i / (width / 4)).

    Args:
        width: Channels, a multiple of 4.
        grid: Tokens along height and width.
        extent: Places that height and width are stretched over: those of the samples that the
            network was made for.

    Returns:
        float32 [N, width], row by row.
    """
    quarter = width // 4
    frequency = 10000.0 ** (-np.arange(quarter) / quarter)
    y, x = (np.arange(n) * (over / n) for n, over in zip(grid, extent, strict=True))
    places = np.meshgrid(y, x, indexing="ij")
    angles = [np.ravel(place)[:, None] * frequency for place in places[::-1]]
    halves = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return np.concatenate(halves, axis=1).astype(np.float32)


def _dense(
    features: int, dtype: jnp.dtype, name: str, bias: bool = True, zero: bool = False
) -> nn.Dense:
    init = nn.initializers.zeros if zero else nn.initializers.xavier_uniform()
    return nn.Dense(features, use_bias=bias, dtype=dtype, kernel_init=init, name=name)
