"""ADM's U-Net (Dhariwal & Nichol 2021, arXiv:2105.05233), as guided-diffusion builds it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from skipjax.models.blocks import (
    AttentionBlock,
    Downsample,
    GroupNorm,
    ResBlock,
    Upsample,
    timestep_embedding,
)
from skipjax.models.config import UNetConfig


class UNet(nn.Module):
    """The network eps(x_t, t, y), with [eps, variance] on the channels where it is learned.

    Args:
        config: The architecture.
        dtype: What the blocks compute in: float32 or bfloat16. Parameters stay float32;
            embeddings, norms, softmax and the last layer compute in float32.
    """

    config: UNetConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, y: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Evaluates the network.

        Args:
            x: Noisy pictures x_t, [B, H, W, in_channels]; H and W divisible by 2^(levels - 1).
            t: Times on the scale of training (0 .. T-1), float [B], may be fractional.
            y: Labels, int [B] in 0 .. num_classes-1; None for an unconditional network.
            train: Whether dropout is active; needs `rngs={"dropout": key}`.

        Returns:
            float32 [B, H, W, out_channels].
        """
        config = self.config
        if (y is None) != (config.num_classes is None):
            kind = "unconditional" if config.num_classes is None else "class-conditional"
            raise ValueError(
                f"the network is {kind}, and y is {'missing' if y is None else 'given'}"
            )

        emb = timestep_embedding(t, config.model_channels)
        emb = nn.Dense(config.embedding_channels, name="time_embed_0")(emb)
        emb = nn.Dense(config.embedding_channels, name="time_embed_2")(nn.silu(emb))
        if y is not None and config.num_classes is not None:
            table = nn.Embed(
                config.num_classes,
                config.embedding_channels,
                embedding_init=nn.initializers.normal(1.0),
                name="label_emb",
            )
            emb = emb + table(y)

        def res_block(h, channels, name, resample="none"):
            block = ResBlock(
                channels,
                config.dropout,
                config.use_scale_shift_norm,
                resample,
                self.dtype,
                name=name,
            )
            return block(h, emb, train=train)

        def attention(h, name, decoder=False):
            heads = config.heads(h.shape[-1], decoder=decoder)
            return AttentionBlock(heads, config.use_new_attention_order, self.dtype, name=name)(h)

        levels = list(enumerate(config.channels))
        h = x.astype(self.dtype)
        h = nn.Conv(
            config.channels[0], (3, 3), padding=1, dtype=self.dtype, name="input_blocks_0_0"
        )(h)
        skips = [h]
        for level, channels in levels:
            for _ in range(config.num_res_blocks):
                block = f"input_blocks_{len(skips)}"
                h = res_block(h, channels, f"{block}_0")
                if 2**level in config.attention_resolutions:
                    h = attention(h, f"{block}_1")
                skips.append(h)
            if level < len(levels) - 1:
                name = f"input_blocks_{len(skips)}_0"
                if config.resblock_updown:
                    h = res_block(h, channels, name, "down")
                else:
                    h = Downsample(config.conv_resample, self.dtype, name=name)(h)
                skips.append(h)

        h = res_block(h, h.shape[-1], "middle_block_0")
        h = attention(h, "middle_block_1")
        h = res_block(h, h.shape[-1], "middle_block_2")

        index = 0
        for level, channels in reversed(levels):
            for i in range(config.num_res_blocks + 1):
                block, part = f"output_blocks_{index}", 1
                h = res_block(jnp.concatenate([h, skips.pop()], axis=-1), channels, f"{block}_0")
                if 2**level in config.attention_resolutions:
                    h, part = attention(h, f"{block}_1", decoder=True), 2
                if level and i == config.num_res_blocks:
                    name = f"{block}_{part}"
                    if config.resblock_updown:
                        h = res_block(h, channels, name, "up")
                    else:
                        h = Upsample(config.conv_resample, self.dtype, name=name)(h)
                index += 1

        h = nn.silu(GroupNorm(name="out_0")(h.astype(jnp.float32)))
        zeros = nn.initializers.zeros
        return nn.Conv(config.out_channels, (3, 3), padding=1, kernel_init=zeros, name="out_2")(h)


def example(config: UNetConfig) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The least x, t and y that the network takes: what its params are initialised with."""
    side = 2 ** (len(config.channel_mult) - 1)
    y = None if config.num_classes is None else jnp.zeros(1, jnp.int32)
    return jnp.zeros((1, side, side, config.in_channels)), jnp.zeros(1), y


def param_shapes(config: UNetConfig) -> dict[str, Any]:
    """Shapes and dtypes of the network's params, without computing any."""
    shapes: Any = jax.eval_shape(UNet(config).init, jax.random.key(0), *example(config))
    return shapes["params"]
