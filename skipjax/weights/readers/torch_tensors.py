"""The tensors of a PyTorch file, each a checked view of bytes that are not read yet."""

import dataclasses
import math
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from skipjax.weights.readers.torch_pickle import DAMAGED, Unknown, shown

_MAX_DIMENSIONS = 64  # NumPy's limit, and torch's
_MAX_NUMBER = 2**63
_MAX_KEY = 64  # they are numbers
_CHUNK = 2**20
_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "ComplexDoubleStorage": np.complex128,
    "ComplexFloatStorage": np.complex64,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_DTYPES = [*_STORAGES.values(), np.uint16, np.uint32, np.uint64]
_DTYPES += [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2]
_DTYPES += [ml_dtypes.float8_e5m2fnuz, ml_dtypes.float8_e8m0fnu]


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive bytes of a file; of those in a zip archive the CRC-32 is known."""

    path: Path
    start: int
    size: int
    crc: int | None = None

    def read(self) -> np.ndarray:
        """The bytes, as a new uint8 array.

        Raises:
            ValueError: If the file ends before them, or their CRC-32 is another.
        """
        content, crc = np.empty(self.size, np.uint8), 0
        with self.path.open("rb") as file:
            file.seek(self.start)
            # In pieces that fit the cache, to be summed while they are warm.
            for at in range(0, self.size, _CHUNK):
                piece = content.data[at : at + _CHUNK]
                if file.readinto(piece) != len(piece):
                    raise ValueError(f"{self.path}: ends too early; {DAMAGED}")
                crc = zlib.crc32(piece, crc) if self.crc is not None else 0
        if self.crc not in (None, crc):
            unsummed = ", or save it again with checksums if torch was told to leave them out"
            raise ValueError(
                f"{self.path}: the CRC-32 of the {self.size} bytes at {self.start} is wrong; "
                f"{DAMAGED}{unsummed if self.crc == 0 else ''}"
            )
        return content


@dataclasses.dataclass(frozen=True)
class StorageType:
    """What a pickle says of the elements of a storage: no dtype where each tensor brings one."""

    dtype: np.dtype | None

    @property
    def itemsize(self) -> int:
        """Bytes of an element, which of no dtype are bytes themselves."""
        return self.dtype.itemsize if self.dtype else 1


@dataclasses.dataclass(slots=True)
class Storage:
    """What tensors are views of.

    Attributes:
        key: Its name in the file.
        kind: Of its elements.
        numel: How many they are.
        byteorder: Theirs, "little" or "big".
        segment: Where they lie, once that is known.
    """

    key: str
    kind: StorageType
    numel: int
    byteorder: str
    segment: Segment | None = None


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A tensor in a file; `np.asarray(tensor)` reads it.

    Attributes:
        shape: Its sizes.
        dtype: Its type in NumPy, by ml_dtypes where NumPy has none.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    _strides: tuple[int, ...] = dataclasses.field(repr=False)
    _offset: int = dataclasses.field(repr=False)
    _storage: Storage = dataclasses.field(repr=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads the tensor's storage, and no other, into a new C-contiguous array.

        Raises:
            ValueError: If the file is damaged there, or `copy` is False.
        """
        segment = self._storage.segment
        assert segment is not None
        if copy is False:
            raise ValueError(f"{segment.path}: is read into new memory: copy=False cannot be met")
        content = segment.read()
        if self.dtype == np.bool_ and content.max(initial=0) > 1:
            raise ValueError(f"{segment.path}: has bools other than 0 and 1; {DAMAGED}")
        if self._storage.byteorder != sys.byteorder:
            part = self.dtype.itemsize // (2 if self.dtype.kind == "c" else 1)
            content.view(f"u{part}").byteswap(inplace=True)
        if not math.prod(self.shape):
            return np.empty(self.shape, self.dtype if dtype is None else dtype)
        elements, itemsize = content.view(self.dtype), self.dtype.itemsize
        # A stride along one element is never taken, and may be any number.
        strides = tuple(
            stride * itemsize * (size > 1)
            for size, stride in zip(self.shape, self._strides, strict=True)
        )
        view = np.ndarray(self.shape, self.dtype, elements, self._offset * itemsize, strides)
        # A part of the storage would keep all of it in memory.
        return np.array(view, dtype, order="C", copy=None if view.size == elements.size else True)


