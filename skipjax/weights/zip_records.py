"""The records of a zip archive as torch.save writes it: stored as they are, one after another.

No size is believed before it is held against what the file can hold. What torch.save does not
write (compression, encryption, comments, bytes after the archive, records that overlap or share
a name) is refused. The format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT.
"""

import dataclasses
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

_LOCAL = struct.Struct("<4s5H3L2H")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_DESCRIPTOR, _UTF8 = 0x8, 0x800
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_MAX_RECORDS = 2**16
_MAX_DIRECTORY = 2**23
_CHUNK = 2**20
_DAMAGED = "the file is damaged or cut short: download or copy it again"


@dataclasses.dataclass(frozen=True)
class Record:
    """Where a record lies in its file; header and checksum are checked as it is read."""

    path: Path
    name: str
    start: int
    limit: int
    size: int
    crc: int

    def read(self) -> np.ndarray:
        """The bytes of the record, as a new uint8 array.

        Raises:
            ValueError: If the header is not that of this record, or the CRC-32 is another.
        """
        with self.path.open("rb") as file:
            self._skip_header(file)
            content = np.empty(self.size, np.uint8)
            crc = 0
            # In pieces that fit the cache, to be summed while they are warm.
            for at in range(0, self.size, _CHUNK):
                piece = content.data[at : at + _CHUNK]
                if file.readinto(piece) != len(piece):
                    raise ValueError(f"{self.path}: ends inside of {self.name!r}; {_DAMAGED}")
                crc = zlib.crc32(piece, crc)
        if crc != self.crc:
            unsummed = ", or save it again with checksums if torch was told to leave them out"
            raise ValueError(
                f"{self.path}: the CRC-32 of {self.name!r} is wrong; {_DAMAGED}"
                + (unsummed if self.crc == 0 else "")
            )
        return content

    def _skip_header(self, file: BinaryIO) -> None:
        name = self.name.encode()
        file.seek(self.start)
        header = file.read(_LOCAL.size + len(name))
        if len(header) < _LOCAL.size + len(name):
            raise ValueError(f"{self.path}: ends inside of {self.name!r}; {_DAMAGED}")
        signature, _, flags, method, *_, name_size, extra = _LOCAL.unpack_from(header)
        same = name_size == len(name) and header[_LOCAL.size :] == name
        plain = method == 0 and not flags & ~(_DESCRIPTOR | _UTF8)
        if not (signature == b"PK\3\4" and same and plain):
            raise ValueError(
                f"{self.path}: the header of {self.name!r} and the directory disagree; {_DAMAGED}"
            )
        start = self.start + len(header) + extra
        if start + self.size > self.limit:
            raise ValueError(f"{self.path}: {self.name!r} overlaps the next record; {_DAMAGED}")
        file.seek(start)


def records(path: Path) -> dict[str, Record]:
    """The records of an archive by name, none of them read yet.

    Args:
        path: File that begins as a zip archive does.

    Raises:
        ValueError: If the directory of the archive is damaged, or tells of anything that
            torch.save does not write.
    """
    with path.open("rb") as file:
        count, at, size = _directory(path, file)
        file.seek(at)
        directory = file.read(size)
    found = {}
    place = 0
    while place < len(directory):
        record, place = _entry(path, directory, place)
        if record.name in found:
            raise ValueError(f"{path}: two records are named {record.name!r}; {_DAMAGED}")
        found[record.name] = record
    if len(found) != count or len(directory) != size:
        raise ValueError(f"{path}: there are {len(found)} records in place of {count}; {_DAMAGED}")
    in_order = sorted(found.values(), key=lambda record: record.start)
    limits = [record.start for record in in_order[1:]] + [at]
    for record, limit in zip(in_order, limits, strict=True):
        if record.start + _LOCAL.size + len(record.name.encode()) + record.size > limit:
            raise ValueError(f"{path}: {record.name!r} overlaps the next record; {_DAMAGED}")
        found[record.name] = dataclasses.replace(record, limit=limit)
    return found


