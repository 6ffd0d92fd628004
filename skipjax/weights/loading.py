"""Any checkpoint by what people call it: a bundled name, a folder, a file."""

from pathlib import Path

import jax.numpy as jnp
from jax.typing import DTypeLike

from skipjax.pretrained import Classifier, Pretrained
from skipjax.sharding import Placement
from skipjax.weights import cards, folders, released
from skipjax.weights.released import Described

SHORT = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


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
    try:
        kept = jnp.dtype(SHORT.get(dtype, dtype) if isinstance(dtype, str) else dtype)
    except TypeError:
        raise ValueError(f"dtype is {dtype!r}: it must be float32, bfloat16 or float16") from None
    if kept not in (jnp.float32, jnp.bfloat16, jnp.float16):
        raise ValueError(f"dtype is {kept}: it must be float32, bfloat16 or float16")
    if path.is_file():
        return released.load(path, card, config, kept, sharding, key)
    if card is not None or config is not None or key is not None:
        raise ValueError(
            f"{path} is not a file: card, config and key say what a .pt or .safetensors holds"
        )
    return folders.load(cards.find(checkpoint), kept, sharding)
