"""Attention over the pixels of a picture, by whichever kernel the device has for it."""

from typing import Literal

import jax
import jax.numpy as jnp


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(D)) v for each head, with logits and softmax in float32.

    Args:
        q: Queries, [B, N, heads, D].
        k: Keys, [B, M, heads, D].
        v: Values, [B, M, heads, D].

    Returns:
        [B, N, heads, D] of the dtype of q.
    """
    dtype, device = q.dtype, _device()
    if dtype == jnp.float16 and device.platform != "gpu":
        # There XLA has no float16 product with a float32 sum.
        q, k, v = (array.astype(jnp.float32) for array in (q, k, v))
    kernel = implementation(q.dtype, q.shape[-1], device)
    return jax.nn.dot_product_attention(q, k, v, implementation=kernel).astype(dtype)


def implementation(dtype: jnp.dtype, width: int, device: jax.Device) -> Literal["cudnn", "xla"]:
    """The kernel for heads of that width: cuDNN's flash attention wherever it takes them.

    It takes half precision and widths of 8, 16, ... 128, on NVIDIA GPUs from Ampere on; it never
    holds the [N, M] weights, which at 64 x 64 pixels are 32 MB a head and picture.
    """
    half = dtype in (jnp.bfloat16, jnp.float16)
    if not (half and width % 8 == 0 and width <= 128 and device.platform == "gpu"):
        return "xla"
    # ROCm calls itself a GPU too, with capabilities such as "gfx90a".
    if "cuda" not in device.client.platform_version.lower():
        return "xla"
    return "cudnn" if float(device.compute_capability) >= 8 else "xla"


def _device() -> jax.Device:
    """A device of the platform that computations go to unless they are told otherwise."""
    default = jax.config.jax_default_device  # pyright: ignore
    if default is None or isinstance(default, str):
        return jax.local_devices(backend=default)[0]
    return default
