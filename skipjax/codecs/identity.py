"""Networks of pixels: samples are diffused as they are."""

from dataclasses import dataclass

import jax


@jax.tree_util.register_static
@dataclass(frozen=True)
class Identity:
    """What is diffused are the samples themselves."""

    def shape(self, diffused: tuple[int, ...], size: tuple[int, int]) -> tuple[int, ...]:
        """`size` in the place of the two axes before the channels."""
        return *diffused[:-3], *size, diffused[-1]

    def encode(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """x as it is, [B, ...]."""
        return x

    def decode(self, z: jax.Array) -> jax.Array:
        """z as it is, [B, ...]."""
        return z
