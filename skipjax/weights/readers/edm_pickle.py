"""Pickles of EDM's kind, read without running a line of the code that they carry.

Such a .pkl is a plain pickle of {"ema": network, ...}. A network, and each of its layers, is

    torch_utils.persistence._reconstruct_persistent_obj({
        "type": "class", "version": 6, "module_src": source, "class_name": name, "state": dict})

whose `source` Python would execute on loading. Here only the name and the state are kept: params,
buffers and layers are found in the state by name, and the arguments that the network was made
with. Each tensor's elements are a file of torch before 1.6 of their own, a string of bytes which
is passed over until an array is asked for: memory does not grow with the file.
"""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skipjax.weights.readers import torch_file, torch_pickle
from skipjax.weights.readers.torch_pickle import DAMAGED, Stated, Unknown, shown
from skipjax.weights.readers.torch_tensors import KNOWN, Segment, Storage, Tensor

EMA = "ema"
_MARK = "torch_utils.persistence"
_MAX_START = 2**16  # of a file, within which its first object is named
_MAX_PICKLE = 2**24  # without the tensors; sources of some 40 KB are most of it
_MAX_LINE, _MAX_HEAD = 2**10, 2**12  # of a global, and of the pickles before a tensor's elements
_MAX_LAYERS, _MAX_TENSORS, _MAX_DEPTH, _MAX_NAME = 2**14, 2**14, 16, 100
_MAX_ITEMS, _MAX_TEXT = 64, 200  # of an argument
_NUMBERS = {f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8)} - {"f1"} | {"b1"}
_LAYERS = ("ModuleDict", "ModuleList", "Sequential")


@dataclass(frozen=True)
class Persistent:
    """An object that carries its source.

    Attributes:
        class_name: Of its class there.
        state: Its attributes.
    """

    class_name: str
    state: dict[Any, Any]


@dataclass(frozen=True)
class Snapshot:
    """A network of a pickle.

    Attributes:
        class_name: Such as "EDMPrecond".
        arguments: What it was made with, by position.
        keywords: And by name: numbers, texts, None, and lists and dicts of them.
        tensors: Its params and buffers by dotted names.
    """

    class_name: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    tensors: dict[str, Tensor]


def is_one(path: Path) -> bool:
    """Whether a file seems to be such a pickle, by how it begins."""
    with path.open("rb") as file:
        head = file.read(_MAX_START)
    return head[:1] == b"\x80" and not torch_file.is_legacy(head) and _MARK.encode() in head


def state_dicts(path: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of all networks in a file, by the networks' keys.

    Raises:
        ValueError: If it is damaged, or holds no network of this kind.
    """
    content = _content(path)
    return {key: _tensors(value) for key, value in content.items()}


def snapshot(path: Path, key: str | None = None) -> Snapshot:
    """A network of a file.

    Args:
        path: The file.
        key: Of the network; default: "ema", or the only one that has tensors.

    Raises:
        ValueError: If it is damaged, holds no network of this kind, or none under the key.
    """
    content = _content(path)
    if key is None:
        key = EMA if EMA in content else next(iter(content))
    if key not in content:
        raise ValueError(
            f"no network under the key {shown(key)}; there are {', '.join(map(shown, content))}"
        )
    network = content[key]
    arguments = _plain("its network's arguments", network.state.get("_init_args") or ())
    keywords = _plain("its network's arguments", network.state.get("_init_kwargs") or {})
    if type(arguments) is not tuple or type(keywords) is not dict:
        raise ValueError("its network's arguments are no tuple and dict")
    return Snapshot(network.class_name, arguments, keywords, _tensors(network))


def _content(path: Path) -> dict[str, Persistent]:
    """The objects with tensors that a file holds by name."""
    storages: dict[int, Storage | Unknown] = {}

    def from_bytes(passage) -> Any:
        if type(passage) is not Segment:
            raise ValueError(f"its pickle has a storage of no bytes; {DAMAGED}")
        if passage.start not in storages:  # or one could be read a million times
            found = torch_file.read_legacy(path, passage.start, passage.size, _MAX_HEAD)
            storages[passage.start] = found if type(found) is Storage else Unknown("a storage")
        return storages[passage.start]

    known = KNOWN | _KNOWN | {("torch.storage", "_load_from_bytes"): from_bytes}
    with _File(path) as file:
        content = torch_pickle.load(file, known, _no_persistent_id)
    if type(content) is not dict:
        content = {}
    found = {
        key: value
        for key, value in content.items()
        if type(value) is Persistent and type(key) is str and len(key) <= _MAX_NAME
    }
    if not found:
        raise ValueError(torch_file.BARE)
    networks = {key: value for key, value in found.items() if _tensors(value)}
    if not networks:
        raise ValueError(f"its objects hold no tensors: {', '.join(map(shown, found))}")
    return networks


class _File(io.BufferedReader):
    """A pickle in a file, of which strings of bytes are passed over, not read."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self._path, self._end = path, os.fstat(self.fileno()).st_size
        self._left, self._reads = _MAX_PICKLE, 0

    def read(self, size: int | None = -1, /) -> bytes:
        """The next `size` bytes, all of them.

        Raises:
            ValueError: If there are less, or too many were read already.
        """
        assert size is not None
        self._count(size)
        piece = super().read(size) if self.tell() + size <= self._end else b""
        if len(piece) != size:
            raise ValueError(f"its pickle is cut short; {DAMAGED}")
        return piece

    def readline(self, size: int | None = -1, /) -> bytes:
        """The rest of a line, which is a name and not long."""
        self._count(_MAX_LINE)
        line = super().readline(_MAX_LINE)
        self._left += _MAX_LINE - len(line)
        if not line.endswith(b"\n"):
            raise ValueError(f"its pickle has a name without an end; {DAMAGED}")
        return line

    def passage(self, size: int) -> Segment:
        """Where bytes lie, which are passed over."""
        start = self.tell()
        if start + size > self._end:
            raise ValueError(f"its pickle is cut short; {DAMAGED}")
        self.seek(size, os.SEEK_CUR)
        return Segment(self._path, start, size)

    def _count(self, size: int) -> None:
        self._left -= size
        self._reads += 1
        if self._left < 0 or self._reads > torch_pickle.MAX_READS:
            raise ValueError("its pickle has too many parts beside its tensors")


def _no_persistent_id(_: Any) -> Any:
    raise ValueError(f"its pickle names a storage that is not in it; {DAMAGED}")


def _reconstructed(meta) -> Persistent | Unknown:
    if type(meta) is not dict:
        return Unknown("a persistent object")
    name, state = meta.get("class_name"), meta.get("state")
    if type(name) is not str or type(state) is not dict:
        return Unknown("a persistent object")
    return Persistent(name[:_MAX_NAME], state)


def _dtype(code, align=False, copy=False) -> Stated:
    return Stated(code if type(code) is str and code in _NUMBERS else "")


def _scalar(kind, content) -> Any:
    """A number of NumPy's, as Python's; its bytes are in the order that its dtype's state says."""
    if type(kind) is not Stated or kind.name not in _NUMBERS or type(content) is not Segment:
        return Unknown("numpy.scalar")
    order = kind.state[1] if type(kind.state) is tuple and len(kind.state) > 1 else "<"
    if type(order) is not str or order not in ("<", ">", "|", "="):
        return Unknown("numpy.scalar")
    dtype = np.dtype(kind.name).newbyteorder(">" if order == ">" else "<")
    if content.size != dtype.itemsize:
        raise ValueError(f"its pickle has a number of {content.size} bytes; {DAMAGED}")
    return content.read().view(dtype)[0].item()


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    (_MARK, "_reconstruct_persistent_obj"): _reconstructed,
    ("dnnlib.util", "EasyDict"): lambda: {},
    ("dnnlib", "EasyDict"): lambda: {},
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    **{("torch.nn.modules.container", name): lambda: Stated("layers") for name in _LAYERS},
}


