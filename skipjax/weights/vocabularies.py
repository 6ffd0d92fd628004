"""The vocabulary that a checkpoint lacks: CLIP's, which all of Stable Diffusion have."""

import warnings
from dataclasses import replace
from pathlib import Path

from skipjax import conditioners
from skipjax.conditioners import ClipText, Tokenizer
from skipjax.pretrained import Pretrained
from skipjax.weights.diffusers import files, hub

KNOWN = "openai/clip-vit-large-patch14"  # looked for in the hub's cache
PAD = "!"  # of OpenCLIP's encoders, whose padding has the number 0
OPENAI = "quick_gelu"  # the activation of OpenAI's, whose padding is the end


def complete(path: Path, model: Pretrained, given: str | Path | None = None) -> Pretrained:
    """A model whose text encoders have tokenizers, where a vocabulary is to be had; that there is
    none is said.

    Args:
        path: The checkpoint, for errors.
        model: Any.
        given: Folder with a vocabulary, of a tokenizer or of a pipeline; or a name of the hub,
            of which the cache has one. Default: the model's own, else what the cache has of
            `KNOWN`.

    Raises:
        ValueError: If what is given holds none, or the model takes no prompts.
    """
    parts = conditioners.parts(model.conditioner)
    text = next((part for part in parts if isinstance(part, ClipText)), None)
    if text is None:
        if given is not None:
            raise ValueError(f"{path}: tokenizer is given, and there is no text encoder: drop it")
        return model
    if text.tokenizers and given is None:
        return model
    one = _find(given)
    if one is None:
        warnings.warn(
            f"{path} holds no vocabulary, and the hub's cache none of {KNOWN}: prompts need "
            "load(..., tokenizer=FOLDER), that of a tokenizer or of a pipeline",
            stacklevel=4,
        )
        return model
    pads = (one.end if net.hidden_act == OPENAI else PAD for net in text.networks)
    complete = replace(text, tokenizers=tuple(replace(one, pad=pad) for pad in pads))
    return model.replace(
        conditioner=conditioners.join([complete if part is text else part for part in parts])
    )


def _find(given: str | Path | None) -> Tokenizer | None:
    if given is None:
        folder = hub.cached(KNOWN)
    elif Path(given).exists() or not hub.is_name(str(given)):
        folder = Path(given)
    else:
        folder = hub.cached(str(given))
    names = set() if folder is None else files.listing(folder)
    places = ("", *(f"{name}/" for name in files.TOKENIZERS))
    place = next((place for place in places if files.vocabulary(names, place)), None)
    if folder is not None and place is not None:
        return Tokenizer.read(folder / place)
    if given is None:
        return None
    raise ValueError(
        f"tokenizer is {str(given)!r}, which holds no vocabulary: it must be a folder with "
        "vocab.json and merges.txt, or tokenizer.json; or a pipeline's"
    )
