"""Where a job keeps its files: a local folder, or anything that fsspec knows by a URL.

A file appears under its name whole, and stays when the machine loses power; or it is not there.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import fsspec

CHUNK = 1 << 20  # bytes read at a time
READERS = 16  # files read at a time
TEMPORARY = ".tmp"


class Store(Protocol):
    """Files by name, such as "shards/000012.npz"; the folders in a name make themselves."""

    def put(self, name: str, content: bytes) -> None:
        """Writes a file, in place of one of the name if there is any."""

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file unless there is one of the name; whether it did."""
        ...

    def append(self, name: str, line: bytes) -> None:
        """Adds to the end of a file that no other process writes to."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """The content, a part at a time.

        Raises:
            FileNotFoundError: If there is no such file.
        """
        ...

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Size in bytes of the files that stand in a folder, by their name in the store; without
        temporary ones, and with none where there is no such folder.
        """
        ...

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""

    def sweep(self, folder: str, living: Callable[[], set[str]]) -> int:
        """Removes what writers not among the `living` have left half-written; how many files.

        Who lives is asked after it is seen what is there: who writes then has been alive before.
        """
        ...


def read(store: Store, name: str) -> bytes | None:
    """The content of a file; None where there is no such file."""
    try:
        return b"".join(store.chunks(name))
    except FileNotFoundError:
        return None


def read_all(store: Store, folder: str) -> dict[str, bytes]:
    """The content of the files in a folder, by their sorted names; many are read at a time."""
    names = sorted(store.sizes(folder))
    with ThreadPoolExecutor(READERS) as readers:
        contents = readers.map(lambda name: read(store, name), names)
        return {name: text for name, text in zip(names, contents, strict=True) if text is not None}


def store(out: str | Path, writer: str | None = None) -> Store:
    """The store at a path or URL.

    Args:
        out: A folder, which need not be there yet; or a URL such as gs://bucket/run.
        writer: Name of the one who writes, by which its temporary files are known.

    Raises:
        ValueError: For a URL whose protocol is not known or not installed, or a path that is a
            file.
    """
    writer = writer or uuid.uuid4().hex
    path = Path(out)
    if "://" in str(out):
        try:
            files, inside = fsspec.url_to_fs(str(out))
        except (ValueError, ImportError) as error:
            raise ValueError(f"out is {str(out)!r}, which cannot be opened: {error}") from None
        if "file" not in (
            (files.protocol,) if isinstance(files.protocol, str) else files.protocol
        ):
            return Bucket(files, inside, str(out))
        path = Path(inside)
    if path.is_file():
        raise ValueError(f"out is {str(out)!r}, a file: name a folder")
    return Folder(path, writer)


class Folder:
    """A local folder: files are written beside their place, flushed to the disk, and renamed."""

    def __init__(self, path: Path, writer: str):
        self.path, self._writer = path, writer

    def __str__(self) -> str:
        return str(self.path)

    def put(self, name: str, content: bytes) -> None:
        with self._beside(name, content) as temporary:
            os.replace(temporary, self.path / name)

    def create(self, name: str, content: bytes) -> bool:
        try:
            with self._beside(name, content) as temporary:
                try:
                    os.link(temporary, self.path / name)  # unlike a rename, never over another
                except FileExistsError:
                    raise
                except OSError:  # a file system without links
                    self._write(self.path / name, "xb", content)
        except FileExistsError:
            return False
        return True

    def append(self, name: str, line: bytes) -> None:
        self._write(self.path / name, "ab", line)

    def chunks(self, name: str) -> Iterator[bytes]:
        with (self.path / name).open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def sizes(self, folder: str = "") -> dict[str, int]:
        found = {}
        with suppress(FileNotFoundError), os.scandir(self.path / folder) as entries:
            for entry in entries:
                if entry.is_file() and not entry.name.endswith(TEMPORARY):
                    with suppress(FileNotFoundError):  # removed in this very moment
                        name = f"{folder}/{entry.name}" if folder else entry.name
                        found[name] = entry.stat().st_size
        return found

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def sweep(self, folder: str, living: Callable[[], set[str]]) -> int:
        there = list((self.path / folder).glob(f".*{TEMPORARY}"))
        at_work = living() if there else set()
        left = [path for path in there if path.name.split(".")[-2] not in at_work]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    @contextmanager
    def _beside(self, name: str, content: bytes) -> Iterator[Path]:
        """A temporary file beside its place, to be given its name."""
        path = self.path / name
        temporary = path.with_name(f".{path.name}.{self._writer}{TEMPORARY}")
        try:
            self._write(temporary, "wb", content)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)
        _sync(path.parent)

    def _write(self, path: Path, mode: str, content: bytes) -> None:
        """Writes to a file, on the disk itself when this returns."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


class Bucket:
    """An object store, where nothing is renamed: an object is put whole, and is there or not."""

    def __init__(self, files: Any, path: str, url: str):
        self._files, self._path, self._url = files, path.rstrip("/"), url
        self._appended: dict[str, bytes] = {}

    def __str__(self) -> str:
        return self._url

    def put(self, name: str, content: bytes) -> None:
        self._appended.pop(name, None)
        self._files.pipe_file(self._of(name), content)

    def create(self, name: str, content: bytes) -> bool:
        try:
            self._files.pipe_file(self._of(name), content, mode="create")
        except FileExistsError:
            return False
        return True

    def append(self, name: str, line: bytes) -> None:
        before = self._appended.get(name) or read(self, name) or b""
        self.put(name, before + line)
        self._appended[name] = before + line

    def chunks(self, name: str) -> Iterator[bytes]:
        with self._files.open(self._of(name), "rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def sizes(self, folder: str = "") -> dict[str, int]:
        prefix = f"{folder}/" if folder else ""
        self._files.invalidate_cache()  # other workers write here too
        try:
            found = self._files.ls(self._of(folder) if folder else self._path, detail=True)
        except FileNotFoundError:
            return {}
        return {
            prefix + entry["name"].rstrip("/").rpartition("/")[2]: entry["size"]
            for entry in found
            if entry["type"] == "file"
        }

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(self._of(name))

    def sweep(self, folder: str, living: Callable[[], set[str]]) -> int:
        return 0  # what was not put whole is not there

    def _of(self, name: str) -> str:
        return f"{self._path}/{name}"


def _sync(folder: Path) -> None:
    """Flushes the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
