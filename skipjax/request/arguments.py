"""The other arguments of `sample`, each by itself."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from skipjax.checks import whole
from skipjax.pretrained import Classifier, Pretrained, Spec


def network(params: Any) -> Pretrained:
    """The network, if it is one that draws pictures."""
    if isinstance(params, Pretrained):
        return params
    if isinstance(params, Classifier):
        raise TypeError(
            f"params is {params.spec.name}, a classifier, which draws nothing: pass it as "
            "classifier=, beside the network that it guides"
        )
    raise TypeError(
        f"params is a {type(params).__name__}: pass what skipjax.load(...) returned. Plain params "
        "become one with skipjax.Pretrained(params, skipjax.Spec(name, config, ...))"
    )


def key(key: Any) -> jax.Array:
    """The key, if it is a single one of the typed kind."""
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        legacy = ", a legacy key" if np.shape(key) == (2,) else ""
        raise TypeError(f"key is {key!r}{legacy}: pass a typed key, such as jax.random.key(0)")
    if key.shape:
        raise TypeError(
            f"key holds keys of shape {key.shape}: pass one; each picture derives its own"
        )
    return key


def dtype(dtype: DTypeLike) -> jnp.dtype:
    """What the network computes in."""
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"dtype is {jnp.dtype(dtype)}: it must be float32 or bfloat16")
    return jnp.dtype(dtype)


def threshold(quantile: float | None) -> float | None:
    """The quantile of dynamic thresholding, if any."""
    if quantile is None:
        return None
    if not numbers(quantile, ()) or not 0 < quantile <= 1:
        raise ValueError(f"threshold is {quantile!r}: it must be a quantile, in (0, 1]")
    return float(quantile)


def low_res(spec: Spec, pictures: Any) -> np.ndarray | jax.Array | None:
    """The pictures to enlarge, in [-1, 1]."""
    channels, side = spec.unet.low_res_channels, spec.low_res
    accepted = f"[num, {side or 'h'}, {side or 'w'}, {channels}]"
    if pictures is None:
        if channels:
            raise ValueError(f"{spec.name} enlarges pictures: give them as low_res, {accepted}")
        return None
    if not channels:
        raise ValueError(f"low_res is given, and {spec.name} does not enlarge pictures")
    if not isinstance(pictures, (np.ndarray, jax.Array)):
        pictures = np.asarray(pictures)
    shape = pictures.shape
    if (
        len(shape) != 4
        or not shape[0]
        or shape[1:] != ((side or shape[1]), (side or shape[2]), channels)
    ):
        raise ValueError(f"low_res is {shape}: {spec.name} takes {accepted}")
    if pictures.dtype == np.uint8:
        return np.asarray(pictures, np.float32) / 127.5 - 1
    if not jnp.issubdtype(pictures.dtype, jnp.floating):
        raise ValueError(f"low_res is {pictures.dtype}: it must be float in [-1, 1], or uint8")
    if not np.abs(np.asarray(pictures, np.float32)).max() <= 2:
        raise ValueError("low_res must be in [-1, 1]: divide 0 .. 255 by 127.5 and take 1 away")
    return pictures


def ids(num: int, ids: Any, low_res: np.ndarray | jax.Array | None) -> np.ndarray:
    """Ids of the pictures."""
    if ids is None:
        num = whole("num", num, 1, 2**32)
        # 4 is what num is where nobody said it.
        array = np.arange(len(low_res) if low_res is not None and num == 4 else num)
    else:
        array = np.asarray(ids)
        if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
            raise ValueError(f"ids is {ids!r}: it must be a non-empty list of whole numbers")
        if array.min() < 0 or array.max() >= 2**32:
            raise ValueError(
                f"ids span {array.min()} .. {array.max()}: they must be in 0 .. 2^32 - 1"
            )
    if low_res is not None and len(low_res) != len(array):
        raise ValueError(f"low_res has {len(low_res)} pictures, and {len(array)} are to be drawn")
    return array


def numbers(value: Any, shape: tuple[int, ...]) -> bool:
    try:
        array = np.asarray(value)
    except ValueError:  # lists within lists, of different lengths
        return False
    return array.shape == shape and array.dtype.kind in "iuf"
