"""Textual inversion (Gal et al. 2022, arXiv:2208.01618): files of words that were learned."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skipjax import conditioners
from skipjax.conditioners import ClipText
from skipjax.pretrained import Pretrained
from skipjax.weights.components import of
from skipjax.weights.readers import state_dict

# Of files for two encoders, in their order.
PAIRS = (("clip_l", "clip_g"), ("text_encoder", "text_encoder_2"))
FILES = ("learned_embeds.safetensors", "learned_embeds.bin")


def extend(model: Any, embeddings: Mapping[str, str | Path]) -> Any:
    """A model whose prompts may have further words.

    Args:
        model: With a conditioner of prompts.
        embeddings: File of each word, such as {"<cat-toy>": "learned_embeds.safetensors"}.

    Raises:
        ValueError: If the model takes no prompts, a file cannot be read, or is for other text
            encoders.
    """
    if not isinstance(embeddings, Mapping):
        raise ValueError(f"embeddings is {embeddings!r}: it must be {{word: file}}")
    told = conditioners.parts(model.conditioner) if isinstance(model, Pretrained) else ()
    text = next((part for part in told if isinstance(part, ClipText)), None)
    if text is None:
        raise ValueError("embeddings are given, and the checkpoint takes no prompts: drop them")
    words = text
    for token, path in embeddings.items():
        try:
            words = words.with_embedding(token, read(Path(path)))
        except ValueError as error:
            raise of(Path(path), error) from None
    parts = [words if part is text else part for part in told]
    return model.replace(conditioner=conditioners.join(parts))


def read(path: Path) -> list[np.ndarray]:
    """The vectors that stand for a word, float32 [n, D] for each text encoder.

    Args:
        path: A file of diffusers ("<token>": [D]), of A1111 ("string_to_param" or "emb_params"),
            or of two encoders ("clip_l", "clip_g"); or its folder.

    Raises:
        ValueError: If it cannot be read, or holds something else.
    """
    if path.is_dir():
        path = next((path / name for name in FILES if (path / name).is_file()), path)
    if not path.is_file():
        raise ValueError(f"{path} is no file of textual inversion")
    tensors = state_dict.read(path)
    for pair in PAIRS:
        if tensors.keys() >= {*pair}:
            return [_vectors(path, tensors[name]) for name in pair]
    names = [name for name in tensors if np.ndim(tensors[name]) in (1, 2)]
    if len(names) != 1:
        there = ", ".join([*tensors][:4]) or "nothing"
        raise ValueError(f"{path} holds {there}: it must hold the vectors of one word")
    return [_vectors(path, tensors[names[0]])]


def _vectors(path: Path, tensor: Any) -> np.ndarray:
    found = np.atleast_2d(np.asarray(tensor, np.float32))
    if found.ndim != 2 or not np.isfinite(found).all():
        raise ValueError(f"{path} holds vectors {found.shape}: they must be [n, D], and finite")
    return found
