"""UNet2DConditionModel of diffusers, the U-Net of Stable Diffusion (Rombach et al. 2022,
arXiv:2112.10752; SDXL: Podell et al. 2023, arXiv:2307.01952), in Flax.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from skipjax.models.blocks import ACTIVATIONS, GroupNorm, TimeEmbedding, timestep_embedding
from skipjax.models.config import FlaxConfig, evaluate
from skipjax.models.conv import Conv
from skipjax.models.encoder import beside, check_keys, check_pictures
from skipjax.models.unet2d.blocks import MidBlock, parts_of, through
from skipjax.models.unet2d.embeddings import embed_class
from skipjax.models.unet2d_condition.config import UNet2DConditionArguments


@dataclass(frozen=True)
class UNet2DConditionConfig(UNet2DConditionArguments, FlaxConfig):
    """Architecture of a UNet2DConditionModel, and what it computes; `UNet2DConditionArguments`
    has the arguments.
    """

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
        """The output for noisy latents.

        Args:
            params: As `init` makes them.
            x: Noisy latents, float [B, H, W, C]; H and W multiples of `multiple`.
            t: Times as the process tells them, float [B].
            condition: What `takes` names, of: "text" float [B, L, D], any L; "pooled" float
                [B, P] and "time_ids" float [B, 6], which are sizes and places in pixels (of
                SDXL's refiner [B, 5], with an aesthetic score); "guidance" float [B], the scale
                that LCM's networks are told; "label" int [B]; "embedding" float [B, E]; "concat"
                float [B, H, W, C'].
            dtype: To compute in: float32, bfloat16 or float16. Embeddings, norms, softmax and the
                last layer compute in float32 all the same.
            remat: Whether blocks are computed again in the backward pass, to save memory.
            dropout: Key of the dropout of training; default: none.

        Returns:
            float32 [B, H, W, out_channels].

        Raises:
            ValueError: For a condition that is missing, not wanted, or of another shape, or
                latents of a size that the network cannot take.
        """
        given = check_keys(self, condition)
        self._check_shapes(x.shape[0], given)
        return evaluate(self.module(dtype, remat), params, (x, t, given), dropout)

    def module(self, dtype: DTypeLike = jnp.float32, remat: bool = False) -> Any:
        """The Flax module."""
        return UNet2DCondition(self, jnp.dtype(dtype), remat)

    def example(self) -> tuple[Any, ...]:
        """The least arguments that the module takes: x, t and a condition."""
        side, concat = self.factor, self.concat_channels
        told = self.projection_class_embeddings_input_dim or 0
        # How much of it is the pooled text's, the architecture leaves open.
        pooled = told % self.addition_time_embed_dim if self.addition_time_embed_dim else 0
        known = {
            "text": jnp.zeros((1, 1, self.text_channels)),
            "pooled": jnp.zeros((1, pooled)),
            "time_ids": jnp.zeros((1, told // (self.addition_time_embed_dim or 1))),
            "guidance": jnp.ones(1),
            "label": jnp.zeros(1, jnp.int32),
            "embedding": jnp.zeros((1, self._embedding_input)),
            "concat": jnp.zeros((1, side, side, concat)),
        }
        x = jnp.zeros((1, side, side, self.in_channels - concat))
        return x, jnp.ones(1), {key: known[key] for key in self.takes}

    @property
    def _embedding_input(self) -> int:
        told = self.projection_class_embeddings_input_dim
        return told if self.class_embed_type == "projection" and told else self.embedding_channels

    def _check_shapes(self, batch: int, condition: dict[str, jax.Array]) -> None:
        wanted: dict[str, tuple[str | int, ...]] = {
            "text": ("tokens", self.text_channels),
            "pooled": ("channels",),
            "time_ids": ("sizes",),
            "guidance": (),
            "label": (),
            "embedding": (self._embedding_input,),
        }
        for key, value in condition.items():
            accepted = (batch, *wanted[key]) if key in wanted else value.shape
            fits = len(value.shape) == len(accepted) and all(
                isinstance(size, str) or size == have
                for size, have in zip(accepted, value.shape, strict=True)
            )
            if not fits:
                raise ValueError(
                    f"{key} is {list(value.shape)}: this network takes "
                    f"[{', '.join(map(str, accepted))}]"
                )
        if "pooled" not in condition:
            return
        pooled, sizes = (condition[key].shape[-1] for key in ("pooled", "time_ids"))
        each, told = self.addition_time_embed_dim or 0, self.projection_class_embeddings_input_dim
        if pooled + sizes * each != told:
            raise ValueError(
                f"pooled has {pooled} channels and time_ids {sizes} numbers of {each} channels "
                f"each: they must be {told} channels together"
            )


class UNet2DCondition(nn.Module):
    """The network eps(x_t, t, condition).

    Args:
        config: The architecture.
        dtype: What the blocks compute in. Params are made in float32, and may be given in any
            float dtype.
        remat: As in `UNet2DConditionConfig.apply`.
    """

    config: UNet2DConditionConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: dict[str, jax.Array], *, train: bool = False
    ) -> jax.Array:
        """Evaluates the network; arguments as `UNet2DConditionConfig.apply` has them."""
        config = self.config
        parts = parts_of(config, self.dtype, self.remat, train)
        emb = self._embed(t, condition)
        x = beside(x, condition.get("concat"))
        check_pictures(config, x)
        if config.center_input_sample:
            x = 2 * x - 1

        channels, size = config.block_out_channels[0], config.conv_in_kernel
        h = Conv(channels, size, dtype=self.dtype, name="conv_in")(x)
        middle = None
        if config.mid_block_type is not None:
            alone = config.mid_block_type == "UNetMidBlock2D"
            divisor = config.mid_block_scale_factor
            middle = MidBlock(parts, config.middle, divisor, alone, name="mid_block")
        levels = {"encoder": config.encoder, "middle": middle, "decoder": config.decoder}
        h = through(h, emb, condition.get("text"), parts=parts, **levels)

        h = GroupNorm(parts.groups, parts.eps, name="conv_norm_out")(h.astype(jnp.float32))
        h, size = ACTIVATIONS[config.act_fn](h), config.conv_out_kernel
        zeros = nn.initializers.zeros
        return Conv(config.out_channels, size, kernel_init=zeros, name="conv_out")(h)

    def _embed(self, t: jax.Array, condition: dict[str, jax.Array]) -> jax.Array:
        """The embedding of the time, and of what else is told, float32 [B, E]."""
        config, width = self.config, self.config.embedding_channels

        def sinusoids(t: jax.Array, channels: int = config.block_out_channels[0]) -> jax.Array:
            return timestep_embedding(t, channels, config.freq_shift, not config.flip_sin_to_cos)

        told = None
        if config.time_cond_proj_dim:
            told = _guidance_embedding(condition["guidance"], config.time_cond_proj_dim)
        embed = TimeEmbedding(width, config.act_fn, name="time_embedding")
        emb = embed(sinusoids(t), told)
        told = embed_class(config, condition, sinusoids, config.act_fn)
        emb = emb if told is None else emb + told
        if config.addition_time_embed_dim and "pooled" in condition:
            ids = condition["time_ids"]
            sizes = sinusoids(ids.reshape(-1), config.addition_time_embed_dim)
            pooled = condition["pooled"].astype(jnp.float32)
            told = jnp.concatenate([pooled, sizes.reshape(len(ids), -1)], axis=-1)
            emb = emb + TimeEmbedding(width, name="add_embedding")(told)
        return emb


def _guidance_embedding(scale: jax.Array, channels: int) -> jax.Array:
    """[sin, cos] of 1000 (s - 1) for scales s, [B], float32 [B, channels], as LCM has them
    (Luo et al. 2023, arXiv:2310.04378, section 4.2).
    """
    return timestep_embedding(1000 * (scale.astype(jnp.float32) - 1), channels, 1, True)
