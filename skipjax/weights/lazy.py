"""Tensors that are made of others when they are asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Lazy:
    """An array by `numpy.asarray`, of a shape that is known before.

    Attributes:
        shape: Of the array.
        compute: Makes it, each time that it is asked for.
    """

    shape: tuple[int, ...]
    compute: Callable[[], np.ndarray]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.compute(), dtype)
