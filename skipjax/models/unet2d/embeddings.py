"""What the blocks of diffusers' U-Nets are told beside the time: a class, where there is one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from skipjax.models.blocks import TimeEmbedding


def embed_class(
    config: Any,
    condition: dict[str, jax.Array],
    project: Callable[[jax.Array], jax.Array],
    activation: str = "silu",
) -> jax.Array | None:
    """The embedding of the condition's class, inside `nn.compact`.

    Args:
        config: With `class_embed_type`, `num_classes` and `embedding_channels`.
        condition: "embedding" [B, E] or "label" [B], or neither.
        project: From labels that are embedded like times to their sinusoids, [B, C].
        activation: Of labels that are embedded like times, a name in `blocks.ACTIVATIONS`.

    Returns:
        float32 [B, embedding_channels]; None where the condition has no class.
    """
    width, kind = config.embedding_channels, config.class_embed_type
    if "embedding" in condition:
        told = condition["embedding"].astype(jnp.float32)
        if kind == "identity":
            return told
        return TimeEmbedding(width, name="class_embedding")(told)
    if "label" not in condition:
        return None
    label = condition["label"]
    if kind == "timestep":
        return TimeEmbedding(width, activation, name="class_embedding")(project(label))
    normal = nn.initializers.normal(1.0)
    table = nn.Embed(config.num_classes, width, embedding_init=normal, name="class_embedding")
    return table(label).astype(jnp.float32)
