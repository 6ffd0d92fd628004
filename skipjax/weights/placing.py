"""Tensors of somebody's files as params: one at a time, each to where it belongs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.typing import DTypeLike

from skipjax import sharding
from skipjax.models import param_shapes
from skipjax.sharding import Placement
from skipjax.weights import attention_order, folders, registry


def params(
    tensors: Mapping[str, Any], config: Any, dtype: DTypeLike, where: Placement | None
) -> Any:
    """The params of a network, of which there is never a second copy in memory.

    Args:
        tensors: By name, as `layout.to_params` takes them.
        config: The network's.
        dtype: To keep the weights in.
        where: Where to put them.

    Raises:
        ValueError: If files of such a network are not read, the tensors do not fit it, or are not
            finite.
    """
    to_params = registry.FILES.get(type(config))
    if to_params is None:
        raise ValueError(f"files of {type(config).__name__} are not read")
    places: Any = traverse_util.flatten_dict(sharding.shardings(where, param_shapes(config)))
    attention, bad = {}, []

    def convert(name: tuple[str, ...], array: np.ndarray) -> jax.Array:
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{'.'.join(name)} is {array.dtype}: weights are real numbers")
        # In C order here and now: the device may then take the memory over instead of copying it.
        with np.errstate(over="ignore"):  # what is too large for the dtype is refused by name
            array = np.ascontiguousarray(array, dtype)
        if folders.finite(array):
            attention.update(attention_order.marks(name, array, config))
        else:
            bad.append(tuple(map(jax.tree_util.DictKey, name)))
        return jax.device_put(array, places[name])

    found = to_params(tensors, config, convert)
    folders.refuse(bad)
    attention_order.check(attention, config)
    return found
