"""What each sample of a job is told: its class, its prompt, and what all of them are."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from skipjax.conditioners import Labels
from skipjax.config import prompts as prompt_files
from skipjax.config.prompts import Prompts
from skipjax.config.words import in_turn

UNIFORM, BALANCED = "uniform", "balanced"


class Told(NamedTuple):
    """What the samples are told, by id.

    Attributes:
        labels: The classes that are known; None where there are none.
        numbers: Labels, taken in turn; None where they are drawn, or there are none.
        prompts: Taken in turn; None where there are none.
        per_prompt: Samples in a row that share one.
        common: Words that are the same for all.
    """

    labels: Labels | None
    numbers: np.ndarray | None
    prompts: Prompts | None
    per_prompt: int
    common: dict[str, Any]

    def labels_of(self, key: jax.Array, ids: np.ndarray) -> np.ndarray | None:
        """Labels of some samples, int32 [len(ids)]; None where there are none."""
        if self.numbers is not None:
            return self.numbers[ids % len(self.numbers)]
        if self.labels is None:
            return None
        return np.asarray(self.labels.encode({}, key, ids)["label"])

    def captions_of(self, ids: np.ndarray) -> np.ndarray | None:
        """Prompts of some samples, texts [len(ids)]; None where there are none."""
        if self.prompts is None:
            return None
        return np.array(in_turn(self.prompts.prompts, ids, self.per_prompt), str)

    def words(self, key: jax.Array, ids: np.ndarray) -> dict[str, Any]:
        """What some samples are told, by name."""
        words = dict(self.common)
        if (numbers := self.labels_of(key, ids)) is not None:
            words["label"] = numbers
        if self.prompts is not None:
            words["prompt"] = in_turn(self.prompts.prompts, ids, self.per_prompt)
            if self.prompts.negatives is not None:
                words["negative"] = in_turn(self.prompts.negatives, ids, self.per_prompt)
        return words

    @property
    def identity(self) -> dict[str, Any]:
        """What fixes the prompts, as JSON has it: themselves while they are one, else a hash."""
        if self.prompts is None:
            return {"prompts": []}
        texts, negatives = self.prompts
        if len(texts) == 1 and negatives is None:
            known: Any = list(texts)
        elif negatives is None:
            known = digest("\n".join(texts).encode())
        else:
            known = digest(json.dumps([texts, negatives]).encode())
        per = {} if self.per_prompt == 1 else {"per_prompt": self.per_prompt}
        return {"prompts": known} | per


def read_prompts(prompt: str | None, prompts: str | None) -> Prompts | None:
    """Those that a job names: one, or a file of them.

    Raises:
        ValueError: If both are given, or a file holds none.
    """
    if prompts is None:
        return None if prompt is None else prompt_files.of_command([prompt])
    if prompt is not None:
        raise ValueError("prompt and prompts are given: drop one")
    if not prompt_files.is_file(prompts):
        known = ", ".join(prompt_files.FILES)
        raise ValueError(f"prompts is {prompts!r}: it must be a file whose name ends in {known}")
    return prompt_files.read(prompts)


def numbers(given: Sequence[str], num: int, labels: Labels | None, name: str) -> Any:
    """The labels that samples take in turn, int32; None where they are drawn.

    Args:
        given: "uniform", "balanced", classes, or a .txt with one for each sample.
        num: How many samples there are.
        labels: The classes that are known.
        name: Of the model, for errors.

    Raises:
        ValueError: For a class that is not there, or another number of lines.
    """
    if tuple(given) == (UNIFORM,):
        return None
    if labels is None:
        raise ValueError(f"{name} is unconditional: it takes no labels, got {given}")
    if tuple(given) == (BALANCED,):
        return labels.of_class(np.arange(labels.classes, dtype=np.int32))
    file = given[0] if len(given) == 1 and given[0].endswith(".txt") else None
    if file is not None:
        given = _lines(Path(file))
        if len(given) != num:
            raise ValueError(f"labels: {file} has {len(given)} lines for {num} samples")
    number = {label: labels.number(label) for label in dict.fromkeys(given)}
    return np.array([number[label] for label in given], np.int32)


def describe_numbers(given: Sequence[str], found: np.ndarray | None) -> Any:
    """How labels are recorded: the numbers themselves while they are few."""
    if found is None or tuple(given) == (BALANCED,):
        return given[0]
    if len(found) <= 1000:
        return found.tolist()
    return {"file": given[0], "sha256": digest(found.tobytes())}


def digest(content: bytes) -> str:
    """Its sha256."""
    return hashlib.sha256(content).hexdigest()


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = tuple(path.read_text(encoding="utf-8").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"labels: {path} cannot be read ({error})") from None
    return lines[:-1] if lines and not lines[-1] else lines
