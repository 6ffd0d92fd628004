"""Transformers inside a U-Net, whose pixels attend to each other and to a text (Rombach et al.
2022, arXiv:2112.10752, section 3.3).

Tokens are [B, N, C]. Matrices compute in `dtype`; norms and softmax in float32. Names are
diffusers', `_0` for `.0`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from skipjax.models.attention import attention
from skipjax.models.blocks import GroupNorm
from skipjax.models.conv import Conv
from skipjax.models.device import default_device
from skipjax.models.unet2d.blocks import Parts

ROWS = 1024  # tokens that a CPU feeds forward at a time: what is wider then stays in its cache
_EPS = 1e-6  # of the group norm in front of a transformer, whatever that of residual blocks is


@dataclass(frozen=True)
class OverText:
    """A transformer behind each residual block of a level, which reads the text.

    Args:
        heads: Of attention.
        depths: Transformer blocks behind each of them.
        linear: Whether a linear layer leads in and out, in place of a 1 x 1 convolution.
        only_cross: Whether the text takes the place of the pixels in the first attention too.
    """

    heads: int
    depths: tuple[int, ...]
    linear: bool = False
    only_cross: bool = False

    def __call__(
        self, parts: Parts, h: jax.Array, context: jax.Array | None, number: int
    ) -> jax.Array:
        assert context is not None  # or the network would not take it
        transformer = nn.remat(Transformer) if parts.remat else Transformer
        return transformer(
            self.heads,
            self.depths[number],
            self.linear,
            self.only_cross,
            parts.groups,
            parts.dtype,
            name=f"attentions_{number}",
        )(h, context)


class Transformer(nn.Module):
    """Transformer2DModel: norm, projection, blocks, projection, and a residual path."""

    heads: int
    depth: int
    linear: bool
    only_cross: bool
    groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """x [B, H, W, C]; context [B, L, D]."""
        b, h, w, c = x.shape
        y = GroupNorm(self.groups, _EPS, name="norm")(x)
        y = self._project(y, "proj_in").reshape(b, h * w, c)
        context = context.astype(self.dtype)
        for i in range(self.depth):
            name = f"transformer_blocks_{i}"
            y = TransformerBlock(self.heads, self.only_cross, self.dtype, name=name)(y, context)
        return x + self._project(y.reshape(x.shape), "proj_out")

    def _project(self, x: jax.Array, name: str) -> jax.Array:
        if self.linear:
            return nn.Dense(x.shape[-1], dtype=self.dtype, name=name)(x)
        return Conv(x.shape[-1], 1, dtype=self.dtype, name=name)(x)


class TransformerBlock(nn.Module):
    """BasicTransformerBlock: attention to the tokens, attention to the text, a feed-forward."""

    heads: int
    only_cross: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        def norm(name: str) -> jax.Array:
            return LayerNorm(name=name)(x).astype(self.dtype)

        h = norm("norm1")
        own = context if self.only_cross else h
        x = x + CrossAttention(self.heads, self.dtype, name="attn1")(h, own)
        x = x + CrossAttention(self.heads, self.dtype, name="attn2")(norm("norm2"), context)
        (b, n, c), chunks = x.shape, _chunks(x)
        if chunks == 1:
            return _feed_forward(self, None, x)[1]
        each = nn.scan(_feed_forward, variable_broadcast="params", split_rngs={"params": False})
        _, y = each(self, None, x.reshape(chunks, -1, c))
        return y.reshape(b, n, c)


def _chunks(x: jax.Array) -> int:
    """How many parts tokens [B, N, C] are fed forward in."""
    tokens = x.shape[0] * x.shape[1]
    chunks = -(-tokens // ROWS)
    fits = tokens % chunks == 0 and default_device().platform == "cpu"
    return chunks if fits else 1


def _feed_forward(block: TransformerBlock, carry: None, x: jax.Array) -> tuple[None, jax.Array]:
    """Tokens [..., C] with what the feed-forward makes of them."""
    h = LayerNorm(name="norm3")(x).astype(block.dtype)
    return carry, x + FeedForward(block.dtype, name="ff")(h)


class CrossAttention(nn.Module):
    """Attention of tokens [B, N, C] to those of a context [B, M, D]."""

    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        b, n, c = x.shape
        q, k, v = (
            nn.Dense(c, use_bias=False, dtype=self.dtype, name=name)(tokens).reshape(
                b, -1, self.heads, c // self.heads
            )
            for name, tokens in (("to_q", x), ("to_k", context), ("to_v", context))
        )
        return nn.Dense(c, dtype=self.dtype, name="to_out_0")(attention(q, k, v).reshape(b, n, c))


class FeedForward(nn.Module):
    """Linear, GEGLU (Shazeer 2020, arXiv:2002.05202), linear; four times as wide between them."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = x.shape[-1]
        h = Geglu(4 * c, self.dtype, name="net_0")(x)
        return nn.Dense(c, dtype=self.dtype, name="net_2")(h)


class Geglu(nn.Module):
    """value * gelu(gate) of a linear layer's [value | gate], [..., channels]."""

    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        both = nn.Dense(2 * self.channels, dtype=self.dtype, name="proj")(x)
        value, gate = jnp.split(both, 2, axis=-1)
        # As PyTorch has it. JAX's, exact in the far tail too, computes erf and erfc.
        gate = gate.astype(jnp.float32)
        gate = 0.5 * gate * (1 + jax.lax.erf(gate * 0.5**0.5))
        return value * gate.astype(value.dtype)


class LayerNorm(nn.Module):
    """Of each token, in float32 whatever comes in and whatever the params are."""

    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],)).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],)).astype(jnp.float32)
        x = x.astype(jnp.float32)
        x = x - x.mean(axis=-1, keepdims=True)
        gain = jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + self.eps)
        scale, bias = (jnp.expand_dims(each, range(x.ndim - 1)) for each in (scale, bias))
        return x * gain * scale + bias
