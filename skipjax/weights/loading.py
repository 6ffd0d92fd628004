"""Any checkpoint by what people call it: a path, a bundled name, a name of the hub."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from skipjax.checks import as_dtype
from skipjax.files import pending_folder
from skipjax.pretrained import Pretrained
from skipjax.sharding import Placement
from skipjax.weights import (
    cards,
    checksums,
    compvis,
    diffusers,
    folders,
    lora,
    parts,
    released,
    textual_inversion,
    vocabularies,
)
from skipjax.weights.cards import Card
from skipjax.weights.components import Component, Found, fill, networks, parameters
from skipjax.weights.diffusers import hub
from skipjax.weights.lora import Loras
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
    loras: Loras | None = None,
    embeddings: Mapping[str, str | Path] | None = None,
    tokenizer: str | Path | None = None,
    prediction: str | None = None,
) -> Any:
    """`skipjax.load`, which says what the arguments are."""
    kept = as_dtype(dtype, ("float32", "bfloat16", "float16"))
    adapters = lora.read(loras)
    if not Path(checkpoint).is_file() and (card, config, key) != (None, None, None):
        raise ValueError(
            f"{checkpoint} is not a file: card, config and key say what a .pt or .safetensors "
            "holds"
        )
    said = card is not None or config is not None
    found = find(checkpoint, revision, variant, kept, key, prediction, said=said)
    if isinstance(found, Found):
        merged = replace(found, components=lora.merge(found.components, adapters))
        if isinstance(found.model, Pretrained):
            model = vocabularies.complete(found.path, found.model, tokenizer)
            merged = replace(merged, model=model)
        model = merged.load(kept, sharding)
    else:
        if tokenizer is not None:
            raise ValueError(f"tokenizer is given, and {checkpoint} has its own: drop it")
        read = jnp.float32 if adapters else kept
        if found.is_file():
            model = released.load(found, card, config, read, sharding, key)
        else:
            model = folders.load(found, read, sharding)
        if adapters:
            components = {
                name: Component(network, partial(diffusers.tensors, network, params), found)
                for name, (network, params) in networks(model).items()
            }
            merged = lora.merge(components, adapters)
            model = fill(model, {name: c.params(kept, sharding) for name, c in merged.items()})
    return textual_inversion.extend(model, embeddings) if embeddings else model


def find(
    checkpoint: str | Path,
    revision: str | None = None,
    variant: str | None = None,
    dtype: DTypeLike = jnp.float32,
    key: str | None = None,
    prediction: str | None = None,
    *,
    said: bool = False,
) -> Path | Found:
    """What a checkpoint's name stands for: a folder of diffusers' or a single file of the same
    networks; another file; or a folder with its card. In this order: what there is at that path,
    a bundled name, what the hub's cache holds, and what is fetched from the hub.

    Args:
        checkpoint: The name.
        revision: Of a name of the hub.
        variant: Of diffusers' weights.
        dtype: That weights will be kept in.
        key: Of the state dict in a file.
        prediction: Of a single file's network, "eps" or "v".
        said: Whether a card or config says what a file holds, whatever its content.

    Raises:
        ValueError: If it stands for nothing, with what was looked for.
    """
    path, name = Path(checkpoint), _of_hub(checkpoint)
    if revision is not None and name is None:
        raise ValueError(f"revision is given, and {checkpoint} is no name of the hub: drop it")
    single = None
    if path.is_file() and not said:
        single = compvis.find(path, key, prediction)
    if single is None and prediction is not None:
        raise ValueError(
            "prediction says what a single file of Stable Diffusion does not, and "
            f"{checkpoint} is none: drop it"
        )
    if single is not None:
        return single
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
    if path.is_file() and (single := compvis.find(path)) is not None:
        return (cards.of_file(path) or {}) | _card(single.model)
    return cards.describe(checkpoint)


def convert(
    checkpoint: str,
    out: Path,
    card: str | None = None,
    dtype: DTypeLike = jnp.float32,
    key: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    to: str = "skipjax",
    **options: Any,
) -> Card:
    """Turns a released file, or what diffusers wrote, into a checkpoint's folder with its card;
    or any checkpoint into a folder as diffusers writes it. It appears whole.

    Args:
        checkpoint: As `load` takes it.
        out: The folder to make.
        card: Of a file, as `load` takes it.
        dtype: To store the weights in.
        key: Of a file, as `load` takes it.
        revision: Of a name of the hub.
        variant: Of diffusers' weights.
        to: "skipjax" or "diffusers".
        options: What else `load` takes: loras, embeddings, tokenizer, prediction.

    Returns:
        The card as written.

    Raises:
        ValueError: As `load` does; if there is something at `out`, or no room for it.
    """
    options = {name: value for name, value in options.items() if value is not None}
    told = {"card": card, "key": key, "revision": revision, "variant": variant}
    if to == "diffusers":
        with pending_folder(out) as temporary:
            model = load(checkpoint, dtype=dtype, **told, **options)
            diffusers.save(model, temporary)
            return _card(model)
    prediction = options.get("prediction")
    found = find(checkpoint, revision, variant, dtype, key, prediction, said=card is not None)
    if isinstance(found, Path):
        if not found.is_file():
            raise ValueError(
                f"{checkpoint} is not a file: give a .pt, .safetensors or .pkl, a folder that "
                "diffusers wrote, or a name of the hub"
            )
        return released.convert(found, out, card, dtype, key)
    with pending_folder(out) as temporary:
        model = load(checkpoint, dtype=dtype, **told, **options)
        name = _of_hub(checkpoint)
        known = (None if name is None else cards.of_hub(name)) or {}
        folder = found.path.is_dir()
        origin = {"folder": model.name} if folder else {"file": found.path.name}
        described = known | _card(model) | {"converted_from": origin | {"sha256": found.sha256()}}
        folders.save(temporary, model.params, described, dtype, model)
        return described


def sha256(checkpoint: str, revision: str | None = None, variant: str | None = None) -> str:
    """The checksum of a checkpoint's weights, whatever it is."""
    found = find(checkpoint, revision, variant)
    return found.sha256() if isinstance(found, Found) else checksums.of_weights(found)


def _of_hub(checkpoint: str | Path) -> str | None:
    """The name of the hub that a text is; None for a path, or a file that a card knows."""
    path, name = Path(checkpoint), str(checkpoint)
    if path.exists() or not hub.is_name(name):
        return None
    known = cards.of_file(path)
    return name if known is None or "hub" in known else None


def _is_diffusers(path: Path) -> bool:
    return not (path / "card.json").is_file() and diffusers.is_folder(path)


def _card(model: Any) -> Card:
    return parts.describe(model) | {"parameters": sum(parameters(model).values())}
