"""The arguments that stand by themselves, each checked."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.checks import whole
from skipjax.pretrained import Classifier, Pretrained


def as_model(params: Any) -> Pretrained:
    """The network, if it is one that draws.

    Raises:
        TypeError: If it is something else.
    """
    if isinstance(params, Pretrained):
        return params
    if isinstance(params, Classifier):
        raise TypeError(
            f"params is {params.name}, a classifier, which draws nothing: pass it as "
            "classifier=, beside the network that it guides"
        )
    raise TypeError(
        f"params is a {type(params).__name__}: pass what skipjax.load(...) returned. Plain params "
        "become one with skipjax.Pretrained(params, network, skipjax.Process(schedule), ...)"
    )


def as_key(key: Any) -> jax.Array:
    """The key, if it is a single one of the typed kind.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        legacy = ", a legacy key" if np.shape(key) == (2,) else ""
        raise TypeError(f"key is {key!r}{legacy}: pass a typed key, such as jax.random.key(0)")
    if key.shape:
        raise TypeError(
            f"key holds keys of shape {key.shape}: pass one; each sample derives its own"
        )
    return key


def as_ids(num: int | None, ids: Any, default: int = 4) -> np.ndarray:
    """Ids of the samples: those given, or 0 .. num-1.

    Raises:
        ValueError: If they are not whole numbers in 0 .. 2^32 - 1, or not as many as `num` says.
    """
    if ids is None:
        return np.arange(whole("num", default if num is None else num, 1, 2**32))
    array = np.asarray(ids)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
        raise ValueError(f"ids is {ids!r}: it must be a non-empty list of whole numbers")
    if array.min() < 0 or array.max() >= 2**32:
        raise ValueError(f"ids span {array.min()} .. {array.max()}: they must be in 0 .. 2^32 - 1")
    if num is not None and num != len(array):
        raise ValueError(f"num is {num}, and ids holds {len(array)}: drop one")
    return array


def is_numeric(value: Any, shape: tuple[int, ...]) -> bool:
    """Whether a value is numbers of a shape."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists within lists, of different lengths
        return False
    return array.shape == shape and array.dtype.kind in "iuf"
