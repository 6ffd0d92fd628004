"""Any checkpoint by what people call it: a bundled name, a folder, a file."""

from pathlib import Path

import jax.numpy as jnp
from jax.typing import DTypeLike

from skipjax.checks import as_dtype
from skipjax.pretrained import Classifier, Pretrained
from skipjax.sharding import Placement
from skipjax.weights import cards, folders, released
from skipjax.weights.released import Described


def load(
    checkpoint: str | Path,
    *,
    card: str | None = None,
    config: Described | None = None,
    key: str | None = None,
    dtype: DTypeLike = jnp.float32,
    sharding: Placement | None = None,
) -> Pretrained | Classifier:
    """`skipjax.load`, which says what the arguments are."""
    path = Path(checkpoint)
    kept = as_dtype(dtype, ("float32", "bfloat16", "float16"))
    if path.is_file():
        return released.load(path, card, config, kept, sharding, key)
    if card is not None or config is not None or key is not None:
        raise ValueError(
            f"{path} is not a file: card, config and key say what a .pt or .safetensors holds"
        )
    return folders.load(cards.find(checkpoint), kept, sharding)
