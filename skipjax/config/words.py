"""Words that are asked for beside the options of sampling: which a model understands, and for how
many samples they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

import numpy as np

from skipjax.conditioners import Conditioner, parts
from skipjax.config.sample_config import SampleConfig, SizeLike
from skipjax.pretrained import Pretrained

NEGATIVE = "negative"
OPTIONS = tuple(field.name for field in fields(SampleConfig))
# What other libraries call an option.
THEIRS = {
    "num_inference_steps": "steps, with the name of a plan",
    "num_steps": "steps, with the name of a plan",
    "guidance_scale": "guidance",
    "cfg_scale": "guidance",
    "generator": "key",
    "seed": "key",
    "batch_size": "num",
    "num_images_per_prompt": "num",
    "class_labels": "label",
    "labels": "label",
    "negative_prompt": "negative",
    "scheduler": "plan",
    "sampler": "plan",
    "height": "size",
    "width": "size",
    "output_type": "latents=True",
    "crops_coords_top_left": "crop",
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What networks such as Stable Diffusion XL are told of a picture, as options of commands."""

    original_size: SizeLike = None
    """Of the picture before it was cut and scaled, as XL is told, HxW. Default: size."""
    crop: SizeLike = None
    """Where it was cut, as XL is told, TOPxLEFT. Default: 0x0."""
    target_size: SizeLike = None
    """What it was scaled to, as XL is told, HxW. Default: size."""
    aesthetic_score: float | None = None
    """How good it is, as XL's refiner is told. Default: 6."""

    @property
    def words(self) -> dict[str, Any]:
        """Those that are given, by name."""
        every = {field.name: getattr(self, field.name) for field in fields(Picture)}
        return {name: value for name, value in every.items() if value is not None}


def number_of(conditioner: Conditioner | None, words: Mapping[str, Any]) -> int | None:
    """How many samples words are for; None where each of them is for any number."""
    for word, value in words.items():
        one = _rank(conditioner, word)
        several = isinstance(value, (list, tuple)) if not one else np.ndim(value) > one
        if several or np.ndim(value) > one:
            return len(value)
    return None


def in_turn(given: Sequence[Any], ids: np.ndarray, times: int = 1) -> list[Any]:
    """What samples take in turn, each so many times in a row."""
    return [given[i // times % len(given)] for i in ids.tolist()]


def check(
    model: Pretrained, takes: tuple[str, ...], words: Mapping[str, Any], told_scale: bool
) -> None:
    """Refuses words that a model does not understand.

    Args:
        model: What is drawn from.
        takes: Names of the words that it understands as it is asked for.
        words: By name; None: not given.
        told_scale: Whether its network is told the scale of guidance.

    Raises:
        ValueError: For a label, prompt, negative or low_res where there is no place for one.
        TypeError: For any other, with the nearest that there is.
    """
    for word, value in words.items():
        if value is None or word in takes:
            continue
        refused = _refused(model.name, takes, word, value, told_scale)
        if refused is not None:
            raise ValueError(refused)
        near = [THEIRS[word]] if word in THEIRS else []
        near = near or get_close_matches(word, (*takes, *OPTIONS), 1)
        meant = f": did you mean {near[0]}?" if near else ""
        known = ", ".join(takes) or "no words"
        raise TypeError(f"{word} is given, and {model.name} takes {known}{meant}")


def _refused(
    name: str, takes: tuple[str, ...], word: str, value: Any, told_scale: bool
) -> str | None:
    """What is said of a word that people know and this model does not; None for others."""
    if word == "label":
        if "prompt" in takes:
            return f"label is given, and {name} draws what it is told in words: say it as prompt"
        return f"{name} is unconditional: it takes no label, got {value!r}"
    if word == "prompt":
        if "label" in takes:
            return f"prompt is given, and {name} knows no words but classes: give label instead"
        if "text" in takes:
            return (
                f"prompt is given, and {name} has no text encoder: load the folder of its whole "
                "pipeline, or give what one says as text"
            )
        return f"prompt is given, and {name} knows no words: drop it"
    if word == NEGATIVE:
        if told_scale:
            return (
                f"negative is given, and {name} is told the scale of guidance in one call, which "
                "has no place for what is not wanted: drop it"
            )
        return "negative is given without guidance: say its scale too, above 1"
    if word == "low_res":
        return f"low_res is given, and {name} does not enlarge pictures"
    if word in {field.name for field in fields(Picture)}:
        return f"{word} is given, and {name} is told nothing of a picture's size: drop it"
    return None


def _rank(conditioner: Conditioner | None, word: str) -> int:
    """How many axes the word of one sample has: none of a prompt, one of a size (h, w), those of
    an array that is given as it is."""
    if word in ("original_size", "crop", "target_size"):
        return 1
    taking = (part for part in parts(conditioner) if word in part.takes)
    return len(getattr(next(taking, None), "shape", ()))
