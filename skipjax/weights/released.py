"""Files of weights, .pt, .safetensors or .pkl: one array at a time, to where it belongs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.typing import DTypeLike

from skipjax.files import pending_folder
from skipjax.models import ClassifierConfig
from skipjax.models.config import EncoderConfig
from skipjax.pretrained import Classifier, Network, Pretrained
from skipjax.sharding import Placement
from skipjax.weights import cards, checksums, edm, folders, parts, placing
from skipjax.weights.cards import Card
from skipjax.weights.readers import edm_pickle, state_dict

_OWN = ("network", "process")  # what a pickle says itself, whatever its card does

# What a file holds, where no card knows: an architecture, or a model without params.
Described = Network | ClassifierConfig | Pretrained | Classifier


def load(
    path: Path,
    card: str | None,
    config: Described | None,
    dtype: DTypeLike,
    where: Placement | None,
    key: str | None = None,
) -> Pretrained | Classifier:
    """Reads a file of somebody's weights.

    Args:
        path: The file.
        card: Name of its card; found by the file's name where neither it nor `config` is given.
        config: What the file holds, where no card knows.
        dtype: To keep the weights in.
        where: Where to put them.
        key: Of the state dict in the file, as in `state_dict.read`.

    Raises:
        ValueError: If the file is damaged or not what it was at first, nothing is known of it, or
            the weights do not fit what is known, or are not finite.
    """
    known, model = _described(path, card, config, key)
    record = checksums.Record(path, known.get("sha256"))
    record.check()
    model = replace(model, params=_params(path, model.network, dtype, where, key))
    record.keep()
    return replace(model, source=str(path)) if isinstance(model, Pretrained) else model


def convert(
    path: Path, out: Path, card: str | None, dtype: DTypeLike, key: str | None = None
) -> Card:
    """Turns a released file into a checkpoint's folder, with its card; the folder appears whole.

    Returns:
        The card as written.

    Raises:
        ValueError: As `load` does; if there is something at `out`, or no room for it.
    """
    with pending_folder(out) as temporary:
        described, _ = _described(path, card, None, key)
        loaded = load(path, card, None, dtype, None, key)
        origin = {"file": path.name, "sha256": checksums.sha256(path)}
        number = sum(leaf.size for leaf in jax.tree.leaves(loaded.params))
        described = described | {"sha256": origin["sha256"], "converted_from": origin}
        described.setdefault("parameters", number)
        folders.save(temporary, loaded.params, described, dtype)
        return described


def _described(
    path: Path, card: str | None, config: Described | None, key: str | None
) -> tuple[Card, Pretrained | Classifier]:
    """The card of a file, and what is in it: a model without params."""
    own = None
    if config is None and edm_pickle.is_one(path):
        try:
            own = edm.models.described(edm_pickle.snapshot(path, key), path.stem)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if card is None and cards.of_file(path) is None:
            return parts.describe(own), own
    known = _card(path, card, config)
    model = cards.model(known) if config is None else parts.described(config, path.stem)
    if own is None:
        return known, model
    model = edm.models.with_card(own, model)
    return known | {k: v for k, v in parts.describe(model).items() if k in _OWN}, model


def _card(path: Path, card: str | None, config: Described | None) -> Card:
    """The card of a file; an empty one where a config stands in for it."""
    if card is not None:
        if config is not None:
            raise ValueError("card and config both say what the file holds: drop one of them")
        return cards.named(card)
    found = cards.of_file(path)
    if config is not None:
        if found is not None:
            _same_attention_order(path, config, found)
        return {}
    if found is None:
        raise ValueError(
            f"{path}: no card knows a file of this name. Give card=, {cards.among(path.stem)}; or "
            "config=, such as a UNetConfig"
        )
    return found


def _same_attention_order(path: Path, config: Described, card: Card) -> None:
    """Shapes cannot tell the two layouts of attention apart, but a card can."""
    ours: Any = parts.described(config, path.stem).network
    theirs: Any = cards.model(card).network
    if not isinstance(ours, EncoderConfig) or not isinstance(ours, type(theirs)):
        return
    turned = replace(ours, use_new_attention_order=not ours.use_new_attention_order)
    if turned == theirs:
        raise ValueError(
            f"{path}: config says use_new_attention_order = {ours.use_new_attention_order}, the "
            f"card of {card['name']} says {theirs.use_new_attention_order}: with the wrong order "
            "of q, k and v a file loads without complaint, and samples noise. Drop config, or "
            "rename the file if it is not that one"
        )


def _params(
    path: Path, config: Any, dtype: DTypeLike, where: Placement | None, key: str | None
) -> Any:
    try:
        return placing.params(state_dict.read(path, key), config, dtype, where)
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
