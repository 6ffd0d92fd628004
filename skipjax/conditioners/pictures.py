"""Pictures that the network sees beside what it denoises."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.conditioners.conditioner import Condition, Words


@jax.tree_util.register_static
@dataclass(frozen=True)
class Pictures:
    """{name: float [B, *shape]} in [-1, 1].

    Args:
        name: "low_res" for pictures to enlarge, "concat" for whatever is laid beside x.
        shape: Of one, (height, width, channels); None where any size will do.

    Raises:
        ValueError: If the shape has not three sizes.
    """

    name: str
    shape: tuple[int | None, int | None, int]

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))
        if len(self.shape) != 3:
            raise ValueError(f"shape is {self.shape}: it must be (height, width, channels)")

    @property
    def takes(self) -> tuple[str, ...]:
        return (self.name,)

    gives = takes

    def encode(self, words: Words, key: jax.Array, ids: np.ndarray) -> Condition:
        """The pictures `words[name]`, one for each sample: float in [-1, 1], or uint8.

        Raises:
            ValueError: If they are missing, of another shape, number, dtype or range.
        """
        pictures = words.get(self.name)
        sizes = (str(n or axis) for n, axis in zip(self.shape, "hwc", strict=True))
        accepted = f"[num, {', '.join(sizes)}]"
        if pictures is None:
            what = "enlarges pictures" if self.name == "low_res" else "sees more beside x"
            raise ValueError(f"the network {what}: give them as {self.name}, {accepted}")
        if not isinstance(pictures, (np.ndarray, jax.Array)):
            pictures = np.asarray(pictures)
        shape = pictures.shape
        fits = len(shape) == 1 + len(self.shape) and all(
            n in (None, have) for n, have in zip(self.shape, shape[1:], strict=True)
        )
        if not fits or not shape[0]:
            raise ValueError(f"{self.name} is {shape}: the network takes {accepted}")
        if shape[0] != len(ids):
            raise ValueError(
                f"{self.name} has {shape[0]} pictures, and {len(ids)} are to be drawn: give one "
                "for each"
            )
        return {self.name: to_float(self.name, pictures)}

    def null(self, condition: Condition, negative: Any = None) -> None:
        """None: guidance leaves the pictures as they are."""
        return None


def to_float(name: str, pictures: Any) -> Any:
    """Pictures in [-1, 1], of float in that range, or of uint8.

    Raises:
        ValueError: If they are neither.
    """
    if pictures.dtype == np.uint8:
        return np.asarray(pictures, np.float32) / 127.5 - 1
    if not jnp.issubdtype(pictures.dtype, jnp.floating):
        raise ValueError(f"{name} is {pictures.dtype}: it must be float in [-1, 1], or uint8")
    if not np.abs(np.asarray(pictures, np.float32)).max() <= 2:
        raise ValueError(f"{name} must be in [-1, 1]: divide 0 .. 255 by 127.5 and take 1 away")
    return pictures
