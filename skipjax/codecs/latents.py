"""Networks of latents whose autoencoder is not at hand."""

from dataclasses import dataclass

import jax

from skipjax.codecs.identity import Identity


@jax.tree_util.register_static
@dataclass(frozen=True)
class Latents(Identity):
    """What is diffused are latents, given out as they are: no pictures, and not within [-1, 1].

    Args:
        factor: Pixels of a picture along a side of a latent.
    """

    factor: int = 8

    def shape(self, diffused: tuple[int, ...], size: tuple[int, int]) -> tuple[int, ...]:
        """The latents of pictures of `size`, which the factor must divide."""
        if any(side % self.factor for side in size):
            raise ValueError(
                f"size is {size}: height and width must be multiples of {self.factor}"
            )
        return super().shape(diffused, (size[0] // self.factor, size[1] // self.factor))
