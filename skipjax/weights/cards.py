"""Cards: what is known of checkpoints, as JSON.

A card describes the parts of a checkpoint (`weights.parts`), and whatever else is known: source,
licence, training, published and measured quality. Cards of checkpoints that lie in a folder are
its `card.json`; those of files that others released are `checkpoints/FAMILY/*.json`, found by file
name.
"""

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from skipjax.pretrained import Classifier, Pretrained
from skipjax.weights import edm, parts
from skipjax.weights.readers import edm_pickle

_PACKAGE = Path(__file__).parents[1]
# Beside the package in a checkout, inside it where it was installed from a wheel.
_PLACES = (_PACKAGE / "checkpoints", _PACKAGE.parent / "checkpoints")
BUNDLED = next((place for place in _PLACES if place.is_dir()), _PLACES[0])
# A folder a family, of cards of files that others released.
RELEASED = tuple(
    sorted(f for f in BUNDLED.glob("*") if f.is_dir() and not (f / "card.json").exists())
)

Card = dict[str, Any]
MOST_SHOWN, NEAREST = 12, 4  # names in an error


def bundled() -> list[str]:
    """Names of the checkpoints that come with the package, weights included."""
    return sorted(card.parent.name for card in BUNDLED.glob("*/card.json"))


def released() -> list[str]:
    """Names of the cards of files that others publish."""
    return sorted(_cards())


def find(checkpoint: str | Path) -> Path:
    """The folder of a checkpoint: a bundled name, or a path.

    Raises:
        ValueError: If there is none; says which there are.
    """
    for folder in (Path(checkpoint), BUNDLED / checkpoint):
        if (folder / "card.json").is_file():
            return folder
    path, names = Path(checkpoint), ", ".join(bundled()) or "none"
    if card := of_file(path):
        what = f"fetch {_sources(card)} and give the path of the file"
        if "hub" in card:
            what = f"load {card['hub']!r}, its name on the Hugging Face hub"
        raise ValueError(f"{str(checkpoint)!r} does not come with the package: {what}")
    problem = "is not a bundled name, a folder or a file"
    if path.exists():
        problem = "has no card.json" if path.is_dir() else "has a name that no card knows"
    raise ValueError(
        f"checkpoint {str(checkpoint)!r} {problem}; bundled are: {names}. "
        "Otherwise give the folder of a checkpoint, with its card.json, or a file of weights"
    )


def describe(checkpoint: str | Path) -> Card:
    """All that is known of a checkpoint: a bundled or released name, a folder, or a file; a pickle
    of EDM's says itself what it is.

    Raises:
        ValueError: If nothing is.
    """
    path = Path(checkpoint)
    card = None if (path / "card.json").is_file() else of_file(path)
    if card is None and path.is_file() and edm_pickle.is_one(path):
        return parts.describe(edm.models.described(edm_pickle.snapshot(path), path.stem))
    return card or read(find(checkpoint) / "card.json")


def read(path: Path) -> Card:
    """A card.

    Raises:
        ValueError: If it is not a JSON object.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(card, dict):
        raise ValueError(f"{path} is not a JSON object, but a {type(card).__name__}")
    return card


def named(name: str) -> Card:
    """The card of a released file, by the card's name; or the one in a .json.

    Raises:
        ValueError: If there is none; says which there are.
    """
    if name.endswith(".json") and Path(name).is_file():
        return read(Path(name))
    known = _cards()
    if name not in known:
        raise ValueError(f"card is {name!r}: it must be a .json, or {among(name)}")
    return read(known[name])


def among(name: str) -> str:
    """The names that there are of released files, for an error: all, or those nearest to one."""
    known = released()
    if len(known) <= MOST_SHOWN:
        return f"one of {', '.join(known)}"
    near = get_close_matches(name, known, NEAREST, 0)
    return f"one of {len(known)} names, such as {', '.join(near)}"


def of_file(path: Path) -> Card | None:
    """The card of a released file, by the file's name, whatever its extension."""
    known = _cards()
    if path.stem in known:
        return read(known[path.stem])
    cards = (read(known[name]) for name in sorted(known))
    return next((c for c in cards if path.stem in map(_stem, c["file_names"])), None)


def of_hub(name: str) -> Card | None:
    """The card of a repository of the Hugging Face hub, "org/name"."""
    cards = map(read, _cards().values())
    return next((card for card in cards if card.get("hub") == name), None)


def model(card: Card) -> Pretrained | Classifier:
    """What the card describes, without params.

    Raises:
        ValueError: If it lacks something, or no network can be built from it.
    """
    conditioner = card.get("conditioner")
    if isinstance(conditioner, dict):
        conditioner = _with_names(conditioner)
    elif isinstance(conditioner, list):
        conditioner = [_with_names(one) for one in conditioner]
    known = _with_names(card) | ({} if conditioner is None else {"conditioner": conditioner})
    try:
        return parts.build(known)
    except ValueError as error:
        raise ValueError(f"the card of {card.get('name', 'no name')}: {error}") from None


def _cards() -> dict[str, Path]:
    """Cards of released files by name."""
    return {card.stem: card for folder in RELEASED for card in folder.glob("*.json")}


def _with_names(fields: Any) -> Any:
    """A part with the list of class names that it names."""
    if isinstance(fields, dict) and isinstance(fields.get("class_names"), str):
        return fields | {"class_names": _names(fields["class_names"])}
    return fields


def _names(name: str) -> list[str]:
    """A list of class names that several cards share."""
    try:
        return json.loads((BUNDLED / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"class_names is {name!r}, and there is no such list: {error}") from None


def _stem(name: str) -> str:
    return Path(name).stem


def _sources(card: Card) -> str:
    source = card.get("source", card["name"])
    return source if isinstance(source, str) else " or ".join(source)
