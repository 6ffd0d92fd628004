"""The checks that arguments of many functions need."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

SHORT = {"bf16": "bfloat16", "fp32": "float32", "fp16": "float16", "f32": "float32"}


def whole(name: str, value: int, low: int, high: int | None = None) -> int:
    """The value as int, if it is a whole number in low .. high, or of at least low.

    Raises:
        ValueError: If not, with what was got and what is accepted.
    """
    accepted = f"in {low} .. {high}" if high is not None else f"of at least {low}"
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_whole or value < low or (high is not None and value > high):
        raise ValueError(f"{name} is {value!r}: it must be a whole number {accepted}")
    return int(value)


def as_dtype(dtype: DTypeLike, known: tuple[str, ...] = ("float32", "bfloat16")) -> jnp.dtype[Any]:
    """A dtype by any of its names, "bf16" too.

    Raises:
        ValueError: If it is none of those known.
    """
    try:
        found = jnp.dtype(SHORT.get(dtype, dtype) if isinstance(dtype, str) else dtype)
    except TypeError:
        found = None
    if found is None or found.name not in known:
        *others, last = known
        accepted = f"{', '.join(others)} or {last}"
        shown = dtype if isinstance(dtype, str) or found is None else found
        raise ValueError(f"dtype is {shown}: it must be {accepted}")
    return found
