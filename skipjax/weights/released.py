"""Released files of weights, .pt or .safetensors: one array at a time, to where it belongs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.typing import DTypeLike

from skipjax import placement
from skipjax.files import pending_folder
from skipjax.models import ClassifierConfig, UNetConfig, param_shapes
from skipjax.placement import Placement
from skipjax.pretrained import Classifier, ClassifierSpec, Pretrained, Spec
from skipjax.weights import (
    adm,
    attention_order,
    cards,
    checksums,
    folders,
    safetensors_file,
    torch_file,
)
from skipjax.weights.cards import Card

Described = UNetConfig | ClassifierConfig | Spec | ClassifierSpec


def load(
    path: Path,
    card: str | None,
    config: Described | None,
    dtype: DTypeLike,
    where: Placement | None,
) -> Pretrained | Classifier:
    """Reads a file of guided-diffusion's weights.

    Args:
        path: The file.
        card: Name of its card; found by the file's name where neither it nor `config` is given.
        config: What the file holds, where no card knows.
        dtype: To keep the weights in.
        where: Where to put them.

    Raises:
        ValueError: If the file is damaged or not what it was at first, nothing is known of it, or
            the weights do not fit what is known, or are not finite.
    """
    described = _card(path, card, config)
    spec = cards.spec(described) if config is None else _spec(path, config)
    record = checksums.Record(path, described.get("sha256"))
    record.check()
    params = _params(path, folders.architecture(spec), dtype, where)
    record.keep()
    return folders.known(params, spec)


def convert(path: Path, out: Path, card: str | None, dtype: DTypeLike) -> Card:
    """Turns a released file into a checkpoint's folder, with its card; the folder appears whole.

    Returns:
        The card as written.

    Raises:
        ValueError: As `load` does; if there is something at `out`, or no room for it.
    """
    with pending_folder(out) as temporary:
        described = _card(path, card, None)
        loaded = load(path, card, None, dtype, None)
        origin = {"file": path.name, "sha256": checksums.sha256(path)}
        described = described | {"sha256": origin["sha256"], "converted_from": origin}
        folders.save(temporary, loaded.params, described, dtype)
        return described


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
            f"{path}: no card knows a file of this name. Give card=, one of "
            f"{', '.join(cards.released())}; or config=, a UNetConfig, ClassifierConfig or Spec"
        )
    return found


def _spec(path: Path, config: Described) -> Spec | ClassifierSpec:
    """What a user says of a file; an architecture alone is taken to be trained as ADM's are."""
    if isinstance(config, ClassifierConfig):
        return ClassifierSpec(path.stem, config)
    if isinstance(config, UNetConfig):
        learned = config.out_channels == 2 * config.in_channels
        return Spec(path.stem, config, variance="learned_range" if learned else "small")
    if isinstance(config, (Spec, ClassifierSpec)):
        return config
    raise ValueError(
        f"config is a {type(config).__name__}: it must be a UNetConfig, ClassifierConfig, Spec or "
        "ClassifierSpec"
    )


def _same_attention_order(path: Path, config: Described, card: Card) -> None:
    """Shapes cannot tell the two layouts of attention apart, but a card can."""
    ours = folders.architecture(_spec(path, config))
    theirs = folders.architecture(cards.spec(card))
    turned = replace(ours, use_new_attention_order=not ours.use_new_attention_order)
    if turned == theirs:
        raise ValueError(
            f"{path}: config says use_new_attention_order = {ours.use_new_attention_order}, the "
            f"card of {card['name']} says {theirs.use_new_attention_order}: with the wrong order "
            "of q, k and v a file loads without complaint, and samples noise. Drop config, or "
            "rename the file if it is not that one"
        )


def _params(path: Path, config: Any, dtype: DTypeLike, where: Placement | None) -> Any:
    reader = safetensors_file if path.suffix == ".safetensors" else torch_file
    places: Any = traverse_util.flatten_dict(placement.shardings(where, param_shapes(config)))
    attention, bad = {}, []

    def convert(name: tuple[str, ...], array: np.ndarray) -> jax.Array:
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{'.'.join(name)} is {array.dtype}: weights are real numbers")
        # In C order here and now: the device may then take the memory over instead of copying it.
        with np.errstate(over="ignore"):  # what is too large for the dtype is refused by name
            array = np.ascontiguousarray(array, dtype)
        if folders.finite(array):
            attention.update(attention_order.marks(name, array, config))
        else:
            bad.append(tuple(map(jax.tree_util.DictKey, name)))
        return jax.device_put(array, places[name])

    try:
        params = adm.to_params(reader.state_dict(path), config, convert)
        folders.refuse(bad)
        attention_order.check(attention, config)
        return params
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
