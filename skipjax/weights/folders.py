"""A checkpoint's folder: `card.json`, and the weights as an orbax checkpoint in `params/`.

Those of a codec or conditioner that has some lie in `codec/` and `conditioner/`; of several
conditioners in `conditioner/0` and so on. Files that a part has besides, such as a vocabulary, lie
in a folder of the same name in `files/`.

The card's `files` has the sha256 of every one of them.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from skipjax import conditioners, sharding
from skipjax.files import pending
from skipjax.models import param_shapes
from skipjax.pretrained import Classifier, Pretrained
from skipjax.sharding import Placement
from skipjax.weights import cards, checkpoint, checksums
from skipjax.weights.cards import Card

FILES = "files"


def load(
    folder: Path, dtype: DTypeLike = jnp.float32, where: Placement | None = None
) -> Pretrained | Classifier:
    """Reads a checkpoint after checking every file of it against the card.

    Args:
        folder: With `card.json` in it.
        dtype: To keep the weights in.
        where: Where to put them; each device reads its own part.

    Raises:
        ValueError: If the card is incomplete, a file is missing, damaged or not listed, or a
            weight is not finite.
    """
    card = cards.read(folder / "card.json")
    model = cards.model(card)
    checksums.verify(folder, card.get("files", {}))
    model = replace(model, params=_restore(folder / "params", model.network, dtype, where))
    if not isinstance(model, Pretrained):
        return model

    def read(name: str, part: Any) -> Any:
        part = _with_files(part, folder, name)
        if not _owns(part):
            return part
        return replace(part, params=_restore(folder / name, part, dtype, where))

    return replace(_map_parts(model, read), source=str(folder))


def save(
    folder: str | Path,
    params: Any,
    card: Card,
    dtype: DTypeLike,
    model: Pretrained | None = None,
) -> None:
    """Writes a checkpoint: weights in `dtype`, then the card with the checksums of their files.

    Without its card a folder is no checkpoint, so that a half-written one is never taken for one.

    Args:
        folder: To write to.
        params: Of the network.
        card: Without checksums.
        dtype: To store all weights in.
        model: Whose codec and conditioner are written too, where they have weights or files.

    Raises:
        ValueError: If there are weights in the folder already, or no room for them.
    """
    folder, every = Path(folder), {"params": params}

    def collect(name: str, part: Any) -> Any:
        if _owns(part):
            every[name] = part.params
        if hasattr(part, "write_files"):
            (folder / FILES / name).mkdir(parents=True)
            part.write_files(folder / FILES / name)
        return part

    if isinstance(model, Pretrained):
        _map_parts(model, collect)
    for name, tree in every.items():
        stored = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)
        checkpoint.save(folder / name, stored)
    card = card | {"files": checksums.listing(folder)}
    with pending(folder / "card.json") as temporary:
        text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


def _owns(part: Any) -> bool:
    """Whether a codec or conditioner has weights."""
    return hasattr(part, "params") and hasattr(part, "init")


def _map_parts(model: Pretrained, change: Callable[[str, Any], Any]) -> Pretrained:
    """The model with its codec and each of its conditioners as `change` makes them, told the
    names of the folders that they lie in.
    """
    parts = conditioners.parts(model.conditioner)
    names = [f"conditioner/{i}" for i in range(len(parts))] if len(parts) > 1 else ["conditioner"]
    changed = [change(name, part) for name, part in zip(names, parts, strict=False)]
    codec = change("codec", model.codec)
    return model.replace(codec=codec, conditioner=conditioners.join(changed))


def _with_files(part: Any, folder: Path, name: str) -> Any:
    """A part with what its files hold, if it has any."""
    return part.read_files(folder / FILES / name) if hasattr(part, "read_files") else part


def _restore(path: Path, part: Any, dtype: DTypeLike, where: Placement | None) -> Any:
    """Weights of a part, each where it belongs, and finite."""
    shapes = param_shapes(replace(part, params=None) if _owns(part) else part)
    like = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding),
        shapes,
        sharding.shardings(where, shapes),
    )
    params = checkpoint.restore(path, like)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    refuse([path for path, leaf in leaves if not finite(leaf)])
    return params


def finite(leaf: jax.Array | np.ndarray) -> bool:
    """Whether every number of an array is, looked at shard by shard."""
    shards = [s.data for s in leaf.addressable_shards] if isinstance(leaf, jax.Array) else [leaf]
    return all(bool(np.isfinite(np.asarray(shard)).all()) for shard in shards)


def refuse(bad: list[tuple]) -> None:
    """Refuses params that are not finite at some paths.

    Raises:
        ValueError: With the names of those, if there are any.
    """
    if bad:
        names = (jax.tree_util.keystr(p, simple=True, separator=".") for p in bad[:3])
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ValueError(f"weights are NaN or infinite in {', '.join(names)}{more}")