def _tensors(network: Persistent) -> dict[str, Tensor]:
    """Params and buffers of an object and the layers in it, by dotted names.

    Layers may hold each other, or be there a million times over.

    Raises:
        ValueError: If there are too many, or a tensor is of a kind that is not read.
    """
    found: dict[str, Tensor] = {}
    layers: list[tuple[tuple[str, ...], Any]] = [((), network)]
    seen = 0
    while layers:
        path, layer = layers.pop()
        seen += 1
        if seen > _MAX_LAYERS or len(path) > _MAX_DEPTH:
            raise ValueError("its network has too many layers, or layers within each other")
        if type(layer.state) is not dict:
            continue
        for kind in ("_parameters", "_buffers"):
            for name, tensor in _named(layer.state, kind):
                if type(tensor) is Unknown and tensor.name.startswith("torch._"):
                    raise ValueError(f"{shown(name)} is made by {shown(tensor.name)}: not read")
                if type(tensor) is Tensor:
                    found[".".join((*path, name))] = tensor
                if len(found) > _MAX_TENSORS:
                    raise ValueError("its network has too many tensors")
        inner = [
            ((*path, name), below)
            for name, below in _named(layer.state, "_modules")
            if type(below) in (Persistent, Stated)
        ]
        if len(layers) + len(inner) > _MAX_LAYERS:
            raise ValueError("its network has too many layers, or layers within each other")
        layers += reversed(inner)
    return found


def _named(state: dict[Any, Any], kind: str) -> list[tuple[str, Any]]:
    items = state.get(kind)
    if type(items) is not dict:
        return []
    return [(k, v) for k, v in items.items() if type(k) is str and len(k) <= _MAX_NAME]


def _plain(what: str, value: Any, depth: int = 0) -> Any:
    """A value of numbers, texts, None, and lists, tuples and dicts of them.

    Raises:
        ValueError: If something else is in it, or it is deep or long.
    """
    if value is None or type(value) in (bool, int, float):
        return value
    if type(value) is str and len(value) <= _MAX_TEXT:
        return value
    if depth < 3 and type(value) in (list, tuple) and len(value) <= _MAX_ITEMS:
        return type(value)(_plain(what, item, depth + 1) for item in value)
    if depth < 3 and type(value) is dict and len(value) <= _MAX_ITEMS:
        return {key: _plain(shown(key), item, depth + 1) for key, item in value.items()}
    got = shown(value.name) if type(value) is Unknown else shown(value)
    raise ValueError(f"{what}: {got} is no number, short text, or short list of them")