class Storages(dict[str, Storage]):
    """The storages that a pickle names, by their keys."""

    def __init__(self, byteorder: str):
        self._byteorder = byteorder

    def load(self, persistent_id: Any) -> Storage | Unknown:
        """The storage that a persistent id stands for; or the class of a module, not read."""
        match persistent_id:
            case ("module", Unknown() as network, _, _):
                return network
            case ("storage", StorageType() as kind, str(key), str(), int(numel)):
                pass
            case ("storage", StorageType() as kind, str(key), str(), int(numel), None):
                pass  # of torch before 1.6
            case _:
                key, kind, numel = "", None, -1
        if kind is None or len(key) > _MAX_KEY or not 0 <= numel < _MAX_NUMBER:
            raise ValueError("its pickle has a persistent id that is not torch's")
        storage = self.setdefault(key, Storage(key, kind, numel, self._byteorder))
        if (storage.kind, storage.numel) != (kind, numel):
            raise ValueError(f"its pickle has two storages of the one key {shown(key)}")
        return storage

    def place(self, key: str, segment: Segment | None) -> None:
        """Says where the storage of a key lies."""
        size = self[key].numel * self[key].kind.itemsize
        if segment is None or segment.size != size:
            raise ValueError(
                f"its storage {shown(key)} should have {size} bytes, but has "
                f"{segment.size if segment else 'none'}; {DAMAGED}"
            )
        self[key].segment = segment


# Arguments are whatever the pickle gives.
def _view(storage, dtype, offset, shape, strides, metadata) -> Tensor:
    """A tensor, after a check that all of it lies within its storage."""
    if type(storage) is not Storage or not isinstance(dtype, np.dtype):
        raise ValueError("its pickle makes a tensor of something other than a storage and a dtype")
    if metadata:
        raise ValueError("its pickle has a negated or conjugated tensor: save a .clone() of it")
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise ValueError("its pickle has a tensor whose sizes and strides are not two such tuples")
    if len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"its pickle has a tensor of {len(shape)} dimensions")
    for number in (offset, *shape, *strides):
        if type(number) is not int or not 0 <= number < _MAX_NUMBER:
            raise ValueError(f"its pickle has a tensor with {shown(number)} as a size or stride")
    elements, rest = divmod(storage.numel * storage.kind.itemsize, dtype.itemsize)
    place = f"its storage {shown(storage.key)} of {elements} elements has"
    if rest:
        raise ValueError(f"its storage {shown(storage.key)} is not a whole number of {dtype}")
    numel = math.prod(shape)
    last = offset + sum(stride * (size - 1) for size, stride in zip(shape, strides, strict=True))
    if numel and last >= elements:
        raise ValueError(f"{place} a tensor that reaches beyond its end")
    if numel > elements:
        raise ValueError(
            f"{place} a tensor that repeats them to {shown(numel)}: save it without expand()"
        )
    # Sixteen bytes are those of the largest dtype that it may be converted to.
    if math.prod(max(size, 1) for size in shape) * 16 >= _MAX_NUMBER:
        raise ValueError(f"{place} an empty tensor of sizes that no array can have")
    return Tensor(shape, dtype, strides, offset, storage)


def _rebuild(storage, offset, shape, strides, grad=None, hooks=None, metadata=None) -> Tensor:
    dtype = storage.kind.dtype if type(storage) is Storage else None
    return _view(storage, dtype, offset, shape, strides, metadata)


def _rebuild_v3(storage, offset, shape, strides, grad, hooks, dtype, metadata=None) -> Tensor:
    if type(storage) is Storage and storage.kind.dtype is not None:
        raise ValueError("its pickle has a tensor with a dtype other than that of its storage")
    return _view(storage, dtype, offset, shape, strides, metadata)


def _rebuild_parameter(data, grad, hooks, state=None) -> Any:
    return data


KNOWN: dict[tuple[str, str], Callable[..., Any] | StorageType | np.dtype] = {
    ("collections", "OrderedDict"): lambda: {},
    ("torch", "Size"): lambda sizes: sizes,
    ("torch._utils", "_rebuild_tensor"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_v3,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch.storage", "UntypedStorage"): StorageType(None),
    **{("torch", name): StorageType(np.dtype(kind)) for name, kind in _STORAGES.items()},
    # So written before 0.4, of weights on a GPU.
    **{("torch.cuda", name): StorageType(np.dtype(kind)) for name, kind in _STORAGES.items()},
    **{("torch", np.dtype(kind).name): np.dtype(kind) for kind in _DTYPES},
}
