"""Files as torch.save writes them, made without torch, and parts to make others of.

The pickle comes from Python's own pickler, over stand-ins that go by the names of torch's classes
and functions; the zip archive is put together field by field, so that any of them can be wrong.
"""

import dataclasses
import gc
import io
import pickle
import pickletools
import struct
import sys
import time
import types
import zlib
from collections import OrderedDict, deque
from contextlib import contextmanager
from functools import cache
from unittest import mock

import ml_dtypes
import numpy as np
import pytest

from skipjax.weights.readers import state_dict

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "complex128": "ComplexDoubleStorage",
    "complex64": "ComplexFloatStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
UNTYPED = ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2"]
UNTYPED += ["float8_e5m2fnuz", "float8_e8m0fnu"]


def dtype(name):
    return np.dtype(getattr(ml_dtypes, name, name))


class Storage:
    """Elements in a row; stored under a key once, however many tensors share it."""

    def __init__(self, elements):
        self.elements = np.ascontiguousarray(elements).reshape(-1)


class Tensor:
    """A view of a storage, with strides in elements."""

    def __init__(self, storage, shape, strides, offset=0, grad=False):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides
        self.grad = grad

    def __reduce__(self):
        view = (self.storage, self.offset, self.shape, self.strides, self.grad, OrderedDict())
        name = self.storage.elements.dtype.name
        if name in STORAGES:
            return _TORCH["torch._utils"]._rebuild_tensor_v2, view
        return _TORCH["torch._utils"]._rebuild_tensor_v3, (*view, getattr(_TORCH["torch"], name))


