"""Attention, and which kernel computes it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from compiling import HURRY
from jaxprs import every_equation

from skipjax.models import attention as attention_module
from skipjax.models.attention import attention, implementation
from skipjax.models.blocks import AttentionBlock
from skipjax.models.device import default_device


def device(platform, version="", capability=None):
    client = SimpleNamespace(platform_version=version)
    return SimpleNamespace(platform=platform, client=client, compute_capability=capability)


CPU = device("cpu", "PJRT C API")
TPU = device("tpu", "libtpu")
AMPERE = device("gpu", "PJRT C API\ncuda 12090", "8.0")
HOPPER = device("gpu", "PJRT C API\ncuda 12090", "9.0")
BLACKWELL = device("gpu", "PJRT C API\ncuda 13000", "10.0")
TURING = device("gpu", "PJRT C API\ncuda 12090", "7.5")
AMD = device("gpu", "PJRT C API\nrocm 60300", "gfx90a")


def test_cudnn_attends_on_gpus_of_nvidia_that_have_it():
    for device in (AMPERE, HOPPER, BLACKWELL):
        for dtype in (jnp.bfloat16, jnp.float16):
            for width in (8, 64, 128):
                assert implementation(jnp.dtype(dtype), width, device) == "cudnn", device


def test_xla_attends_where_cudnn_cannot(subtests):
    for dtype, width, device in [
        (jnp.float32, 64, HOPPER),
        (jnp.bfloat16, 20, HOPPER),
        (jnp.bfloat16, 256, HOPPER),
        (jnp.bfloat16, 64, TURING),
        (jnp.bfloat16, 64, AMD),
        (jnp.bfloat16, 64, TPU),
        (jnp.bfloat16, 64, CPU),
    ]:
        with subtests.test(dtype=dtype, width=width, device=device):
            assert implementation(jnp.dtype(dtype), width, device) == "xla"


def test_the_device_that_counts_is_the_default_one():
    assert default_device() == jax.devices()[0]
    with jax.default_device(jax.devices()[3]):
        assert default_device() == jax.devices()[3]
    with jax.default_device("cpu"):
        assert default_device() == jax.devices()[0]


def by_definition(q, k, v):
    q, k, v = (np.asarray(array, np.float64) for array in (q, k, v))
    logits = np.einsum("nqhd,nkhd->nhqk", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("nhqk,nkhd->nqhd", weights, v)


def queries_keys_values(dtype, scale=1):
    rng = np.random.default_rng(0)
    sizes = [(2, 3, 4, 16), (2, 65, 4, 16), (2, 65, 4, 16)]
    q, k, v = (rng.normal(size=size).astype(dtype) for size in sizes)
    return q * dtype(scale), k, v


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float32, 1e-5), (np.float16, 2e-3), (ml_dtypes.bfloat16, 2e-2)]
)
def test_attention_equals_its_definition(dtype, tolerance):
    attend = jax.jit(attention)
    for scale in (1, 30):
        arrays = queries_keys_values(dtype, scale)
        out = np.asarray(attend(*arrays))
        assert out.dtype == dtype and out.shape == (2, 3, 4, 16)
        expected, out = by_definition(*arrays), np.float32(out)
        np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance, err_msg=str(scale))


def by_cpu(q, k, v):
    return attention_module._by_heads(q, k, v)


def by_other_devices(q, k, v):
    return attention_module._by_xla(q, k, v)


@pytest.mark.parametrize("attend", [by_cpu, by_other_devices])
def test_the_weights_of_some_rows_are_held_at_a_time(attend, monkeypatch):
    (q, k, v), keys = queries_keys_values(np.float32), 11
    q, k, v = np.tile(q, (1, 23, 1, 1)) + k[:, :1], k[:, :keys], v[:, :keys]  # 69 rows: no divisor
    most = 10 * keys
    monkeypatch.setattr(attention_module, "WEIGHTS", most)
    monkeypatch.setattr(attention_module, "MOST_WEIGHTS", 8 * most)  # 2 samples, 4 heads

    def loss(q, k, v):
        y = attend(q, k, v)
        return (y**2).sum(), y

    # All that is held of float32 in the shape of weights, in the backward pass too.
    run = jax.grad(loss, (0, 1, 2), has_aux=True)
    held = [
        aval.size
        for equation in every_equation(jax.make_jaxpr(run)(q, k, v).jaxpr)
        for aval in (out.aval for out in equation.outvars)
        if aval.shape[-1:] == (keys,) and aval.shape[-2:] != (q.shape[-1], keys)
    ]
    assert held and max(held) <= 8 * most
    gradients, out = jax.jit(run, compiler_options=HURRY)(q, k, v)
    np.testing.assert_allclose(out, by_definition(q, k, v), rtol=0, atol=1e-5)

    def plain(q, k, v):
        return (jax.nn.dot_product_attention(q, k, v, implementation="xla") ** 2).sum()

    for ours, theirs in zip(gradients, jax.grad(plain, (0, 1, 2))(q, k, v), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_logits_and_softmax_are_float32(dtype):
    arrays = queries_keys_values(dtype)
    equations = list(every_equation(jax.make_jaxpr(attention)(*arrays).jaxpr))
    exponentials = [e for e in equations if e.primitive.name == "exp"]
    logits, *_ = (e for e in equations if e.primitive.name == "dot_general")
    assert exponentials and all(e.invars[0].aval.dtype == jnp.float32 for e in exponentials)
    assert logits.outvars[0].aval.dtype == jnp.float32


def by_heads(y, new_order, heads=4):
    """q, k and v of a block's 3C channels, each [B, N, heads, D]."""
    if new_order:
        return np.moveaxis(y.reshape(*y.shape[:2], 3, heads, -1), 2, 0)
    return np.moveaxis(y.reshape(*y.shape[:2], heads, 3, -1), 3, 0)


@pytest.mark.parametrize("new_order", [False, True])
def test_a_block_reads_queries_keys_and_values_in_the_order_it_is_told(new_order):
    rng, c = np.random.default_rng(0), 64

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    x = normal(2, 2, 3, c)
    params = {
        "norm": {"scale": np.ones(c, np.float32), "bias": np.zeros(c, np.float32)},
        "qkv": {"kernel": normal(c, 3 * c) / 8, "bias": normal(3 * c)},
        "proj_out": {"kernel": normal(c, c) / 8, "bias": normal(c)},
    }
    out = jax.jit(AttentionBlock(4, new_order).apply)({"params": params}, x)

    groups = np.float64(x).reshape(2, 6, 32, 2)
    mean, var = (f(groups, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    y = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(2, 6, c)
    y = y @ params["qkv"]["kernel"] + params["qkv"]["bias"]

    def expected(new_order):
        z = by_definition(*by_heads(y, new_order)).reshape(2, 6, c)
        z = z @ params["proj_out"]["kernel"] + params["proj_out"]["bias"]
        return x + z.reshape(x.shape)

    np.testing.assert_allclose(out, expected(new_order), rtol=0, atol=1e-4)
    assert np.abs(out - expected(not new_order)).max() > 0.1
