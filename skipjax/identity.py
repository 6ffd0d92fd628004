"""The identity of a run: a file in its folder says it, and no other run goes on there."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from skipjax.files import pending

SHOWN = 5  # differences that an error names


def claim(path: Path, identity: dict[str, Any], may_change: Sequence[str] = ()) -> None:
    """Makes the folder of a file and writes it, or finds that it says the same.

    Args:
        path: Of the file.
        identity: What it is to say, as JSON can: settings, and settings of settings.
        may_change: Names of settings that may differ, "run.steps".

    Raises:
        ValueError: If the file says something else, the folder is there without it and not empty,
            or it cannot be written.
    """
    identity, out = json.loads(json.dumps(identity)), path.parent
    if path.exists():
        ours, theirs = dict(_flat(identity)), dict(_flat(read(path)))
        different = [
            f"{name} is {theirs.get(name)!r} there, {ours.get(name)!r} here"
            for name in {**ours, **theirs}
            if name not in may_change and ours.get(name) != theirs.get(name)
        ]
        if different:
            raise ValueError(
                f"{out} holds another {path.stem}: {'; '.join(different[:SHOWN])}"
                f"{' ...' if len(different) > SHOWN else ''}. Name another folder"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there, and is no folder of a {path.stem}: name another")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{out} cannot be made ({error.strerror})") from None
    with pending(path) as temporary:
        temporary.write_text(json.dumps(identity, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """What a file says.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None


def _flat(said: dict[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in said.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{where}{name}.")
        else:
            yield where + name, value
