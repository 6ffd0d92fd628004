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
        height, width = check_size(size, self.factor)
        return super().shape(diffused, (height // self.factor, width // self.factor))


def check_size(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """Height and width of pictures, if they have latents.

    Raises:
        ValueError: If the factor does not divide them.
    """
    height, width = size
    if height % factor or width % factor or not min(size) > 0:
        raise ValueError(f"size is {size}: height and width must be multiples of {factor}")
    return height, width
