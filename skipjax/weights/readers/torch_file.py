"""What torch.save writes, read without torch and without running anything that it contains.

A .pt or .pth is a zip archive of a pickle, data.pkl, and of one record of bytes for each storage
that the pickle's tensors are views of. Before torch 1.6 it was a row of pickles, the storages
after them; torch.save still writes that with `_use_new_zipfile_serialization=False`.
"""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

from skipjax.weights.readers import torch_pickle
from skipjax.weights.readers.torch_pickle import ALONE, DAMAGED, Stream, shown
from skipjax.weights.readers.torch_tensors import KNOWN, Segment, Storages

_MAX_PICKLE = 2**24
_MAX_DIRECTORY = 2**22
_HEADER = struct.Struct("<4s22x2H")
_ENCRYPTED = 0x1 | 0x20 | 0x40 | 0x2000  # or patched
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
BARE = f"is of torch before 0.2, or a bare pickle: save it again with {ALONE}"


def is_zip(head: bytes) -> bool:
    """Whether a file that begins so is an archive."""
    return head.startswith(b"PK\3\4")


def is_legacy(head: bytes) -> bool:
    """Whether a file that begins so is one of torch before 1.6."""
    return head[:1] == b"\x80" and _MAGIC.to_bytes(10, "little") + b"." in head[:32]


def read_zip(path: Path) -> Any:
    """What torch.save wrote to an archive, as `torch_pickle.load` gives it, with lazy `Tensor`s.

    Raises:
        ValueError: If it is another archive, or is damaged.
    """
    segments = _segments(path)
    root = _root(segments)
    byteorder = "little"
    if segment := segments.get(f"{root}/byteorder"):
        byteorder = _content("byte order", segment, 16).decode("latin-1")
        if byteorder not in ("little", "big"):
            raise ValueError(f"the byte order is {byteorder!r}, neither little nor big")
    pickle = _content("pickle", segments[f"{root}/data.pkl"], _MAX_PICKLE)
    storages = Storages(byteorder)
    content = torch_pickle.load(Stream(pickle), KNOWN, storages.load)
    for key in storages:
        storages.place(key, segments.get(f"{root}/data/{key}"))
    return content


def read_legacy(
    path: Path, start: int = 0, size: int | None = None, limit: int = _MAX_PICKLE
) -> Any:
    """What torch before 1.6 wrote to a file, or to a part of it, as `read_zip` gives it.

    Args:
        path: The file.
        start: Where it begins in there.
        size: Bytes that it has; default: those up to the end of the file.
        limit: Bytes that its pickles may have.

    Raises:
        ValueError: If it is damaged.
    """
    end = path.stat().st_size if size is None else start + size
    with path.open("rb") as file:
        file.seek(start)
        stream = Stream(file.read(min(end - start, limit)))
        storages = Storages("little")  # whatever the machine was
        magic, protocol, _, content, keys = (
            torch_pickle.load(stream, KNOWN, storages.load) for _ in range(5)
        )
        if magic != _MAGIC or protocol != _PROTOCOL:
            raise ValueError(f"is not of a protocol of torch's that is known; {DAMAGED}")
        if type(keys) is not list or len(keys) != len(storages):
            raise ValueError(f"its pickle names other storages than follow; {DAMAGED}")
        start += stream.tell()
        for key in keys:
            if type(key) is not str or key not in storages or storages[key].segment:
                raise ValueError(f"its pickle names other storages than follow; {DAMAGED}")
            file.seek(start)
            # The number of elements, and then these.
            size = int.from_bytes(file.read(8), "little") * storages[key].kind.itemsize
            start += 8 + size
            if start > end:
                raise ValueError(f"its storage {shown(key)} is not whole; {DAMAGED}")
            storages.place(key, Segment(path, start - size, size))
    return content


class _File(io.FileIO):
    """A file of which an archive's directory is read only where it is not too large."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY:
            raise ValueError(f"the archive has a directory of {size} bytes; {DAMAGED}")
        return super().read(size)


def _segments(path: Path) -> dict[str, Segment]:
    """The records of an archive by name, after a check that all of them lie within the file."""
    try:
        with _File(path) as file, zipfile.ZipFile(file) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeError, struct.error) as error:
        raise ValueError(f"is no whole zip archive ({error}): {DAMAGED}") from None
    end = path.stat().st_size
    if len({record.filename for record in records}) < len(records):
        raise ValueError(f"two records of the archive have one name; {DAMAGED}")
    # So that one piece of the file cannot pass for a thousand.
    if sum(record.file_size for record in records) > end:
        raise ValueError(f"the records of the archive are larger than the file; {DAMAGED}")
    with path.open("rb") as file:
        return {record.filename: _segment(path, file, record, end) for record in records}


def _segment(path: Path, file: Any, record: zipfile.ZipInfo, end: int) -> Segment:
    name = shown(record.filename)
    if record.flag_bits & _ENCRYPTED:
        raise ValueError(f"{name} is encrypted: save it again with torch.save")
    if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
        raise ValueError(
            f"{name} is compressed, which torch.save does not write, but TorchScript does: load "
            "it with torch or torch.jit, then torch.save(model.state_dict(), path)"
        )
    if 0 <= record.header_offset < end:
        file.seek(record.header_offset)
        header = file.read(_HEADER.size)
        if len(header) == _HEADER.size:
            signature, *lengths = _HEADER.unpack(header)
            start = record.header_offset + _HEADER.size + sum(lengths)
            if signature == b"PK\3\4" and start + record.file_size <= end:
                return Segment(path, start, record.file_size, record.CRC)
    raise ValueError(f"{name} does not lie where the archive's directory says; {DAMAGED}")


def _content(what: str, segment: Segment, limit: int) -> bytes:
    if segment.size > limit:
        raise ValueError(
            f"its {what} has {segment.size} bytes; accepted are {limit}: save only the state "
            f"dict, with {ALONE}"
        )
    return segment.read().tobytes()


def _root(records: dict[str, Segment]) -> str:
    """Folder within the archive that holds all of it."""
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(
            f"is a zip archive with {len(pickles)} data.pkl in place of one, which is not how "
            "torch.save writes: give the .pt or .pth file itself"
        )
    root = pickles[0].partition("/")[0]
    if f"{root}/constants.pkl" in records or any(n.startswith(f"{root}/code/") for n in records):
        raise ValueError(
            "is a TorchScript archive, which holds code; save its tensors alone: "
            "torch.save(torch.jit.load(path).state_dict(), path)"
        )
    return root
