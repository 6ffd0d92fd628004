"""What is asked of any network's config: its module, and the shapes of its params."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def network(config: Any, dtype: DTypeLike = jnp.float32, remat: bool = False) -> Any:
    """The Flax module that a config describes; `dtype` and `remat` as its module explains them."""
    return config.module(dtype, remat)


def example(config: Any) -> tuple[jax.Array | None, ...]:
    """The least arguments that the module takes: what its params are initialised with."""
    return config.example()


def param_shapes(config: Any) -> dict[str, Any]:
    """Shapes and dtypes of a network's params, without computing any.

    Args:
        config: Hashable, with `init(key)`.

    Returns:
        Nested dict of `jax.ShapeDtypeStruct`s, a new one each time.
    """
    return jax.tree.map(lambda leaf: leaf, _param_shapes(config))


@lru_cache(maxsize=64)
def _param_shapes(config: Any) -> Any:
    # Tracing a large network takes the better part of a second.
    return jax.eval_shape(config.init, jax.random.key(0))
