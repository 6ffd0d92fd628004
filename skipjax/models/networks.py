"""From a config to its network, the arguments it takes, and the shapes of its params."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from skipjax.models.classifier import Classifier
from skipjax.models.config import ClassifierConfig, UNetConfig
from skipjax.models.unet import UNet


def network(
    config: UNetConfig | ClassifierConfig, dtype: DTypeLike = jnp.float32, remat: bool = False
) -> UNet | Classifier:
    """The network that a config describes; `dtype` and `remat` as its module explains them."""
    if isinstance(config, ClassifierConfig):
        return Classifier(config, jnp.dtype(dtype), remat)
    return UNet(config, jnp.dtype(dtype), remat)


def example(config: UNetConfig | ClassifierConfig) -> tuple[jax.Array | None, ...]:
    """The least arguments that the network takes: what its params are initialised with.

    Returns:
        x and t of a classifier; x, t and y (or None) of a U-Net, and low_res if it takes one.
    """
    side = config.factor
    if isinstance(config, ClassifierConfig):
        side = config.image_size if config.pool == "attention" else side
        return jnp.zeros((1, side, side, config.in_channels)), jnp.zeros(1)
    y = None if config.num_classes is None else jnp.zeros(1, jnp.int32)
    x, t = jnp.zeros((1, side, side, config.in_channels)), jnp.zeros(1)
    if not config.low_res_channels:
        return x, t, y
    return x, t, y, jnp.zeros((1, 1, 1, config.low_res_channels))


def param_shapes(config: UNetConfig | ClassifierConfig) -> dict[str, Any]:
    """Shapes and dtypes of the network's params, without computing any.

    Returns:
        Nested dict of `jax.ShapeDtypeStruct`s, a new one each time.
    """
    return jax.tree.map(lambda leaf: leaf, _param_shapes(config))


@lru_cache(maxsize=64)
def _param_shapes(config: UNetConfig | ClassifierConfig) -> Any:
    # Tracing a large network takes the better part of a second.
    shapes: Any = jax.eval_shape(network(config).init, jax.random.key(0), *example(config))
    return shapes["params"]
