"""Checkpoints written anew: as ours, or as diffusers'."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from skipjax.files import pending_folder
from skipjax.weights import cards, diffusers, folders, loading, released
from skipjax.weights.cards import Card


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
            model = loading.load(checkpoint, dtype=dtype, **told, **options)
            diffusers.save(model, temporary)
            return loading.card_of(model)
    prediction = options.get("prediction")
    file, name = Path(checkpoint).is_file(), loading.of_hub(checkpoint)
    if not file and name is None and not loading.is_diffusers(Path(checkpoint)):
        raise ValueError(
            f"{checkpoint} is not a file: give a .pt, .safetensors or .pkl, a folder that "
            "diffusers wrote, or a name of the hub"
        )
    if not file and (card is not None or key is not None):
        raise ValueError(
            f"card and key say what a file holds, and {checkpoint} is none: drop them"
        )
    said = card is not None
    found = loading.find(checkpoint, revision, variant, dtype, key, prediction, said=said)
    if isinstance(found, Path):
        if options:
            raise ValueError(f"{', '.join(options)}: {checkpoint} takes no such, drop them")
        return released.convert(found, out, card, dtype, key)
    with pending_folder(out) as temporary:
        model = loading.load(checkpoint, dtype=dtype, **told, **options)
        known = (None if name is None else cards.of_hub(name)) or {}
        folder = found.path.is_dir()
        origin = {"folder": model.name} if folder else {"file": found.path.name}
        origin["sha256"] = found.sha256()
        described = known | loading.card_of(model) | {"converted_from": origin}
        folders.save(temporary, model.params, described, dtype, model)
        return described
