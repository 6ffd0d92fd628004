"""Lazy tensors of a .safetensors file, through its own library."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open


class Tensor:
    """An array in a file, read by `numpy.asarray`."""

    def __init__(self, path: Path, name: str, shape: tuple[int, ...]):
        self._path, self._name, self.shape = path, name, shape

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        with safe_open(self._path, framework="np") as file:
            return np.asarray(file.get_tensor(self._name), dtype)


def state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name.

    Raises:
        ValueError: If it is damaged, or of another kind.
    """
    try:
        with safe_open(path, framework="np") as file:
            names = file.keys()
            return {n: Tensor(path, n, tuple(file.get_slice(n).get_shape())) for n in names}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole .safetensors file ({error})") from None


def metadata(path: Path) -> dict[str, str]:
    """What the header of a file says beside its tensors.

    Raises:
        ValueError: If it is damaged, or of another kind.
    """
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole .safetensors file ({error})") from None
