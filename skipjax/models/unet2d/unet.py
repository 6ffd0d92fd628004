"""UNet2DModel of diffusers, the U-Net of DDPM (Ho et al. 2020, arXiv:2006.11239), in Flax."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from skipjax.models.blocks import Fourier, GroupNorm, TimeEmbedding, timestep_embedding
from skipjax.models.config import FlaxConfig, evaluate
from skipjax.models.conv import Conv
from skipjax.models.encoder import beside, check_keys, check_pictures
from skipjax.models.unet2d.blocks import MidBlock, parts_of, through
from skipjax.models.unet2d.config import UNet2DArguments
from skipjax.models.unet2d.embeddings import embed_class


@dataclass(frozen=True)
class UNet2DConfig(UNet2DArguments, FlaxConfig):
    """Architecture of a UNet2DModel, and what it computes; `UNet2DArguments` has the arguments."""

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
            x: Noisy pictures, float [B, H, W, C]; H and W divisible by `factor`.
            t: Times as the process tells them, float [B].
            condition: "label" int [B] (float, of "timestep"), "embedding" float
                [B, embedding_channels] and "concat" float [B, H, W, C'] in [-1, 1], as far as
                the network takes them; None for none.
            dtype: To compute in: float32, bfloat16 or float16. Embeddings, norms, softmax and the
                last layer compute in float32 all the same.
            remat: Whether blocks are computed again in the backward pass, to save memory.
            dropout: Key of the dropout of training; default: none.

        Returns:
            float32 [B, H, W, out_channels].

        Raises:
            ValueError: For a condition that is missing, not wanted, or of another shape.
        """
        given = check_keys(self, condition)
        return evaluate(self.module(dtype, remat), params, (x, t, given), dropout)

    def module(self, dtype: DTypeLike = jnp.float32, remat: bool = False) -> Any:
        """The Flax module."""
        return UNet2D(self, jnp.dtype(dtype), remat)

    def example(self) -> tuple[Any, ...]:
        """The least arguments that the module takes: x, t and a condition."""
        side, concat = self.factor, self.concat_channels
        known = {
            "label": jnp.zeros(1, jnp.int32),
            "embedding": jnp.zeros((1, self.embedding_channels)),
            "concat": jnp.zeros((1, side, side, concat)),
        }
        x = jnp.zeros((1, side, side, self.in_channels - concat))
        return x, jnp.ones(1), {key: known[key] for key in self.takes}

    def of_pictures(self, size: tuple[int, int], num_classes: int | None) -> "UNet2DConfig":
        """The same for pictures of another size, and so many labels."""
        return replace(self, sample_size=size, num_class_embeds=num_classes)


class UNet2D(nn.Module):
    """The network eps(x_t, t, condition), with [eps, variance] on the channels if it is learned.

    Args:
        config: The architecture.
        dtype: What the blocks compute in. Params are made in float32, and may be given in any
            float dtype.
        remat: As in `UNet2DConfig.apply`.
    """

    config: UNet2DConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: dict[str, jax.Array], *, train: bool = False
    ) -> jax.Array:
        """Evaluates the network; arguments as `UNet2DConfig.apply` has them."""
        config = self.config
        parts = parts_of(config, self.dtype, self.remat, train)
        emb = self._embed(t, condition)
        x = beside(x, condition.get("concat"))
        check_pictures(config, x)
        if config.center_input_sample:
            x = 2 * x - 1

        h = Conv(config.block_out_channels[0], dtype=self.dtype, name="conv_in")(x)
        middle = None
        if config.mid_block_type is not None:
            divisor = config.mid_block_scale_factor
            middle = MidBlock(parts, config.middle, divisor, name="mid_block")
        levels = {"encoder": config.encoder, "middle": middle, "decoder": config.decoder}
        h = through(h, emb, None, parts=parts, **levels)

        h = GroupNorm(parts.groups, parts.eps, name="conv_norm_out")(h.astype(jnp.float32))
        zeros = nn.initializers.zeros
        out = Conv(config.out_channels, kernel_init=zeros, name="conv_out")(nn.silu(h))
        # There t is the level of the noise, and the network says the score.
        return out / t[:, None, None, None] if config.time_embedding_type == "fourier" else out

    def _embed(self, t: jax.Array, condition: dict[str, jax.Array]) -> jax.Array:
        """The embedding of the time, and of what else is told, float32 [B, E]."""
        config, width = self.config, self.config.embedding_channels
        project = self._projection()
        emb = TimeEmbedding(width, name="time_embedding")(project(t))
        told = embed_class(config, condition, project)
        return emb if told is None else emb + told

    def _projection(self) -> Callable[[jax.Array], jax.Array]:
        """From times, [B], to what is embedded of them, float32 [B, C]."""
        config, channels = self.config, self.config.block_out_channels[0]
        if config.time_embedding_type == "fourier":
            return Fourier(channels, name="time_proj")
        if config.time_embedding_type == "learned" and config.num_train_timesteps:
            table = nn.Embed(config.num_train_timesteps, channels, name="time_proj")
            return lambda t: table(jnp.round(t).astype(jnp.int32)).astype(jnp.float32)
        sine_first = not config.flip_sin_to_cos
        return lambda t: timestep_embedding(t, channels, config.freq_shift, sine_first)
