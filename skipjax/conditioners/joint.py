"""Several conditioners side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np

from skipjax.conditioners.conditioner import Condition, Conditioner, Words

Kind = TypeVar("Kind")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Joint:
    """What all of its parts say, together.

    Args:
        parts: Conditioners that give different keys.
    """

    parts: tuple[Conditioner, ...]

    @property
    def takes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.parts for name in part.takes))

    @property
    def gives(self) -> tuple[str, ...]:
        return tuple(key for part in self.parts for key in part.gives)

    def encode(self, words: Words, key: jax.Array, ids: np.ndarray) -> Condition:
        """The conditions of all parts in one, leaves [len(ids), ...]."""
        found: Condition = {}
        for each in self.parts:
            found |= each.encode(words, key, ids)
        return found

    def null(self, condition: Condition, negative: Any = None) -> Condition | None:
        """The condition with what its parts say instead of nothing; None if no part knows any.

        A negative is told to those of them that take prompts, where any does.
        """
        words = any("prompt" in each.takes for each in self.parts)
        found: Condition = {}
        for each in self.parts:
            told = negative if not words or "prompt" in each.takes else None
            null = each.null(condition, told) or {}
            found |= {key: null[key] for key in each.gives if key in null}
        return condition | found if found else None


def part(conditioner: Conditioner | None, kind: type[Kind]) -> Kind | None:
    """The part of a conditioner that is of a kind, if there is one."""
    return next((each for each in parts(conditioner) if isinstance(each, kind)), None)


def parts(conditioner: Conditioner | None) -> tuple[Conditioner, ...]:
    """Those that a conditioner is made of: itself alone, where it is of one; none of None."""
    if isinstance(conditioner, Joint):
        return conditioner.parts
    return () if conditioner is None else (conditioner,)


def join(several: Sequence[Conditioner]) -> Conditioner | None:
    """The conditioner that is made of some; None of none."""
    if len(several) < 2:
        return several[0] if several else None
    return Joint(tuple(several))
