"""Any checkpoint by what people call it: a path, a bundled name, a name of the hub."""

from pathlib import Path

import jax.numpy as jnp
from jax.typing import DTypeLike

from skipjax.checks import as_dtype
from skipjax.files import pending_folder
from skipjax.pretrained import Classifier, Pretrained
from skipjax.sharding import Placement
from skipjax.weights import cards, checksums, diffusers, folders, parts, released
from skipjax.weights.cards import Card
from skipjax.weights.diffusers import hub
from skipjax.weights.released import Described


def load(
    checkpoint: str | Path,
    *,
    card: str | None = None,
    config: Described | None = None,
    key: str | None = None,
    dtype: DTypeLike = jnp.float32,
    sharding: Placement | None = None,
    revision: str | None = None,
    variant: str | None = None,
) -> Pretrained | Classifier:
    """`skipjax.load`, which says what the arguments are."""
    kept = as_dtype(dtype, ("float32", "bfloat16", "float16"))
    if not Path(checkpoint).is_file() and (card, config, key) != (None, None, None):
        raise ValueError(
            f"{checkpoint} is not a file: card, config and key say what a .pt or .safetensors "
            "holds"
        )
    found = find(checkpoint, revision, variant, kept)
    if isinstance(found, diffusers.Folder):
        return found.load(kept, sharding)
    if found.is_file():
        return released.load(found, card, config, kept, sharding, key)
    return folders.load(found, kept, sharding)


def find(
    checkpoint: str | Path,
    revision: str | None = None,
    variant: str | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Path | diffusers.Folder:
    """What a checkpoint's name stands for: a file, a folder with its card, or one of diffusers'.
    In this order: what there is at that path, a bundled name, what the hub's cache holds, and what
    is fetched from the hub.

    Args:
        checkpoint: The name.
        revision: Of a name of the hub.
        variant: Of diffusers' weights.
        dtype: That weights will be kept in.

    Raises:
        ValueError: If it stands for nothing, with what was looked for.
    """
    path, name = Path(checkpoint), _of_hub(checkpoint)
    if revision is not None and name is None:
        raise ValueError(f"revision is given, and {checkpoint} is no name of the hub: drop it")
    if name is not None:
        return hub.find(name, revision, variant, dtype)
    if _is_diffusers(path):
        return diffusers.find(path, variant=variant)
    if variant is not None:
        raise ValueError(f"variant is given, and {checkpoint} is no folder of diffusers': drop it")
    return path if path.is_file() else cards.find(checkpoint)


def describe(checkpoint: str | Path, revision: str | None = None) -> Card:
    """All that is known of a checkpoint, of which no weight is read.

    Raises:
        ValueError: If nothing is.
    """
    name = _of_hub(checkpoint)
    if name is not None:
        known = cards.of_hub(name)
        if known is not None and hub.cached(name, revision) is None:
            return known
        return (known or {"hub": name}) | _card(hub.describe(name, revision))
    if _is_diffusers(path := Path(checkpoint)):
        return _card(diffusers.describe(path))
    return cards.describe(checkpoint)


def convert(
    checkpoint: str,
    out: Path,
    card: str | None = None,
    dtype: DTypeLike = jnp.float32,
    key: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
) -> Card:
    """Turns a released file, or what diffusers wrote, into a checkpoint's folder with its card,
    which appears whole.

    Returns:
        The card as written.

    Raises:
        ValueError: As `load` does; if there is something at `out`, or no room for it.
    """
    if Path(checkpoint).is_file():
        return released.convert(Path(checkpoint), out, card, dtype, key)
    name = _of_hub(checkpoint)
    if name is None and not _is_diffusers(Path(checkpoint)):
        raise ValueError(
            f"{checkpoint} is not a file: give a .pt, .safetensors or .pkl, a folder that "
            "diffusers wrote, or a name of the hub"
        )
    if card is not None or key is not None:
        raise ValueError(
            f"card and key say what a file holds, and {checkpoint} is none: drop them"
        )
    with pending_folder(out) as temporary:
        found = find(checkpoint, revision, variant, dtype)
        assert isinstance(found, diffusers.Folder)
        model = found.load(dtype, None)
        known = (None if name is None else cards.of_hub(name)) or {}
        origin = {"folder": model.name, "sha256": found.sha256()}
        described = known | _card(model) | {"converted_from": origin}
        folders.save(temporary, model.params, described, dtype)
        return described


def sha256(checkpoint: str, revision: str | None = None, variant: str | None = None) -> str:
    """The checksum of a checkpoint's weights, whatever it is."""
    found = find(checkpoint, revision, variant)
    return found.sha256() if isinstance(found, diffusers.Folder) else checksums.of_weights(found)


def _of_hub(checkpoint: str | Path) -> str | None:
    """The name of the hub that a text is; None for a path, or a file that a card knows."""
    path, name = Path(checkpoint), str(checkpoint)
    if path.exists() or not hub.is_name(name):
        return None
    known = cards.of_file(path)
    return name if known is None or "hub" in known else None


def _is_diffusers(path: Path) -> bool:
    return not (path / "card.json").is_file() and diffusers.is_folder(path)


def _card(model: Pretrained) -> Card:
    return parts.describe(model) | {"parameters": diffusers.number_of_weights(model)}
