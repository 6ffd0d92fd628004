"""Pictures as they are seen while training."""

import jax
import jax.numpy as jnp


def shift_and_flip(key: jax.Array, images: jax.Array, pixels: int) -> jax.Array:
    """Mirrors each picture with probability 1/2 and moves it by up to `pixels` on white.

    Args:
        key: Randomness of the whole batch.
        images: [B, H, W, C] in [-1, 1], on white.
        pixels: Largest shift along either axis.
    """
    batch, h, w, c = images.shape
    flip, shift = jax.random.split(key)
    flipped = jax.random.bernoulli(flip, shape=(batch, 1, 1, 1))
    images = jnp.where(flipped, images[:, :, ::-1], images)
    rim = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
    images = jnp.pad(images, rim, constant_values=1.0)
    corner = jax.random.randint(shift, (batch, 2), 0, 2 * pixels + 1)

    def crop(image, corner):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (h, w, c))

    return jax.vmap(crop)(images, corner)