def _directory(path: Path, file: BinaryIO) -> tuple[int, int, int]:
    """Number of records, and place and size of the directory; it has to lie at the very end."""
    end = file.seek(0, 2)
    file.seek(max(0, end - _END.size - _LOCATOR.size - _END64.size))
    tail = file.read(_END.size + _LOCATOR.size + _END64.size)
    last = tail[-_END.size :]
    if len(last) < _END.size or last[:4] != b"PK\5\6" or last[-2:] != b"\0\0":
        raise ValueError(f"{path}: does not end as a zip archive does; {_DAMAGED}")
    _, disk, first_disk, here, count, size, at, _ = _END.unpack(last)
    end -= _END.size
    locator = tail[-_END.size - _LOCATOR.size : -_END.size]
    if locator[:4] == b"PK\6\7" and len(tail) == _END.size + _LOCATOR.size + _END64.size:
        short = [(here, 0xFFFF), (count, 0xFFFF), (size, 0xFFFFFFFF), (at, 0xFFFFFFFF)]
        end -= _LOCATOR.size + _END64.size
        signature, _, _, _, disk64, first64, *long = _END64.unpack_from(tail)
        agree = all(a in (b, full) for (a, full), b in zip(short, long, strict=True))
        if signature != b"PK\6\6" or _LOCATOR.unpack(locator)[2] != end or not agree:
            raise ValueError(f"{path}: the zip directory contradicts itself; {_DAMAGED}")
        disk, first_disk = disk | disk64, first_disk | first64
        here, count, size, at = long
    if disk or first_disk or here != count or at + size != end:
        raise ValueError(f"{path}: the zip directory contradicts itself; {_DAMAGED}")
    if count > _MAX_RECORDS or size > _MAX_DIRECTORY:
        raise ValueError(
            f"{path}: {count} records in a directory of {size} bytes; accepted are up to "
            f"{_MAX_RECORDS} in {_MAX_DIRECTORY}: save the state dict in several files"
        )
    return count, at, size


def _entry(path: Path, directory: bytes, place: int) -> tuple[Record, int]:
    """The record that the directory's entry at `place` tells of, and the place of the next."""
    if place + _ENTRY.size > len(directory):
        raise ValueError(f"{path}: the zip directory is cut short; {_DAMAGED}")
    fields = _ENTRY.unpack_from(directory, place)
    signature, _, _, flags, method, _, _, crc, packed, size, *lengths, disk, _, _, start = fields
    at = place + _ENTRY.size
    ends = at + lengths[0], at + sum(lengths[:2]), at + sum(lengths)
    if signature != b"PK\1\2" or disk or ends[2] > len(directory):
        raise ValueError(f"{path}: the zip directory has an unknown entry; {_DAMAGED}")
    name = _name(path, directory[at : ends[0]])
    size, packed, start = _long(directory[ends[0] : ends[1]], size, packed, start)
    if flags & _ENCRYPTED:
        raise ValueError(f"{path}: {name!r} is encrypted: save it again with torch.save")
    if method or packed != size:
        raise ValueError(
            f"{path}: {name!r} is compressed, which torch.save does not write, but TorchScript "
            "does: load it with torch or torch.jit, then torch.save(model.state_dict(), path)"
        )
    if flags & ~(_DESCRIPTOR | _UTF8):
        raise ValueError(f"{path}: {name!r} has the flags {flags:#x}; {_DAMAGED}")
    return Record(path, name, start, 0, size, crc), ends[2]


def _name(path: Path, encoded: bytes) -> str:
    try:
        name = encoded.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: a record's name is not UTF-8; {_DAMAGED}") from None
    if len(name) > 1024:
        raise ValueError(f"{path}: a record's name has {len(name)} characters; {_DAMAGED}")
    strange = re.search(r"[\\\x00-\x1f\x7f]|^[A-Za-z]:", name)
    if strange or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise ValueError(
            f"{path}: a record has the unsafe name {name[:80]!r}, which torch.save does not "
            "write: the file is not to be trusted"
        )
    return name


def _long(extra: bytes, *fields: int) -> list[int]:
    """The fields, each that is full replaced by the next of the 64-bit numbers in the extra."""
    kind, size = struct.unpack_from("<2H", extra) if len(extra) >= 4 else (0, 0)
    numbers = extra[4 : 4 + size] if kind == 1 else b""
    long = []
    for field in fields:
        if field == 0xFFFFFFFF and len(numbers) >= 8:
            field, numbers = int.from_bytes(numbers[:8], "little"), numbers[8:]
        long.append(field)
    return long
