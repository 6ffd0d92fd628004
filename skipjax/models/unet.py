"""ADM's U-Net (Dhariwal & Nichol 2021, arXiv:2105.05233), as guided-diffusion builds it."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from skipjax.models.blocks import GroupNorm, Upsample, enlarge
from skipjax.models.config import EncoderConfig, evaluate
from skipjax.models.conv import Conv
from skipjax.models.encoder import Encoder, beside, check_pictures, embed_time


@dataclass(frozen=True)
class UNetConfig(EncoderConfig):
    """Architecture of an ADM U-Net: the arguments of `EncoderConfig`, and these.

    guided-diffusion's `SuperResModel(in_channels=3, ...)` is the one with `in_channels` 3 and
    `low_res_channels` 3.

    Args:
        num_classes: Number of class labels, or None for an unconditional network.
        low_res_channels: Channels of the low-resolution picture that is enlarged and put beside
            x_t, of a network for super-resolution; 0 for none.
        concat_channels: How many of `in_channels` are a condition that is laid beside x_t, which
            has the others; 0 for none.
    """

    num_classes: int | None = None
    low_res_channels: int = 0
    concat_channels: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.num_classes is not None and self.num_classes < 1:
            raise ValueError(
                f"num_classes is {self.num_classes}: at least 1, or None for no labels"
            )
        if self.low_res_channels < 0:
            raise ValueError(
                f"low_res_channels is {self.low_res_channels}: at least 1, or 0 for a network "
                "that sees no low-resolution picture"
            )
        if not 0 <= self.concat_channels < self.in_channels:
            raise ValueError(
                f"concat_channels is {self.concat_channels}: it must be 0 .. "
                f"{self.in_channels - 1}, which leaves x a channel of the {self.in_channels}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one picture, without what is laid beside it."""
        return *self.size, self.in_channels - self.concat_channels

    def apply(
        self,
        params: Any,
        x: jax.Array,
        t: jax.Array,
        condition: dict[str, jax.Array] | None = None,
        *,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        dropout: jax.Array | None = None,
    ) -> jax.Array:
        """The output for noisy pictures.

        Args:
            params: As `init` makes them.
            x: Noisy pictures, float [B, H, W, C].
            t: Times as the process tells them, float [B].
            condition: "label" int [B], "low_res" float [B, h, w, C] and "concat" float
                [B, H, W, C'] in [-1, 1], as far as the network takes them; None for none.
            dtype: To compute in: float32, bfloat16 or float16.
            remat: Whether blocks are computed again in the backward pass, to save memory.
            dropout: Key of the dropout of training; default: none.

        Returns:
            float32 [B, H, W, out_channels].

        Raises:
            ValueError: For a condition that is missing, not wanted, or of another shape.
        """
        given = dict(condition or {})
        told = (given.pop("label", None), given.pop("low_res", None), given.pop("concat", None))
        if given:
            raise ValueError(
                f"the condition holds {', '.join(given)}: this network takes label, low_res and "
                "concat"
            )
        return evaluate(self.module(dtype, remat), params, (x, t, *told), dropout)

    def of_pictures(self, size: tuple[int, int], num_classes: int | None) -> "UNetConfig":
        """The same for pictures of another size, and so many labels."""
        return replace(self, image_size=size, num_classes=num_classes)

    def module(self, dtype: DTypeLike = jnp.float32, remat: bool = False) -> Any:
        """The Flax module."""
        return UNet(self, jnp.dtype(dtype), remat)

    def example(self) -> tuple[jax.Array | None, ...]:
        """The least arguments that the module takes: x, t, y, low_res and concat, or None."""
        side = self.factor
        channels = self.in_channels - self.concat_channels
        y = None if self.num_classes is None else jnp.zeros(1, jnp.int32)
        low_res = jnp.zeros((1, 1, 1, self.low_res_channels)) if self.low_res_channels else None
        beside = (1, side, side, self.concat_channels)
        concat = jnp.zeros(beside) if self.concat_channels else None
        return jnp.zeros((1, side, side, channels)), jnp.zeros(1), y, low_res, concat


