"""Pictures as people see them: 8 bits, side by side."""

import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

Samples = TypeVar("Samples", jax.Array, np.ndarray)

GAP = 2  # pixels of white between the pictures of a grid
VISIBLE = 96  # side in pixels that a grid enlarges small pictures to


def to_uint8(images: jax.Array | np.ndarray) -> np.ndarray:
    """clamp((x + 1) 127.5, 0, 255), truncated, as ADM does it.

    Args:
        images: Float, [..., C], in [-1, 1].

    Returns:
        uint8 of the same shape, on the host.

    Raises:
        ValueError: If a number is NaN or infinite, or the pictures are not float.
    """
    images = np.asarray(images)
    if images.dtype.kind not in "fV":  # bfloat16 is of kind V
        raise ValueError(f"images are {images.dtype}: to_uint8 takes floats in [-1, 1]")
    images = images.astype(np.float32)
    if not np.isfinite(images).all():
        raise ValueError("images hold NaN or infinite numbers: there is no picture to show")
    return np.clip((images + 1) * 127.5, 0, 255).astype(np.uint8)


def finite(samples: Samples, ids: np.ndarray) -> Samples:
    """The samples, if every one of them is finite.

    Args:
        samples: [n, ...].
        ids: Theirs, [n].

    Raises:
        FloatingPointError: With the ids of those that are not.
    """
    array = np.asarray(samples)
    bad = ids[~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))]
    if len(bad):
        raise FloatingPointError(
            f"samples {', '.join(map(str, bad[:8]))}{' ...' if len(bad) > 8 else ''} are NaN or "
            "infinite: check the weights, or compute in float32 (float16 is too narrow for some "
            "autoencoders)"
        )
    return samples


def shape_of(model: Any, diffused: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of one sample of a model, of what is diffused of it; nothing is computed."""
    like = jax.ShapeDtypeStruct((1, *diffused), jnp.float32)
    return jax.eval_shape(model.codec.decode, like).shape[1:]


def check_png(shape: tuple[int, ...], instead: str = "keep them as .npz") -> None:
    """Finds out whether samples of a shape can be PNGs.

    Args:
        shape: Of one sample.
        instead: What to do where they cannot.

    Raises:
        ValueError: If they are not [H, W, C] with C 1 or 3.
    """
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise ValueError(f"samples are {shape}, and a PNG holds [H, W, 1] or [H, W, 3]: {instead}")


def grid(
    images: jax.Array | np.ndarray, columns: int | None = None, *, scale: int | None = None
) -> Image.Image:
    """Pictures side by side on white; a notebook shows the result by itself.

    Args:
        images: [N, H, W, C] with C 1 or 3, float in [-1, 1] or uint8.
        columns: Pictures per row. Default: as many as rows.
        scale: How many times to enlarge each pixel. Default: to a side of about 96.

    Raises:
        ValueError: If the shape is another, there are no pictures, or a number is not finite.
    """
    if np.ndim(images) != 4 or np.shape(images)[-1] not in (1, 3) or not len(images):
        raise ValueError(
            f"images are {np.shape(images)}: grid takes [N, H, W, C], C 1 or 3, N > 0"
        )
    pixels = np.asarray(images)
    pixels = pixels if pixels.dtype == np.uint8 else to_uint8(pixels)
    num, h, w, c = pixels.shape
    columns = columns or math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    scale = scale or max(1, VISIBLE // max(h, w))
    pixels = np.repeat(np.repeat(pixels, scale, axis=1), scale, axis=2)
    h, w = h * scale, w * scale
    sheet = np.full((rows * (h + GAP) + GAP, columns * (w + GAP) + GAP, c), 255, np.uint8)
    for i, picture in enumerate(pixels):
        top, left = GAP + i // columns * (h + GAP), GAP + i % columns * (w + GAP)
        sheet[top : top + h, left : left + w] = picture
    return Image.fromarray(sheet if c == 3 else sheet[..., 0])
