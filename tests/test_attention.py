"""Attention, and which kernel computes it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxprs import every_equation

from skipjax.models.attention import attention, implementation
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


@pytest.mark.parametrize("device", [AMPERE, HOPPER, BLACKWELL])
def test_cudnn_attends_on_gpus_of_nvidia_that_have_it(device):
    for dtype in (jnp.bfloat16, jnp.float16):
        for width in (8, 64, 128):
            assert implementation(jnp.dtype(dtype), width, device) == "cudnn"


@pytest.mark.parametrize(
    ("dtype", "width", "device"),
    [
        (jnp.float32, 64, HOPPER),
        (jnp.bfloat16, 20, HOPPER),
        (jnp.bfloat16, 256, HOPPER),
        (jnp.bfloat16, 64, TURING),
        (jnp.bfloat16, 64, AMD),
        (jnp.bfloat16, 64, TPU),
        (jnp.bfloat16, 64, CPU),
    ],
)
def test_xla_attends_where_cudnn_cannot(dtype, width, device):
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


def queries_keys_values(dtype, scale):
    rng = np.random.default_rng(0)
    sizes = [(2, 3, 4, 16), (2, 65, 4, 16), (2, 65, 4, 16)]
    q, k, v = (jnp.asarray(rng.normal(size=size), dtype) for size in sizes)
    return q * scale, k, v


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.float16, 2e-3), (jnp.bfloat16, 2e-2)]
)
def test_attention_equals_its_definition(dtype, tolerance, scale):
    arrays = queries_keys_values(dtype, scale)
    out = jax.jit(attention)(*arrays)
    assert out.dtype == dtype and out.shape == (2, 3, 4, 16)
    np.testing.assert_allclose(
        out.astype(jnp.float32), by_definition(*arrays), rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_logits_and_softmax_are_float32(dtype):
    arrays = queries_keys_values(dtype, 1.0)
    equations = list(every_equation(jax.make_jaxpr(attention)(*arrays).jaxpr))
    exponentials = [e for e in equations if e.primitive.name == "exp"]
    logits, *_ = (e for e in equations if e.primitive.name == "dot_general")
    assert exponentials and all(e.invars[0].aval.dtype == jnp.float32 for e in exponentials)
    assert logits.outvars[0].aval.dtype == jnp.float32
