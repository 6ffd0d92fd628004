"""Checkpoints on disk and their cards: what is known of them, and the sha256 of every file.

A checkpoint is a folder: `card.json`, and the weights as an orbax checkpoint in `params/`. The
card names the architecture (`unet`), `schedule`, `T`, `prediction`, `class_names`, and whatever
else its makers know (data, licence, training, measurements); `files` has the checksums.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.models import UNetConfig, param_shapes
from skipjax.pretrained import Pretrained, Spec
from skipjax.weights import checkpoint

_PACKAGE = Path(__file__).parents[1]
# Beside the package in a checkout, inside it where it was installed from a wheel.
_PLACES = (_PACKAGE / "checkpoints", _PACKAGE.parent / "checkpoints")
BUNDLED = next((place for place in _PLACES if place.is_dir()), _PLACES[0])
_SPEC = [field.name for field in dataclasses.fields(Spec)]


def bundled() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(card.parent.name for card in BUNDLED.glob("*/card.json"))


def find(checkpoint: str | Path) -> Path:
    """The folder of a checkpoint: a bundled name, or a path.

    Raises:
        ValueError: If there is none; says which there are.
    """
    for folder in (BUNDLED / checkpoint, Path(checkpoint)):
        if (folder / "card.json").is_file():
            return folder
    names = ", ".join(bundled()) or "none"
    problem = (
        "has no card.json" if Path(checkpoint).exists() else "is not a bundled name or a folder"
    )
    raise ValueError(
        f"checkpoint {str(checkpoint)!r} {problem}; bundled are: {names}. "
        "Otherwise give the folder of a checkpoint, with its card.json"
    )


def read(folder: Path) -> dict[str, Any]:
    """The card of a checkpoint's folder.

    Raises:
        ValueError: If it is not a JSON object.
    """
    path = folder / "card.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(card, dict):
        raise ValueError(f"{path} is not a JSON object, but a {type(card).__name__}")
    return card


def load(folder: Path) -> Pretrained:
    """Reads a checkpoint after checking every file of it against the card.

    Raises:
        ValueError: If the card is incomplete, a file is missing, damaged or not listed, or a
            weight is not finite.
    """
    card = read(folder)
    network = spec(card)
    verify(folder, card.get("files", {}))
    params = checkpoint.restore(folder / "params", param_shapes(network.unet))
    return Pretrained(finite(params), network)


def spec(card: dict[str, Any]) -> Spec:
    """What the card says that sampling has to know.

    Raises:
        ValueError: If it lacks something, or no network can be built from it.
    """
    known: dict[str, Any] = {name: card[name] for name in _SPEC if name in card}
    try:
        known["unet"] = UNetConfig(**card["unet"])
        return Spec(**known)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the card does not describe a network: {error}") from None


def save(folder: Path, params: dict, card: dict[str, Any], dtype: jnp.dtype) -> None:
    """Writes a checkpoint: weights in `dtype`, and the card with the checksums of its files."""
    stored = jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), params)
    checkpoint.save(folder / "params", stored)
    card = card | {"files": {name: _sha256(folder / name) for name in _listing(folder)}}
    text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    (folder / "card.json").write_text(text, encoding="utf-8")


def verify(folder: Path, files: dict[str, str]) -> None:
    """Compares the weights' files with the card's checksums.

    Raises:
        ValueError: With the first file that is missing, damaged or not listed.
    """
    advice = "the checkpoint is damaged: fetch or install it again"
    for name in sorted({*files, *_listing(folder)}):
        if name not in files:
            raise ValueError(f"{folder / name} is not listed in card.json: {advice}")
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing: {advice}")
        if (got := _sha256(folder / name)) != files[name]:
            raise ValueError(
                f"sha256 of {folder / name} is {got[:12]}..., card.json says "
                f"{files[name][:12]}...: {advice}"
            )


def finite(params: dict) -> dict:
    """The params, if every one of them is finite.

    Raises:
        ValueError: With the names of those that are not.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    bad = [
        jax.tree_util.keystr(p, simple=True, separator=".")
        for p, leaf in leaves
        if not np.isfinite(np.asarray(leaf)).all()
    ]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ValueError(f"weights are NaN or infinite in {', '.join(bad[:3])}{more}")
    return params


def _listing(folder: Path) -> list[str]:
    files = (path for path in (folder / "params").rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
