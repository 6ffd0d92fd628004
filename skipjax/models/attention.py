"""Attention over the pixels of a picture, by whichever kernel the device has for it.

Nowhere are the weights of all queries held where those are many: at 128 x 128 pixels they would
be 1 GB a head and picture.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from skipjax.models.device import default_device

# How many float32 weights are held at a time: on a CPU 4 MB, which two cores of a Zen 5 are
# fastest with; elsewhere 1 GB.
WEIGHTS = 2**20
MOST_WEIGHTS = 2**28
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


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
    if kernel == "cudnn":
        return jax.nn.dot_product_attention(q, k, v, implementation=kernel).astype(dtype)
    by = _by_heads if device.platform == "cpu" else _by_xla
    return by(q, k, v).astype(dtype)


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


def _by_chunks(attend: Attend, q: jax.Array, k: jax.Array, v: jax.Array, rows: int) -> jax.Array:
    """`attend` for so many rows of queries at a time; a row's softmax needs no other row.

    Args:
        attend: Of q [..., R, D], k and v.
        q: Queries, [..., N, D].
        k: Keys.
        v: Values.
        rows: R at most.

    Returns:
        [..., N, D].
    """
    *batch, n, width = q.shape
    chunks = -(-n // max(rows, 1))
    if chunks == 1:
        return attend(q, k, v)
    rows = -(-n // chunks)
    # Rows of zeros fill the last chunk: they attend to all alike, and are cut off again.
    q = jnp.pad(q, [*len(batch) * [(0, 0)], (0, chunks * rows - n), (0, 0)])
    q = jnp.moveaxis(q.reshape(*batch, chunks, rows, width), -3, 0)
    # Weights are computed again where gradients need them, or all would be held after all.
    each = jax.checkpoint(lambda q: attend(q, k, v), prevent_cse=False)
    y = jnp.moveaxis(jax.lax.map(each, q), 0, -3)
    return y.reshape(*batch, chunks * rows, width)[..., :n, :]


def _by_heads(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention by one head at a time, and by one sample and some rows of queries where that is
    much: a CPU's cache holds the weights of those.
    """
    b, n, heads, width = q.shape
    q, k, v = (jnp.moveaxis(array, 2, 0) for array in (q, k, v))
    if b * n * k.shape[2] <= WEIGHTS:
        return jnp.moveaxis(jax.lax.map(lambda qkv: _attend(*qkv), (q, k, v)), 0, 2)
    q, k, v = (array.reshape(heads * b, -1, width) for array in (q, k, v))
    rows = WEIGHTS // k.shape[1]
    y = jax.lax.map(lambda qkv: _by_chunks(_attend, qkv[0], qkv[1], qkv[2], rows), (q, k, v))
    return jnp.moveaxis(y.reshape(heads, b, n, width), 0, 2)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Of one head: q [..., N, D], k and v [..., M, D]."""
    scale = q.shape[-1] ** -0.5
    if q.dtype == jnp.float32:  # others would round twice
        q, scale = q * scale, 1
    logits = jnp.einsum("...nd,...md->...nm", q, k, preferred_element_type=jnp.float32) * scale
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(v.dtype)
    y = jnp.einsum("...nm,...md->...nd", weights, v, preferred_element_type=jnp.float32)
    return (y / total).astype(q.dtype)


def _by_xla(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention of all heads, by as many rows of queries as memory should hold weights of."""

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        q = jnp.moveaxis(q, 1, 2)
        return jnp.moveaxis(jax.nn.dot_product_attention(q, k, v, implementation="xla"), 1, 2)

    b, _, heads, _ = q.shape
    rows = MOST_WEIGHTS // (b * heads * k.shape[1])
    return jnp.moveaxis(_by_chunks(attend, jnp.moveaxis(q, 1, 2), k, v, rows), 1, 2)
