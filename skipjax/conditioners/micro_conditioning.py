"""What Stable Diffusion XL is told of a picture's size and frame (Podell et al. 2023,
arXiv:2307.01952, section 2.2).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.conditioners.conditioner import Condition, Words

AESTHETIC, NOT_AESTHETIC = 6.0, 2.5  # scores of what is wanted, and of what is not


@jax.tree_util.register_static
@dataclass(frozen=True)
class MicroConditioning:
    """{"time_ids": float32 [B, 6]}: height and width that the picture had, where it was cropped
    (top, left), and height and width that it is to have.

    The refiner's are 5: the last two are the aesthetic score instead.

    Args:
        size: Height and width of a picture in pixels, which stand for both where nothing is said.
        aesthetic: Whether they are the refiner's.

    Raises:
        ValueError: If the size is not (height, width).
    """

    size: tuple[int, int]
    aesthetic: bool = False

    gives = ("time_ids",)

    def __post_init__(self):
        object.__setattr__(self, "size", tuple(self.size))
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size is {self.size}: it must be (height, width), in pixels")

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the words that it understands."""
        return ("original_size", "crop", "aesthetic_score" if self.aesthetic else "target_size")

    def encode(self, words: Words, key: jax.Array, ids: np.ndarray) -> Condition:
        """Of samples `ids`; each word for all of them, or one for each.

        Args:
            words: `original_size` (height, width), default: `size`; `crop` (top, left), default:
                (0, 0); `target_size` (height, width), default: `size`; of the refiner
                `aesthetic_score`, default: 6.
            key: Not needed.
            ids: Ids of the samples.

        Raises:
            ValueError: For what is no such pair or number, or not as many as the samples.
        """
        num = len(ids)
        columns = [
            _column("original_size", words, self.size, num),
            _column("crop", words, (0, 0), num),
        ]
        if self.aesthetic:
            columns.append(_column("aesthetic_score", words, AESTHETIC, num))
        else:
            columns.append(_column("target_size", words, self.size, num))
        return {"time_ids": np.concatenate(columns, axis=1)}

    def null(self, condition: Condition, negative: Any = None) -> Condition | None:
        """The same with the score of what is not wanted, 2.5, for the refiner; else None: guidance
        leaves sizes as they are.
        """
        if not self.aesthetic or "time_ids" not in condition:
            return None
        time_ids = jnp.asarray(condition["time_ids"])
        return condition | {"time_ids": time_ids.at[:, -1].set(NOT_AESTHETIC)}


def _column(name: str, words: Words, default: Any, num: int) -> np.ndarray:
    """float32 [num, n] of a word."""
    given, n = words.get(name), np.size(default)
    if given is None:
        given = default
    single = {1: "a number", 2: "two numbers"}[n]
    try:
        array = np.asarray(given, np.float32)
    except (TypeError, ValueError):
        array = np.full((0, 0, 0), np.nan)
    if n == 1 and array.ndim == 1:
        array = array[:, None]
    accepted = ((n,), (num, n)) if n > 1 else ((), (num, 1))
    if array.shape not in accepted or not np.isfinite(array).all():
        many = f", or {num} of them, one for each sample" if num > 1 else ""
        raise ValueError(f"{name} is {given!r}: it must be {single}{many}")
    return np.broadcast_to(array, (num, n)).astype(np.float32)
