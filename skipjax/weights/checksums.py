"""sha256 of files: of a checkpoint's folder in its card, of a released file beside it."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from skipjax.files import pending

TREES = ("params", "codec", "conditioner", "files")  # folders of a checkpoint's beside its card
ADVICE = "the checkpoint is damaged: fetch or install it again"


def sha256(path: Path) -> str:
    """The checksum of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_weights(path: Path) -> str:
    """The checksum of a released file; or of a checkpoint's folder, that of what `sha256sum` would
    print of its weights' files.
    """
    if path.is_file():
        return sha256(path)
    return of_listing(listing(path).items())


def of_listing(digests: Iterable[tuple[str, str]]) -> str:
    """The checksum of what `sha256sum` prints of files, given by name and their own."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in digests)
    return hashlib.sha256(lines.encode()).hexdigest()


def listing(folder: Path) -> dict[str, str]:
    """The checksums of the weights' files in a checkpoint's folder, by their path in it."""
    return {name: sha256(folder / name) for name in _names(folder)}


def verify(folder: Path, files: dict[str, str]) -> None:
    """Compares the weights' files in a checkpoint's folder with its card's checksums.

    Raises:
        ValueError: With the first file that is missing, damaged or not listed.
    """
    for name in sorted({*files, *_names(folder)}):
        if name not in files:
            raise ValueError(f"{folder / name} is not listed in card.json: {ADVICE}")
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing: {ADVICE}")
        _compare(folder / name, files[name], "card.json")


def check_blob(path: Path) -> None:
    """Compares a file of the Hugging Face cache with the sha256 that it is stored under, if it is.

    Raises:
        ValueError: If they differ.
    """
    blob = path.resolve()
    if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name):
        advice = f"the download is damaged: delete {blob} and fetch it again"
        _compare(path, blob.name, "the hub", advice)


class Record:
    """The checksum of a released file, in `FILE.sha256` beside it, as `sha256sum` writes it.

    Where a card knows the checksum, that one counts. Otherwise the first load that succeeds writes
    it down, and every later one compares.
    """

    def __init__(self, path: Path, published: str | None):
        self._path, self._published = path, published
        self._beside = path.with_name(path.name + ".sha256")

    def check(self) -> None:
        """Compares the file with what is known of it, if anything is.

        Raises:
            ValueError: If they differ, or what is beside the file is no checksum.
        """
        if self._published:
            _compare(self._path, self._published, "its card")
        elif self._beside.is_file():
            recorded = self._beside.read_text(encoding="utf-8", errors="replace").split()
            wanted = recorded[0].lower() if recorded else ""
            if not re.fullmatch("[0-9a-f]{64}", wanted):
                raise ValueError(f"{self._beside} does not begin with a sha256: delete it")
            _compare(
                self._path,
                wanted,
                self._beside.name,
                f"the file is not the one that was loaded first: fetch it again, or delete "
                f"{self._beside.name} if it was replaced on purpose",
            )

    def keep(self) -> None:
        """Writes the checksum down, once, unless the folder cannot be written to."""
        if self._published or self._beside.exists():
            return
        line = f"{sha256(self._path)}  {self._path.name}\n"
        try:
            with pending(self._beside) as temporary:
                temporary.write_text(line, encoding="utf-8")
        except (ValueError, OSError):
            pass  # a read-only folder of weights is no reason not to load them


def _compare(path: Path, wanted: str, source: str, advice: str = ADVICE) -> None:
    if (got := sha256(path)) != wanted:
        raise ValueError(
            f"sha256 of {path} is {got[:12]}..., {source} says {wanted[:12]}...: {advice}"
        )


def _names(folder: Path) -> list[str]:
    files = (path for tree in TREES for path in (folder / tree).rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files)
