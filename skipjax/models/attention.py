"""Attention over the pixels of a picture, by whichever kernel the device has for it."""

from typing import Literal

import jax
import jax.numpy as jnp

from skipjax.models.device import default_device


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(D)) v for each head, with logits and softmax in float32.

    Args:
        q: Queries, [B, N, heads, D].
        k: Keys, [B, M, heads, D].
        v: Values, [B, M, heads, D].

    Returns:
        [B, N, heads, D] of the dtype of q.
    """
    dtype, device = q.dtype, default_device()
    if dtype == jnp.float16 and device.platform != "gpu":
        # There XLA has no float16 product with a float32 sum.
        q, k, v = (array.astype(jnp.float32) for array in (q, k, v))
    kernel = implementation(q.dtype, q.shape[-1], device)
    if device.platform == "cpu":
        return _by_heads(q, k, v).astype(dtype)
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


def _by_heads(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention one head at a time: a CPU's cache holds the [N, M] weights of one, not of all."""

    def head(qkv):
        q, k, v = qkv
        logits = jnp.einsum("bnd,bmd->bnm", q, k, preferred_element_type=jnp.float32)
        logits = logits * q.shape[-1] ** -0.5
        weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
        total = weights.sum(axis=-1, keepdims=True)
        weights = weights.astype(v.dtype)
        y = jnp.einsum("bnm,bmd->bnd", weights, v, preferred_element_type=jnp.float32)
        return (y / total).astype(q.dtype)

    heads = tuple(jnp.moveaxis(array, 2, 0) for array in (q, k, v))
    return jnp.moveaxis(jax.lax.map(head, heads), 0, 2)
