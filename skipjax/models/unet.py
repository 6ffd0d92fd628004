"""ADM's U-Net (Dhariwal & Nichol 2021, arXiv:2105.05233), as guided-diffusion builds it."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from skipjax.models.blocks import GroupNorm, Upsample, enlarge
from skipjax.models.config import UNetConfig
from skipjax.models.conv import Conv
from skipjax.models.encoder import Encoder, check_pictures, embed_time


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
        *,
        train: bool = False,
    ) -> jax.Array:
        """Evaluates the network.

        Args:
            x: Noisy pictures x_t, [B, H, W, in_channels]; H and W divisible by 2^(levels - 1).
            t: Times on the scale of training (0 .. T-1), float [B], may be fractional.
            y: Labels, int [B] in 0 .. num_classes-1; None for an unconditional network.
            low_res: Pictures to enlarge, float [B, h, w, low_res_channels] in [-1, 1], of any
                h and w; None for a network that is not for super-resolution.
            train: Whether dropout is active; needs `rngs={"dropout": key}`.

        Returns:
            float32 [B, H, W, out_channels].

        Raises:
            ValueError: If y or low_res is missing, not wanted, or of a shape that does not fit.
        """
        config = self.config
        check_pictures(config, x)
        if (y is None) != (config.num_classes is None):
            kind = "unconditional" if config.num_classes is None else "class-conditional"
            raise ValueError(
                f"the network is {kind}, and y is {'missing' if y is None else 'given'}"
            )
        x = _beside(x, low_res, config.low_res_channels)

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


def _beside(x: jax.Array, low_res: jax.Array | None, channels: int) -> jax.Array:
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
