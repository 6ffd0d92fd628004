"""What a conditioner is."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np

# {"label": int [B], "text": [B, L, D], ...}; None for an unconditional network.
Condition = dict[str, Any]
Words = Mapping[str, Any]  # what is asked for: {"label": "cat", "prompt": "a fox"}


class Conditioner(Protocol):
    """A pytree that owns its params, between what is asked for and what the network is told.

    Attributes:
        takes: Names of the words that it understands, "label" or "prompt".
        gives: Keys of the condition.
    """

    @property
    def takes(self) -> tuple[str, ...]: ...

    @property
    def gives(self) -> tuple[str, ...]: ...

    def encode(self, words: Words, key: jax.Array, ids: np.ndarray) -> Condition:
        """The condition of samples `ids`, leaves [len(ids), ...].

        Args:
            words: What was asked for; each for all samples, or one for each.
            key: Key of the run; what is not given is drawn with it and a sample's id.
            ids: Ids of the samples, whole numbers [n].

        Raises:
            ValueError: For words that say nothing that is known, are not as many as the samples,
                or are missing where they are needed.
        """
        ...

    def null(self, condition: Condition, negative: Any = None) -> Condition | None:
        """The condition of the same structure that stands for none, for guidance without a
        classifier; None where the network knows no such thing.

        Args:
            condition: What `encode` gave.
            negative: What to keep away from, where the words have an opposite.
        """
        ...
