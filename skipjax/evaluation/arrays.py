"""What may be evaluated: the checks that the functions here make of what they are given."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def pictures(images: ArrayLike, name: str, least: int) -> np.ndarray:
    """The pictures on the host, after they are found fit.

    Args:
        images: [N, ...], of a floating type.
        name: What an error calls them.
        least: The smallest N that will do.

    Returns:
        [N, ...]: float64 where they were that, else float32.

    Raises:
        ValueError: If there are too few, they are whole numbers, or a number is not finite.
    """
    images = np.asarray(images)
    if images.ndim < 2 or 0 in images.shape[1:]:
        raise ValueError(f"{name} has shape {images.shape}: expected pictures, [N, H, W, C]")
    if len(images) < least:
        raise ValueError(f"{name} holds {len(images)} pictures: expected at least {least}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"{name} is {images.dtype}: expected float pictures in [-1, 1]; "
            "those of 8 bits become that by images / 127.5 - 1"
        )
    if images.dtype != np.float64:
        images = images.astype(np.float32)
    for index, image in enumerate(images):
        if not np.isfinite(image).all():
            raise ValueError(f"picture {index} of {name} has a number that is not finite")
    return images
