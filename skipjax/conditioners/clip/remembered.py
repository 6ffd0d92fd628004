"""Prompts that come again while a job is drawn are encoded once."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.conditioners.clip.clip_text import ClipText, null_by
from skipjax.conditioners.clip.encoding import LARGEST
from skipjax.conditioners.conditioner import Condition, Conditioner, Words
from skipjax.conditioners.joint import Joint

BYTES = 2**28  # of what is remembered by default: a thousand prompts of Stable Diffusion 1


class Memo:
    """What was said of prompts, the least recently used forgotten first.

    The arrays stay where they were computed: to bring them to the host would be to wait for all
    that the device was given before them.

    Args:
        limit: Bytes.
    """

    def __init__(self, limit: int = BYTES):
        self._limit, self._bytes = limit, 0
        self._kept: OrderedDict[Any, Condition] = OrderedDict()

    def __contains__(self, key: Any) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """Of all that is kept."""
        return self._bytes

    def get(self, key: Any) -> Condition:
        """What is kept, and is now the most recently used."""
        self._kept.move_to_end(key)
        return self._kept[key]

    def keep(self, key: Any, said: Condition) -> None:
        """Keeps something, and forgets what there is no room for beside it."""
        self._kept[key] = said
        self._bytes += _bytes(said)
        while self._bytes > self._limit and len(self._kept) > 1:
            self._bytes -= _bytes(self._kept.popitem(last=False)[1])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Remembered:
    """A `ClipText` that remembers what it said.

    The encoders are always given `LARGEST` chunks at a time, so that what is said of a prompt does
    not depend, to the last bit, on the others that are asked for with it.

    Attributes:
        conditioner: What encodes.
        memo: What was said; static, and no other's.
    """

    conditioner: ClipText
    memo: Memo = field(default_factory=Memo, metadata={"static": True})

    @property
    def takes(self) -> tuple[str, ...]:
        return self.conditioner.takes

    @property
    def gives(self) -> tuple[str, ...]:
        return self.conditioner.gives

    def encode(self, words: Words, key: jax.Array, ids: np.ndarray) -> Condition:
        """As `ClipText.encode`."""
        return self.of_prompts(*self.conditioner.asked(words, len(ids)))

    def null(self, condition: Condition, negative: Any = None) -> Condition | None:
        """As `ClipText.null`."""
        return null_by(self.conditioner, self.of_prompts, condition, negative)

    def of_prompts(
        self, prompts: Sequence[str], chunks: int = 1, clip_skip: int | None = None
    ) -> Condition:
        """As `ClipText.of_prompts`."""
        keys = [(prompt, chunks, clip_skip or 0) for prompt in prompts]
        said = {key: self.memo.get(key) for key in keys if key in self.memo}
        missing = [key for key in dict.fromkeys(keys) if key not in said]
        for i in range(0, len(missing), LARGEST):
            some = missing[i : i + LARGEST]
            found = self.conditioner.of_prompts([key[0] for key in some], *some[0][1:], full=True)
            for j, key in enumerate(some):
                said[key] = {name: array[j] for name, array in found.items()}
                self.memo.keep(key, said[key])
        return {name: jnp.stack([said[key][name] for key in keys]) for name in self.gives}


def remember(conditioner: Conditioner, limit: int = BYTES) -> Conditioner:
    """The same conditioner, whose text encoders remember what they said.

    Args:
        conditioner: Any; those that have no text encoders are returned as they are.
        limit: Bytes that may be kept.
    """
    if isinstance(conditioner, ClipText):
        return Remembered(conditioner, Memo(limit))
    if isinstance(conditioner, Joint):
        return Joint(tuple(remember(part, limit) for part in conditioner.parts))
    return conditioner


def _bytes(said: Condition) -> int:
    return sum(array.nbytes for array in said.values())
