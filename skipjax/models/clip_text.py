"""The text encoders of CLIP (Radford et al. 2021, arXiv:2103.00020, section 2.4), in Flax: CLIP-L,
and OpenCLIP's H and bigG.

A transformer whose tokens attend those before them. Tokens are [B, L, D], and submodules carry
transformers' names with `.` written as `_`. Matrices are multiplied in `dtype`; norms, softmax,
and the sum that the layers add to are in float32.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from skipjax.checks import whole
from skipjax.models.config import FlaxConfig

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": partial(nn.gelu, approximate=False),
}
# The last token of OpenAI's vocabulary, which ends a text; further ones were added.
END = 49407


class TextStates(NamedTuple):
    """What a text encoder makes of tokens.

    Attributes:
        hidden: float32 [B, L, D], after the layers that were asked for.
        normed: float32 [B, L, D], the same after the final norm.
        pooled: float32 [B, P], what the last layer has at the end of the text, after the final
            norm and, where there is one, the projection.
    """

    hidden: jax.Array
    normed: jax.Array
    pooled: jax.Array


@dataclass(frozen=True)
class CLIPTextConfig(FlaxConfig):
    """Architecture of a text encoder, in transformers' argument names and with its defaults.

    Args:
        vocab_size: Number of tokens.
        hidden_size: Width of a token, a multiple of `num_attention_heads`.
        intermediate_size: Width inside the MLPs.
        projection_dim: Width of what the pooled vector is projected to.
        num_hidden_layers: Number of layers.
        num_attention_heads: Attention heads.
        max_position_embeddings: Tokens of the longest text.
        hidden_act: Activation of the MLPs: "quick_gelu", x sigmoid(1.702 x), or "gelu".
        layer_norm_eps: Epsilon of the norms.
        eos_token_id: The token that ends a text, of which the first counts. 2, as released files
            have it, stands for the token of the greatest id.
        with_projection: Whether the pooled vector is projected: CLIPTextModelWithProjection.

    Raises:
        ValueError: For a value that no network can be built from.
    """

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = END
    with_projection: bool = False

    def __post_init__(self):
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "projection_dim",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
        ):
            whole(name, getattr(self, name), 1)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}: it must be a multiple of "
                f"num_attention_heads, {self.num_attention_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"hidden_act is {self.hidden_act!r}: it must be one of {', '.join(ACTIVATIONS)}"
            )

    def apply(
        self,
        params: Any,
        ids: jax.Array,
        *,
        layer: int = -1,
        dtype: DTypeLike = jnp.float32,
    ) -> TextStates:
        """What the encoder makes of texts.

        Args:
            params: As `init` makes them.
            ids: Tokens, int [B, L], each in 0 .. vocab_size-1; L of at most
                `max_position_embeddings`. Which of them pad the text is of no account.
            layer: After how many layers `hidden` is taken: 0 .. num_hidden_layers, or counted from
                the end, of which -1 is after all.
            dtype: To compute in: float32, bfloat16 or float16.

        Raises:
            ValueError: For tokens of another shape or dtype, more of them than there are
                positions, or a layer that is not there.
        """
        layers, longest = self.num_hidden_layers, self.max_position_embeddings
        if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
            raise ValueError(
                f"ids is {ids.dtype} {list(ids.shape)}: it must be whole numbers [batch, tokens]"
            )
        if not 0 < ids.shape[1] <= longest:
            raise ValueError(
                f"ids has {ids.shape[1]} tokens: the encoder has positions for 1 .. {longest}"
            )
        if not -layers - 1 <= layer <= layers:
            raise ValueError(f"layer is {layer}: it must be in {-layers - 1} .. {layers}")
        states: Any = self.module(dtype).apply({"params": params}, ids, layer % (layers + 1))
        return states

    def module(self, dtype: DTypeLike = jnp.float32, remat: bool = False) -> "CLIPText":
        """The Flax module."""
        return CLIPText(self, jnp.dtype(dtype), remat)

    def example(self) -> tuple[jax.Array, ...]:
        """The least arguments that the module takes: tokens."""
        return (jnp.zeros((1, 1), jnp.int32),)


class CLIPText(nn.Module):
    """The network.

    Args:
        config: The architecture.
        dtype: What the layers compute in. Params are made in float32, and may be given in any
            float dtype.
        remat: Whether layers are computed again in the backward pass.
    """

    config: CLIPTextConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, ids: jax.Array, layer: int = 0) -> TextStates:
        """Evaluates the network; arguments as `CLIPTextConfig.apply` has them, layer from 0."""
        config = self.config
        embeddings = Embeddings(config, name="embeddings")
        states = Encoder(config, self.dtype, self.remat, name="encoder")(embeddings(ids))
        norm = _norm(config, "final_layer_norm")
        ends = norm(states[-1])[jnp.arange(len(ids)), end_of_text(config, ids)]
        if config.with_projection:
            project = nn.Dense(
                config.projection_dim, use_bias=False, dtype=self.dtype, name="text_projection"
            )
            ends = project(ends).astype(jnp.float32)
        return TextStates(states[layer], norm(states[layer]), ends)


class Embeddings(nn.Module):
    """Of tokens and of their positions, added: float32 [B, L, D]."""

    config: CLIPTextConfig

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        config, width = self.config, self.config.hidden_size
        embed = partial(nn.Embed, embedding_init=nn.initializers.normal(0.02))
        tokens = embed(config.vocab_size, width, name="token_embedding")(ids)
        table = embed(config.max_position_embeddings, width, name="position_embedding")
        places = table(jnp.arange(ids.shape[1]))[None]
        return tokens.astype(jnp.float32) + places.astype(jnp.float32)


class Encoder(nn.Module):
    """The layers, and what there is before and after each: float32 [B, L, D] of each."""

    config: CLIPTextConfig
    dtype: jnp.dtype
    remat: bool

    @nn.compact
    def __call__(self, h: jax.Array) -> list[jax.Array]:
        layer, states = nn.remat(Layer) if self.remat else Layer, [h]
        for i in range(self.config.num_hidden_layers):
            states.append(layer(self.config, self.dtype, name=f"layers_{i}")(states[-1]))
        return states


class Layer(nn.Module):
    """Attention, then an MLP, each with a norm in front and a residual path around it."""

    config: CLIPTextConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        config, dtype = self.config, self.dtype
        h = h + SelfAttention(config, dtype, name="self_attn")(_norm(config, "layer_norm1")(h))
        return h + MLP(config, dtype, name="mlp")(_norm(config, "layer_norm2")(h))


class SelfAttention(nn.Module):
    """Of each token to itself and those before it."""

    config: CLIPTextConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        width, heads = self.config.hidden_size, self.config.num_attention_heads
        q, k, v = (
            nn.Dense(width, dtype=self.dtype, name=name)(h).reshape(*h.shape[:2], heads, -1)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        h = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(h.shape)
        return nn.Dense(width, dtype=self.dtype, name="out_proj")(h)


class MLP(nn.Module):
    """Linear, activation, linear."""

    config: CLIPTextConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        config = self.config
        h = nn.Dense(config.intermediate_size, dtype=self.dtype, name="fc1")(h)
        h = ACTIVATIONS[config.hidden_act](h)
        return nn.Dense(config.hidden_size, dtype=self.dtype, name="fc2")(h)


def end_of_text(config: CLIPTextConfig, ids: jax.Array) -> jax.Array:
    """Where texts end, int [B] of ids [B, L]: at the first `eos_token_id`, or at the greatest
    token where that is 2. Without one they end at their beginning.
    """
    if config.eos_token_id == 2:
        return jnp.argmax(ids, axis=1)
    return jnp.argmax(ids == config.eos_token_id, axis=1)


def _norm(config: CLIPTextConfig, name: str) -> nn.LayerNorm:
    # The fast variance, E[x^2] - E[x]^2, cancels where a token has a few large channels.
    return nn.LayerNorm(
        config.layer_norm_eps, dtype=jnp.float32, use_fast_variance=False, name=name
    )
