"""The scale of guidance as something that the network is told, and computes in one call."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from skipjax.conditioners.conditioner import Condition, Words


@jax.tree_util.register_static
@dataclass(frozen=True)
class EmbeddedGuidance:
    """{"guidance": float32 [B]}, the scales s of guidance without a classifier that a network was
    trained to imitate: 1 is none (LCM; Luo et al. 2023, arXiv:2310.04378, section 4.2).

    Args:
        default: Where none is asked for. Default: that of diffusers' pipeline.

    Raises:
        ValueError: If the default is not a finite number.
    """

    default: float = 8.5

    takes = ("guidance",)
    gives = ("guidance",)

    def __post_init__(self):
        if not np.isfinite(self.default):
            raise ValueError(f"default is {self.default}: it must be a finite number")

    def encode(self, words: Words, key: jax.Array, ids: np.ndarray) -> Condition:
        """The scales `words["guidance"]`, one for all or one for each; by default `default`.

        Raises:
            ValueError: If they are no finite numbers, or not as many as the samples.
        """
        said: Any = words.get("guidance")
        said = self.default if said is None else said
        shown = repr(said) if isinstance(said, (str, bool, int, float, Sequence)) else "an array"
        accepted = "it must be a finite number, one for all samples or one for each"
        try:
            scale = np.asarray(said, np.float32)
        except (TypeError, ValueError):
            raise ValueError(f"guidance is {shown}: {accepted}") from None
        if scale.shape not in ((), (len(ids),)):
            raise ValueError(f"guidance is {list(scale.shape)} for {len(ids)} samples: {accepted}")
        if isinstance(said, (str, bool)) or not np.isfinite(scale).all():
            raise ValueError(f"guidance is {shown}: {accepted}")
        return {"guidance": np.broadcast_to(scale, len(ids)).copy()}

    def null(self, condition: Condition, negative: Any = None) -> None:
        """None: guidance by two calls leaves the scale that each is told as it is."""
        return None