class UNet(nn.Module):
    """The network eps(x_t, t, y), with [eps, variance] on the channels where it is learned.

    Args:
        config: The architecture.
        dtype: What the blocks compute in: float32, bfloat16 or float16. Embeddings, norms,
            softmax and the last layer compute in float32 all the same. Params are made in
            float32, and may be given in any float dtype.
        remat: Whether residual and attention blocks are computed again in the backward pass,
            which then needs less memory and more time; params and results stay the same.
    """

    config: UNetConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        y: jax.Array | None = None,
        low_res: jax.Array | None = None,
        concat: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Evaluates the network.

        Args:
            x: Noisy pictures x_t, [B, H, W, in_channels - concat_channels]; H and W divisible by
                2^(levels - 1).
            t: Times on the scale of training (0 .. T-1), float [B], may be fractional.
            y: Labels, int [B] in 0 .. num_classes-1; None for an unconditional network.
            low_res: Pictures to enlarge, float [B, h, w, low_res_channels] in [-1, 1], of any
                h and w; None for a network that is not for super-resolution.
            concat: What is laid beside x, float [B, H, W, concat_channels]; None for none.
            train: Whether dropout is active; needs `rngs={"dropout": key}`.

        Returns:
            float32 [B, H, W, out_channels].

        Raises:
            ValueError: If y or low_res is missing, not wanted, or of a shape that does not fit.
        """
        config = self.config
        if concat is None and config.concat_channels:
            raise ValueError(
                f"the network sees {config.concat_channels} channels beside x, and concat is "
                "missing"
            )
        x = beside(x, concat)
        check_pictures(config, x)
        if (y is None) != (config.num_classes is None):
            kind = "unconditional" if config.num_classes is None else "class-conditional"
            raise ValueError(
                f"the network is {kind}, and y is {'missing' if y is None else 'given'}"
            )
        x = _enlarged_beside(x, low_res, config.low_res_channels)

        emb = embed_time(config, t)
        if y is not None and config.num_classes is not None:
            table = nn.Embed(
                config.num_classes,
                config.embedding_channels,
                embedding_init=nn.initializers.normal(1.0),
                name="label_emb",
            )
            emb = emb + table(y).astype(jnp.float32)

        encoder = Encoder(config, emb, self.dtype, self.remat, train)
        skips = encoder.down(x.astype(self.dtype))
        h = encoder.middle(skips[-1])

        index = 0
        for level, channels in reversed(list(enumerate(config.channels))):
            for i in range(config.num_res_blocks + 1):
                block, part = f"output_blocks_{index}", 1
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = encoder.res_block(h, channels, f"{block}_0")
                if 2**level in config.attention_resolutions:
                    h, part = encoder.attention(h, f"{block}_1", decoder=True), 2
                if level and i == config.num_res_blocks:
                    name = f"{block}_{part}"
                    if config.resblock_updown:
                        h = encoder.res_block(h, channels, name, "up")
                    else:
                        h = Upsample(config.conv_resample, self.dtype, name=name)(h)
                index += 1

        h = nn.silu(GroupNorm(name="out_0")(h.astype(jnp.float32)))
        return Conv(config.out_channels, kernel_init=nn.initializers.zeros, name="out_2")(h)


def _enlarged_beside(x: jax.Array, low_res: jax.Array | None, channels: int) -> jax.Array:
    """x with the low-resolution picture, enlarged to its size, on further channels."""
    if low_res is None:
        if channels:
            raise ValueError(
                "the network is for super-resolution, and low_res is missing: give the pictures "
                f"to enlarge, [{x.shape[0]}, height, width, {channels}] in [-1, 1]"
            )
        return x
    if not channels:
        raise ValueError(
            "the network is not for super-resolution (low_res_channels = 0), and low_res is given"
        )
    if low_res.ndim != 4 or (low_res.shape[0], low_res.shape[-1]) != (x.shape[0], channels):
        raise ValueError(
            f"low_res is {list(low_res.shape)}: it must be "
            f"[{x.shape[0]}, height, width, {channels}], of the batch of x"
        )
    _, height, width, _ = x.shape
    return jnp.concatenate([x, enlarge(low_res.astype(x.dtype), height, width)], axis=-1)
