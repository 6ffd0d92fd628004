"""A text encoder by itself: what `skipjax.load` gives for the folder of one."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike

from skipjax.models import CLIPTextConfig, TextStates


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class TextEncoder:
    """Tokens to vectors; no tokenizer is needed.

    Attributes:
        params: Weights.
        network: The architecture; static.
    """

    params: Any
    network: CLIPTextConfig = field(metadata={"static": True})

    def __repr__(self) -> str:
        net = self.network
        return f"TextEncoder({net.num_hidden_layers} layers of {net.hidden_size} channels)"

    def init(self, key: jax.Array) -> Any:
        """Params drawn at random."""
        return self.network.init(key)

    def apply(self, ids: Any) -> jax.Array:
        """What the last layer makes of each token, after the final norm: float32 [B, L, D].

        Args:
            ids: Tokens, int [B, L], each in 0 .. vocab_size-1; L of at most the encoder's
                positions.

        Raises:
            ValueError: For tokens of another shape or dtype, or out of range.
        """
        return self.states(ids).normed

    def pooled(self, ids: Any) -> jax.Array:
        """What the last layer makes of the end of the text, after the final norm and, where the
        encoder has one, the projection: float32 [B, P].

        Args:
            ids: As in `apply`.
        """
        return self.states(ids).pooled

    def hidden(self, ids: Any, skip: int = 0) -> jax.Array:
        """What all layers but the last `skip` make of each token, before the final norm: float32
        [B, L, D].

        Args:
            ids: As in `apply`.
            skip: 0 .. the number of layers.
        """
        return self.states(ids, skip).hidden

    def states(self, ids: Any, skip: int = 0) -> TextStates:
        """All that the encoder makes of tokens, by one program for each shape of them; `hidden`
        and `normed` without the last `skip` layers.
        """
        ids = ids if isinstance(ids, jax.Array) else np.asarray(ids)
        if not isinstance(ids, Tracer) and np.issubdtype(ids.dtype, np.integer):
            tokens = self.network.vocab_size
            if ids.size and not 0 <= np.min(ids) <= np.max(ids) < tokens:
                raise ValueError(
                    f"ids span {np.min(ids)} .. {np.max(ids)}: they must be in 0 .. {tokens - 1}"
                )
            ids = jnp.asarray(ids, jnp.int32)
        layers = self.network.num_hidden_layers
        if not 0 <= skip <= layers:
            raise ValueError(f"skip is {skip}: it must be in 0 .. {layers}")
        return _states(self, ids, skip, _dtype(self.params))


@partial(jax.jit, static_argnames=("skip", "dtype"))
def _states(encoder: TextEncoder, ids: jax.Array, skip: int, dtype: DTypeLike) -> TextStates:
    return encoder.network.apply(encoder.params, ids, layer=-1 - skip, dtype=dtype)


def _dtype(params: Any) -> DTypeLike:
    """bfloat16 for weights that are kept so. float16 is not enough for what is between layers."""
    kinds = {leaf.dtype for leaf in jax.tree.leaves(params)}
    return jnp.bfloat16 if kinds == {jnp.dtype(jnp.bfloat16)} else jnp.float32
