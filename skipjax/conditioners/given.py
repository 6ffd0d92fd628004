"""Arrays that whoever samples gives as they are."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.conditioners.conditioner import Condition, Words


@jax.tree_util.register_static
@dataclass(frozen=True)
class Given:
    """{key: float32 [B, *shape]}: a prompt that was encoded before, for instance.

    Args:
        key: Of the condition, and name of the word.
        shape: Of one; a size of None is any.

    Raises:
        ValueError: If a size is less than 1.
    """

    key: str
    shape: tuple[int | None, ...]

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))
        if any(size is not None and size < 1 for size in self.shape):
            raise ValueError(f"shape is {self.shape}: sizes must be at least 1, or None for any")

    @property
    def takes(self) -> tuple[str, ...]:
        return (self.key,)

    gives = takes

    def encode(self, words: Words, key: jax.Array, ids: np.ndarray) -> Condition:
        """The arrays `words[self.key]`: one for all samples, or one for each.

        Raises:
            ValueError: If they are missing, of another shape, number or dtype.
        """
        given: Any = words.get(self.key)
        sizes = ["any" if size is None else str(size) for size in self.shape]
        accepted = f"[{', '.join(sizes)}] for all, or [{', '.join(['num', *sizes])}]"
        if given is None:
            raise ValueError(f"the network is told {self.key}: give it as an array, {accepted}")
        given = given if isinstance(given, jax.Array) else np.asarray(given)
        if not jnp.issubdtype(given.dtype, jnp.number) or given.dtype.kind == "c":
            raise ValueError(f"{self.key} is {given.dtype}: it must be of real numbers")
        shape = given.shape[given.ndim - len(self.shape) :]
        fits = given.ndim - len(self.shape) in (0, 1) and all(
            size in (None, have) for size, have in zip(self.shape, shape, strict=True)
        )
        if not fits:
            raise ValueError(f"{self.key} is {list(given.shape)}: it must be {accepted}")
        if given.ndim == len(self.shape):
            given = jnp.broadcast_to(given, (len(ids), *given.shape))
        if len(given) != len(ids):
            raise ValueError(
                f"{self.key} has {len(given)} entries for {len(ids)} samples: give one for all, "
                "or as many"
            )
        return {self.key: jnp.asarray(given, jnp.float32)}

    def null(self, condition: Condition, negative: Any = None) -> None:
        """None: nothing is known that would stand for none."""
        return None
