"""Where a job keeps its files: a local folder, or anything that fsspec knows by a URL.

    job.json             what is drawn, with the plan and the sha256 of the weights; its hash
    shards/000012.npz    the pictures of a fixed range of ids
    shards/000012.json   its sidecar: sha256 and size, ids left out, who drew it and how fast
    claims/000012.json   who draws it just now, if anybody: void when it is not renewed

A file appears under its name whole, and stays when the machine loses power; or it is not there.
A sidecar is written before its shard, so that a shard under its name can be proven: one that is
missing, or is not what its sidecar says, is made again. Whoever dies leaves nothing else behind
but a claim, a sidecar without a shard, and a temporary file; when a job is finished they go.
"""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

TEMPORARY = ".tmp"
ABANDONED = 3600.0  # seconds after which nobody writes a temporary file any more


class Folder:
    """A local folder: files are written beside their place, flushed to the disk, and renamed."""

    def __init__(self, path: Path):
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def put(self, name: str, content: bytes) -> None:
        """Writes a file, in place of one of the name if there is any; makes its folder."""
        with self._beside(name, content) as temporary:
            try:
                os.replace(temporary, self.path / name)
            except FileNotFoundError:  # swept by the one that has finished the job
                if not (self.path / name).exists():
                    raise

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file unless there is one of the name: whether it did.

        Of several that do so at once only one does, on a file system that has links.
        """
        with self._beside(name, content) as temporary:
            try:
                os.link(temporary, self.path / name)  # unlike a rename, never over another
            except FileExistsError:
                return False
            except OSError:  # no links
                if (self.path / name).exists():
                    return False
                os.replace(temporary, self.path / name)
                return read(self, name) == content
        return True

    def open(self, name: str) -> Any:
        """Opens a file to read.

        Raises:
            FileNotFoundError: If there is no such file.
        """
        return (self.path / name).open("rb")

    def names(self, folder: str = "") -> set[str]:
        """What stands in a folder; nothing where there is no such folder."""
        with suppress(FileNotFoundError):
            found = os.listdir(self.path / folder)
            return {name for name in found if not name.endswith(TEMPORARY)}
        return set()

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        with suppress(FileNotFoundError):
            os.remove(self.path / name)

    def sweep(self, every: bool = False) -> int:
        """Removes temporary files, those of writers that died long ago or all: how many."""
        swept = 0
        for path in (*self.path.glob(f".*{TEMPORARY}"), *self.path.glob(f"*/.*{TEMPORARY}")):
            with suppress(FileNotFoundError):
                if every or time.time() - path.stat().st_mtime > ABANDONED:
                    os.remove(path)
                    swept += 1
        return swept

    @contextmanager
    def _beside(self, name: str, content: bytes) -> Iterator[Path]:
        """A temporary file beside its place, on the disk, to be given its name."""
        path = self.path / name
        os.makedirs(path.parent, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            with suppress(FileNotFoundError):
                os.remove(temporary)
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Bucket:
    """An object store, with the methods of `Folder`: an object is put whole, and never renamed."""

    def __init__(self, files: Any, path: str, url: str):
        self._files, self._path, self._url = files, path.rstrip("/"), url

    def __str__(self) -> str:
        return self._url

    def put(self, name: str, content: bytes) -> None:
        self._files.pipe_file(self._of(name), content)

    def create(self, name: str, content: bytes) -> bool:
        try:
            self._files.pipe_file(self._of(name), content, mode="create")
        except FileExistsError:
            return False
        return read(self, name) == content  # not all of them create exclusively

    def open(self, name: str) -> Any:
        return self._files.open(self._of(name), "rb")

    def names(self, folder: str = "") -> set[str]:
        self._files.invalidate_cache()  # other workers write here too
        where = self._of(folder) if folder else self._path
        try:
            found = self._files.ls(where, detail=False)
        except FileNotFoundError:
            return set()
        inside = (name.strip("/") for name in found)
        return {n.rpartition("/")[2] for n in inside if n != where.strip("/")}

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(self._of(name))

    def sweep(self, every: bool = False) -> int:
        return 0  # what was not put whole is not there

    def _of(self, name: str) -> str:
        return f"{self._path}/{name}"


Store = Folder | Bucket


def store(out: str | Path) -> Store:
    """The store at a path or URL.

    Args:
        out: A folder, which need not be there yet; or a URL such as gs://bucket/run.

    Raises:
        ValueError: For a URL whose protocol is not known or not installed, or a path that is a
            file.
    """
    path = Path(out)
    if "://" in str(out):
        try:
            files, inside = fsspec.url_to_fs(str(out))
        except (ValueError, ImportError) as error:
            raise ValueError(f"out is {str(out)!r}, which cannot be opened: {error}") from None
        if not isinstance(files, LocalFileSystem):
            return Bucket(files, inside, str(out))
        path = Path(inside)
    if path.is_file():
        raise ValueError(f"out is {str(out)!r}, a file: name a folder")
    return Folder(path)


def read(store: Store, name: str) -> bytes | None:
    """The content of a file; None where there is no such file."""
    try:
        with store.open(name) as file:
            return file.read()
    except FileNotFoundError:
        return None
