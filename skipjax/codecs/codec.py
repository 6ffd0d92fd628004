"""What a codec is."""

from typing import Protocol

import jax


class Codec(Protocol):
    """A pytree that owns its params, between samples and what is diffused.

    Decoding is a program of its own: its memory is not that of the sampling loop.
    """

    def shape(self, diffused: tuple[int, ...], size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of what is diffused of one sample of `size`, (height, width) in pixels.

        Args:
            diffused: Shape that the network was made for.
            size: Wanted.
        """
        ...

    def encode(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """What is diffused, [B, ...], of samples x, [B, ...] in [-1, 1].

        Args:
            x: Samples.
            key: Of what is random in it, where anything is.
        """
        ...

    def decode(self, z: jax.Array) -> jax.Array:
        """Samples, [B, ...] in [-1, 1], of what is diffused, z [B, ...]."""
        ...
