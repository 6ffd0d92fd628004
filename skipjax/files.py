"""Files and folders that appear under their name whole, or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def pending(path: str | Path) -> Iterator[Path]:
    """A temporary file that takes the name `path` when the block ends well, and goes otherwise.

    Opened before anything is computed, it also finds out whether there will be room for a result.

    Raises:
        ValueError: If the folder is not there, cannot be written to, or `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file in it")
    with _beside(path, tempfile.mkstemp, suffix=path.suffix) as temporary:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)


@contextmanager
def pending_folder(path: str | Path, anew: bool = False) -> Iterator[Path]:
    """A temporary folder that takes the name `path` when the block ends well, and goes otherwise.

    Args:
        path: Its name.
        anew: Whether it may take the place of a folder, which stays until the block ends well.

    Raises:
        ValueError: If there is something at `path`, or the folder around it cannot be written to.
    """
    path = Path(path)
    if path.exists() and not anew:
        raise ValueError(f"{path} is there already: name a folder that is not")
    with _beside(path, tempfile.mkdtemp) as temporary:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        if anew and path.exists():
            with _beside(path, tempfile.mkdtemp) as old:
                os.rename(path, old)
                os.rename(temporary, path)
        else:
            os.rename(temporary, path)


@contextmanager
def _beside(path: Path, make: Callable, **options: str) -> Iterator[Path]:
    if not path.parent.is_dir():
        raise ValueError(f"{path}: the folder {path.parent} is not there; make it first")
    try:
        made = make(dir=path.parent, prefix=".", **options)
    except OSError as error:
        raise ValueError(f"{path}: cannot write to {path.parent} ({error.strerror})") from None
    if isinstance(made, tuple):  # an open file and its name
        os.close(made[0])
    temporary = Path(made[1] if isinstance(made, tuple) else made)
    try:
        yield temporary
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