class Parameter:
    """A tensor that is trained."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        return _TORCH["torch._utils"]._rebuild_parameter, (self.tensor, True, OrderedDict())


class _DType:
    __module__ = "torch"

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return self.name


class Size(tuple):
    __module__ = "torch"

    def __reduce__(self):
        return Size, (tuple(self),)


def tensor(array):
    """A tensor of a whole storage of its own; views keep the strides they have in NumPy."""
    array = np.asarray(array)
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    strides = tuple(stride // array.itemsize for stride in array.strides)
    start = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return Tensor(Storage(base), array.shape, strides, start // array.itemsize)


def _stand_ins():
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils", "torch.storage")}
    functions = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
    for name in (*functions, "_rebuild_parameter"):
        function = types.FunctionType((lambda *_: None).__code__, {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(modules["torch._utils"], name, function)
    for name in STORAGES.values():
        setattr(modules["torch"], name, type(name, (), {"__module__": "torch"}))
    for name in (*STORAGES, *UNTYPED):
        setattr(modules["torch"], name, _DType(name))
    untyped = type("UntypedStorage", (), {"__module__": "torch.storage"})
    modules["torch.storage"].UntypedStorage = untyped
    modules["torch"].Size = Size
    return modules


_TORCH = _stand_ins()


def torch_dtype(name):
    """Stands in for e.g. torch.float16."""
    return getattr(_TORCH["torch"], name)


def pickled(obj, protocol=2, byteorder="little", memo=True, legacy=False):
    """The pickle of an object that holds tensors, and the bytes of their storages in order."""
    keys, contents = {}, []

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if not isinstance(obj, Storage):
                return None
            elements = obj.elements
            if id(obj) not in keys:
                keys[id(obj)] = str(len(keys))
                swapped = byteorder != sys.byteorder
                contents.append((byteswapped(elements) if swapped else elements).tobytes())
            name = STORAGES.get(elements.dtype.name)
            if name is None:
                kind, numel = _TORCH["torch.storage"].UntypedStorage, elements.nbytes
            else:
                kind, numel = getattr(_TORCH["torch"], name), elements.size
            return ("storage", kind, keys[id(obj)], "cpu", numel, *((None,) if legacy else ()))

    file = io.BytesIO()
    pickler = Pickler(file, protocol)
    pickler.fast = not memo
    with mock.patch.dict(sys.modules, _TORCH):
        pickler.dump(obj)
    return file.getvalue(), contents


def byteswapped(elements):
    part = elements.itemsize // (2 if elements.dtype.kind == "c" else 1)
    return elements.view(f"u{part}").byteswap()


@dataclasses.dataclass
class Entry:
    """A record of the archive; what is not None goes in place of what would be right."""

    name: str
    data: bytes
    method: int = 0
    flags: int = 0x808
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    start: int | None = None
    local_name: str | None = None
    local_extra: int | None = None
    extra: bytes = b""


def entries(obj, protocol=2, byteorder="little", root="model"):
    """The records that torch.save makes of an object."""
    return wrap(*pickled(obj, protocol, byteorder), byteorder=byteorder, root=root)


def wrap(code, storages=(), byteorder="little", root="model"):
    """The records around a pickle and the bytes of its storages."""
    made = [Entry(f"{root}/data.pkl", code), Entry(f"{root}/.format_version", b"1")]
    made += [Entry(f"{root}/.storage_alignment", b"64"), Entry(f"{root}/byteorder", b"")]
    made[-1].data = byteorder.encode()
    made += [Entry(f"{root}/data/{key}", data) for key, data in enumerate(storages)]
    made += [Entry(f"{root}/version", b"3\n"), Entry(f"{root}/.data/serialization_id", b"0" * 40)]
    return made


def archive(entries, count=None, at=None, size=None, comment=b"", long=True):
    """The bytes of an archive.

    Args:
        entries: Its records.
        count: In place of their number.
        at: In place of where the directory lies.
        size: In place of how many bytes it has.
        comment: At the end.
        long: Whether there is a ZIP64 end, which older torch writes only where it is needed.
    """
    out, directory = bytearray(), bytearray()
    for entry in entries:
        name = entry.name.encode("utf-8", "surrogateescape")
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        length = len(entry.data) if entry.size is None else entry.size
        packed = length if entry.packed is None else entry.packed
        start = len(out) if entry.start is None else entry.start
        local = name if entry.local_name is None else entry.local_name.encode()
        padding = b"Z" * (-(len(out) + 30 + len(local) + 4) % 64)
        extra = struct.pack("<2sH", b"FB", len(padding)) + padding
        announced = len(extra) if entry.local_extra is None else entry.local_extra
        out += struct.pack(
            "<4s5H3L2H",
            *(b"PK\3\4", 0, entry.flags, entry.method, 0, 0, 0, 0, 0),
            *(len(local), announced),
        )
        out += local + extra + entry.data
        if entry.flags & 0x8:
            out += struct.pack("<4s3L", b"PK\7\10", crc, packed % 2**32, length % 2**32)
        directory += struct.pack(
            "<4s6H3L5H2L",
            *(b"PK\1\2", 0, 0, entry.flags, entry.method, 0, 0, crc, packed, length),
            *(len(name), len(entry.extra), 0, 0, 0, 0, start),
        )
        directory += name + entry.extra
    at = len(out) if at is None else at
    size = len(directory) if size is None else size
    count = len(entries) if count is None else count
    out += directory
    if long:
        place = len(out)
        out += struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, at)
        out += struct.pack("<4sLQL", b"PK\6\7", 0, place, 1)
    short = [min(value, full) for value, full in ((count, 2**16 - 1), (size, 2**32 - 1))]
    short = (short[0], short[0], short[1], min(at, 2**32 - 1))
    out += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *short, len(comment)) + comment
    return bytes(out)


def save(path, obj, protocol=2, byteorder="little"):
    """torch.save(obj, path), for stand-ins."""
    path.write_bytes(archive(entries(obj, protocol, byteorder)))
    return path


def legacy(obj, protocol=2):
    """The bytes of a file as torch wrote it before 1.6, in its parts."""
    code, contents = pickled(obj, protocol, legacy=True)
    return wrap_legacy(code, contents, protocol)


def wrap_legacy(code, contents, protocol=2, itemsize=4):
    """Such a file around a pickle and the bytes of its storages."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [pickle.dumps(head, protocol) for head in (0x1950A86A20F9469CFC6C, 1001, system)]
    parts += [code, pickle.dumps([str(key) for key in range(len(contents))], protocol)]
    for content in contents:
        parts += [struct.pack("<q", len(content) // itemsize), content]
    return parts


@cache
def pace():
    """CPU seconds that Python's own reader of pickles takes for 2^21 opcodes: one or so."""
    start = time.process_time()
    deque(pickletools.genops(b"N" * 2**18 + b"."), maxlen=0)
    return 8 * (time.process_time() - start)


@contextmanager
def soon(most=1.0):
    """Asserts that what is inside takes no more CPU time than `most` of the pace."""
    gc.freeze()  # what other tests left behind is not for the collector to go through now
    allowed, start = most * pace(), time.process_time()
    yield
    seconds = time.process_time() - start
    gc.unfreeze()
    assert seconds < allowed


def refused(path, match, most=1.0):
    """Asserts that a file is refused in one line, and soon; returns the line."""
    with soon(most), pytest.raises(ValueError, match=match) as caught:
        for tensor in state_dict.read(path).values():
            np.asarray(tensor)
    message = str(caught.value)
    assert caught.type is ValueError and message.startswith(f"{path}: ")
    assert message.isprintable() and len(message) < len(str(path)) + 400
    return message
