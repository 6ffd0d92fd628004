"""ADM's classifier of noisy pictures, whose gradient guides (arXiv:2105.05233, section 4)."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from skipjax.models.attention import attention
from skipjax.models.blocks import GroupNorm
from skipjax.models.config import EncoderConfig, evaluate
from skipjax.models.conv import Conv
from skipjax.models.encoder import Encoder, check_pictures, embed_time

POOLS = ("adaptive", "attention", "spatial", "spatial_v2")
_HIDDEN = 2048  # width between the two layers of the spatial pools


@dataclass(frozen=True)
class ClassifierConfig(EncoderConfig):
    """Architecture of a classifier of noisy pictures: the arguments of `EncoderConfig`, and this.

    Args:
        pool: How the classes are read off the features: "adaptive" (their mean over the
            coarsest level), "attention" (the mean asks the pixels; all released ones), "spatial"
            or "spatial_v2" (two layers over the means of every level).
    """

    pool: str = "adaptive"

    def __post_init__(self):
        super().__post_init__()
        if self.pool not in POOLS:
            raise ValueError(f"pool is {self.pool!r}: it must be one of {', '.join(POOLS)}")
        if self.pool != "attention":
            return
        if self.num_head_channels == -1:
            raise ValueError(
                "num_head_channels is -1, which leaves the heads of attention pooling open: give "
                "the channels per head, e.g. 64"
            )
        if any(side < 1 or side % self.factor for side in self.size):
            raise ValueError(
                f"image_size is {self.image_size}: attention pooling over "
                f"{len(self.channel_mult)} levels needs a multiple of {self.factor}"
            )

    def apply(
        self,
        params: Any,
        x: jax.Array,
        t: jax.Array,
        *,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        dropout: jax.Array | None = None,
    ) -> jax.Array:
        """Logits, float32 [B, out_channels], of noisy pictures.

        Args:
            params: As `init` makes them.
            x: Noisy pictures, float [B, H, W, in_channels].
            t: Times, float [B].
            dtype: To compute in: float32, bfloat16 or float16.
            remat: Whether blocks are computed again in the backward pass, to save memory.
            dropout: Key of the dropout of training; default: none.
        """
        return evaluate(self.module(dtype, remat), params, (x, t), dropout)

    def module(self, dtype: DTypeLike = jnp.float32, remat: bool = False) -> Any:
        """The Flax module."""
        return Classifier(self, jnp.dtype(dtype), remat)

    def example(self) -> tuple[jax.Array, ...]:
        """The least arguments that the module takes: x and t."""
        size = self.size if self.pool == "attention" else (self.factor, self.factor)
        return jnp.zeros((1, *size, self.in_channels)), jnp.zeros(1)


class Classifier(nn.Module):
    """The network log p(y | x_t, t), up to what normalises it.

    Args:
        config: The architecture.
        dtype: What the blocks compute in: float32, bfloat16 or float16. The time embedding,
            norms, softmax and everything behind the middle compute in float32 all the same.
        remat: Whether residual and attention blocks are computed again in the backward pass,
            which then needs less memory and more time; params and results stay the same.
    """

    config: ClassifierConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, *, train: bool = False) -> jax.Array:
        """Evaluates the network.

        Args:
            x: Noisy pictures x_t, [B, H, W, in_channels]; H and W divisible by 2^(levels - 1),
                and both `image_size` where the pool is "attention".
            t: Times on the scale of training (0 .. T-1), float [B], may be fractional.
            train: Whether dropout is active; needs `rngs={"dropout": key}`.

        Returns:
            Logits, float32 [B, out_channels].

        Raises:
            ValueError: If x is of a size that the network cannot take.
        """
        config = self.config
        check_pictures(config, x)
        if config.pool == "attention" and x.shape[1:3] != config.size:
            height, width = config.size
            raise ValueError(
                f"x is {x.shape[1]} x {x.shape[2]} pixels: attention pooling has a place for "
                f"every pixel of {height} x {width} alone (image_size = {config.image_size})"
            )
        encoder = Encoder(config, embed_time(config, t), self.dtype, self.remat, train)
        features = encoder.down(x.astype(self.dtype))
        h = encoder.middle(features[-1])
        if config.pool in ("spatial", "spatial_v2"):
            return self._spatial([*features, h])

        h = nn.silu(GroupNorm(name="out_0")(h.astype(jnp.float32)))
        if config.pool == "attention":
            heads = config.heads(h.shape[-1])
            return AttentionPool(config.out_channels, heads, name="out_2")(h)
        h = h.mean(axis=(1, 2), keepdims=True)
        zeros = nn.initializers.zeros
        h = Conv(config.out_channels, size=1, kernel_init=zeros, name="out_3")(h)
        return h[:, 0, 0, :]

    def _spatial(self, features: list[jax.Array]) -> jax.Array:
        means = [h.astype(jnp.float32).mean(axis=(1, 2)) for h in features]
        h = jnp.concatenate(means, axis=-1)
        h = nn.Dense(_HIDDEN, dtype=jnp.float32, name="out_0")(h)
        if self.config.pool == "spatial":
            h, last = nn.relu(h), "out_2"
        else:
            h, last = nn.silu(GroupNorm(name="out_1")(h)), "out_3"
        return nn.Dense(self.config.out_channels, dtype=jnp.float32, name=last)(h)


class AttentionPool(nn.Module):
    """CLIP's pooling: the mean of all pixels asks them, by attention, for what to give."""

    channels: int
    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        x = x.reshape(b, h * w, c)
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        # guided-diffusion's layout: channels first.
        normal = nn.initializers.normal(c**-0.5)
        place = self.param("positional_embedding", normal, (c, h * w + 1))
        x = x + place.astype(jnp.float32).T[None]
        qkv = nn.Dense(3 * c, dtype=jnp.float32, name="qkv_proj")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(b, h * w + 1, 3, self.heads, -1), 2, 0)
        # Of all that is asked, the mean's question alone is answered.
        y = attention(q[:, :1], k, v).reshape(b, c)
        return nn.Dense(self.channels, dtype=jnp.float32, name="c_proj")(y)
