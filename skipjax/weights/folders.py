"""A checkpoint's folder: `card.json`, and the weights as an orbax checkpoint in `params/`.

The card's `files` has the sha256 of every file of the weights.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from skipjax import placement
from skipjax.files import pending
from skipjax.models import param_shapes
from skipjax.placement import Placement
from skipjax.pretrained import Classifier, ClassifierSpec, Pretrained, Spec
from skipjax.weights import cards, checkpoint, checksums
from skipjax.weights.cards import Card


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
    spec = cards.spec(card)
    checksums.verify(folder, card.get("files", {}))
    shapes = param_shapes(architecture(spec))
    like = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding),
        shapes,
        placement.shardings(where, shapes),
    )
    params = checkpoint.restore(folder / "params", like)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    refuse([path for path, leaf in leaves if not finite(leaf)])
    return known(params, spec)


def save(folder: Path, params: Any, card: Card, dtype: DTypeLike) -> None:
    """Writes a checkpoint: weights in `dtype`, then the card with the checksums of their files.

    Without its card a folder is no checkpoint, so that a half-written one is never taken for one.

    Raises:
        ValueError: If there are weights in the folder already, or no room for them.
    """
    stored = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    checkpoint.save(folder / "params", stored)
    card = card | {"files": checksums.listing(folder)}
    with pending(folder / "card.json") as temporary:
        text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


def architecture(spec: Spec | ClassifierSpec) -> Any:
    """The config of the network that a spec is about."""
    return spec.classifier if isinstance(spec, ClassifierSpec) else spec.unet


def known(params: Any, spec: Spec | ClassifierSpec) -> Pretrained | Classifier:
    """Params together with what they are."""
    if isinstance(spec, ClassifierSpec):
        return Classifier(params, spec)
    return Pretrained(params, spec)


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
