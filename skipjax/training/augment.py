"""Pictures as they are seen while training."""

import jax
import jax.numpy as jnp


def look(
    key: jax.Array,
    images: jax.Array,
    shift: int = 0,
    flip: bool = False,
    unmirrored: jax.Array | None = None,
) -> jax.Array:
    """Mirrors each picture with probability 1/2, and moves it by up to `shift` pixels on white.

    Args:
        key: Randomness of the whole batch.
        images: [B, H, W, C] in [-1, 1].
        shift: Largest shift along either axis, in pixels.
        flip: Whether pictures are mirrored at all.
        unmirrored: Which pictures never are, bool [B]; None where all may be.
    """
    if not (flip or shift):
        return images
    batch, h, w, c = images.shape
    mirror, move = jax.random.split(key)
    if flip:
        flipped = jax.random.bernoulli(mirror, shape=(batch, 1, 1, 1))
        if unmirrored is not None:
            flipped &= ~unmirrored[:, None, None, None]
        images = jnp.where(flipped, images[:, :, ::-1], images)
    if not shift:
        return images
    rim = ((0, 0), (shift, shift), (shift, shift), (0, 0))
    images = jnp.pad(images, rim, constant_values=1.0)
    corner = jax.random.randint(move, (batch, 2), 0, 2 * shift + 1)

    def crop(image, corner):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (h, w, c))

    return jax.vmap(crop)(images, corner)
