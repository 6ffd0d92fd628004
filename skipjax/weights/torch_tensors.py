"""The tensors of a torch.save archive, each a checked view of a record that is not read yet."""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from skipjax.weights.pickle_machine import Function, shown
from skipjax.weights.zip_records import Record

# NumPy's limit, and torch's.
_MAX_DIMENSIONS = 64
_MAX_NUMBER = 2**63
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


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """The record that tensors are views of; of no dtype where each tensor brings its own."""

    record: Record
    dtype: np.dtype | None
    byteorder: str


@dataclasses.dataclass(frozen=True, eq=False)
class StorageType:
    """What a pickle says of the elements of a storage."""

    dtype: np.dtype | None


@dataclasses.dataclass(frozen=True, eq=False)
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
        """Reads the tensor's record, and no other, into a new C-contiguous array.

        Raises:
            ValueError: If the record is damaged, or `copy` is False.
        """
        record = self._storage.record
        if copy is False:
            raise ValueError(f"{record.path}: is read into new memory: copy=False cannot be met")
        content = record.read()
        if self.dtype == np.bool_ and content.max(initial=0) > 1:
            raise ValueError(f"{record.path}: {record.name!r} has bools other than 0 and 1")
        if self._storage.byteorder != sys.byteorder:
            part = self.dtype.itemsize // (2 if self.dtype.kind == "c" else 1)
            content.view(f"u{part}").byteswap(inplace=True)
        if not math.prod(self.shape):
            return np.empty(self.shape, self.dtype if dtype is None else dtype)
        elements = content.view(self.dtype)
        itemsize = self.dtype.itemsize
        strides = tuple(stride * itemsize for stride in self._strides)
        view = np.ndarray(self.shape, self.dtype, elements, self._offset * itemsize, strides)
        # A part of the record would keep all of it in memory.
        return np.array(view, dtype, order="C", copy=None if view.size == elements.size else True)


def loader(records: Mapping[str, Record], root: str, byteorder: str) -> Callable[[Any], Storage]:
    """What finds the storage that a persistent id of the pickle stands for.

    Args:
        records: Those of the archive.
        root: Folder in the archive that holds `data/`.
        byteorder: That of the storages, "little" or "big".
    """

    def load(persistent_id: Any) -> Storage:
        fields = persistent_id if type(persistent_id) is tuple else ()
        if [type(field) for field in fields] != [str, StorageType, str, str, int]:
            raise ValueError("its pickle has a persistent id that is not torch's")
        tag, kind, key, _, numel = persistent_id
        record = records.get(f"{root}/data/{key}")
        if tag != "storage" or record is None:
            raise ValueError(f"its pickle needs the storage {shown(key)}, which has no record")
        itemsize = kind.dtype.itemsize if kind.dtype else 1
        if numel * itemsize != record.size:
            raise ValueError(
                f"its storage {shown(key)} has {record.size} bytes, but should have "
                f"{shown(numel)} elements of {itemsize}"
            )
        return Storage(record, kind.dtype, byteorder)

    return load


def _view(storage: Any, dtype: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    """A tensor, after a check that all of it lies within its storage."""
    if type(storage) is not Storage or not isinstance(dtype, np.dtype):
        raise ValueError("its pickle makes a tensor of something other than a storage and a dtype")
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise ValueError("its pickle has a tensor whose sizes and strides are not two such tuples")
    if len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"its pickle has a tensor of {len(shape)} dimensions")
    for number in (offset, *shape, *strides):
        if type(number) is not int or not 0 <= number < _MAX_NUMBER:
            raise ValueError(f"its pickle has a tensor with {shown(number)} as a size or stride")
    elements, rest = divmod(storage.record.size, dtype.itemsize)
    if rest:
        raise ValueError(f"its storage {storage.record.name!r} is not a whole number of {dtype}")
    numel = math.prod(shape)
    last = offset + sum(stride * (size - 1) for size, stride in zip(shape, strides, strict=True))
    place = f"its storage {storage.record.name!r} of {elements} elements has"
    if numel and last >= elements:
        raise ValueError(f"{place} a tensor that reaches beyond its end")
    if numel > elements:
        raise ValueError(
            f"{place} a tensor that repeats them to {shown(numel)}: save it without expand()"
        )
    # Sixteen bytes are those of the largest dtype that it may be converted to.
    if math.prod(max(size, 1) for size in shape) * 16 >= _MAX_NUMBER:
        raise ValueError(f"{place} an empty tensor of sizes that no array can have")
    # A stride along one element is never taken, and may be any number.
    taken = tuple(stride * (size > 1) for size, stride in zip(shape, strides, strict=True))
    return Tensor(shape, dtype, taken, offset, storage)


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    return _view(storage, getattr(storage, "dtype", None), offset, shape, strides)


def _rebuild_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, bits: Any = None
) -> Tensor:
    _check_extras(grad, hooks, bits)
    return _rebuild(storage, offset, shape, strides)


def _rebuild_v3(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    bits: Any = None,
) -> Tensor:
    _check_extras(grad, hooks, bits)
    if type(storage) is Storage and storage.dtype is not None:
        raise ValueError("its pickle has a tensor with a dtype other than that of its storage")
    return _view(storage, dtype, offset, shape, strides)


def _rebuild_parameter(data: Any, grad: Any, hooks: Any) -> Tensor:
    _check_extras(grad, hooks, None)
    if type(data) is not Tensor:
        raise ValueError("its pickle has a parameter that is not a tensor")
    return data


def _check_extras(grad: Any, hooks: Any, bits: Any) -> None:
    if type(grad) is not bool or type(hooks) is not dict or hooks:
        raise ValueError("its pickle has a tensor with hooks, or an unknown use of gradients")
    # Such a tensor is the negative or conjugate of what is stored.
    if bits is not None and (type(bits) is not dict or bits):
        raise ValueError("its pickle has a negated or conjugated tensor: save a .clone() of it")


def _size(sizes: Any) -> tuple[int, ...]:
    if type(sizes) is not tuple or any(type(size) is not int for size in sizes):
        raise ValueError("its pickle has a torch.Size of something other than ints")
    return sizes


GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Function(dict, (0,)),
    ("torch", "Size"): Function(_size, (1,)),
    ("torch._utils", "_rebuild_tensor"): Function(_rebuild, (4,)),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_rebuild_v2, (6, 7)),
    ("torch._utils", "_rebuild_tensor_v3"): Function(_rebuild_v3, (7, 8)),
    ("torch._utils", "_rebuild_parameter"): Function(_rebuild_parameter, (3,)),
    ("torch.storage", "UntypedStorage"): StorageType(None),
    **{("torch", name): StorageType(np.dtype(kind)) for name, kind in _STORAGES.items()},
    **{("torch", np.dtype(kind).name): np.dtype(kind) for kind in _DTYPES},
}
