"""The parts of the U-Net against torch.nn.functional, where rounding or edges could tell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax.models import blocks

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e .[oracle]")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def to_torch(x):
    return torch.tensor(np.moveaxis(x, -1, 1)).double()


def from_torch(x):
    return np.moveaxis(x.numpy(), 1, -1)


@pytest.mark.parametrize("channels", [32, 64, 160])
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_group_norm_equals_torchs_float64_even_far_from_0(channels, mean):
    x = normal(2, 5, 6, channels) + np.float32(mean)
    scale, bias = normal(channels, seed=1), normal(channels, seed=2)
    out = blocks.GroupNorm().apply({"params": {"scale": scale, "bias": bias}}, x)
    weights = torch.tensor(scale).double(), torch.tensor(bias).double()
    expected = torch.nn.functional.group_norm(to_torch(x), 32, *weights, eps=1e-5)
    np.testing.assert_allclose(out, from_torch(expected), rtol=0, atol=2e-5 * max(1, mean / 10))


def test_group_norm_of_bfloat16_is_computed_in_float32():
    x = jnp.asarray(normal(2, 5, 6, 64) + 30, jnp.bfloat16)
    params = {"scale": np.ones(64, np.float32), "bias": np.zeros(64, np.float32)}
    out = blocks.GroupNorm().apply({"params": params}, x)
    assert out.dtype == jnp.bfloat16
    expected = torch.nn.functional.group_norm(to_torch(np.asarray(x, np.float32)), 32, eps=1e-5)
    np.testing.assert_allclose(out.astype(np.float32), from_torch(expected), rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 8, 6, 32), (1, 2, 2, 32), (1, 7, 5, 32)])
def test_strided_convolution_pads_both_sides_on_even_and_odd_sizes(shape):
    x, kernel, bias = normal(*shape), normal(3, 3, 32, 32, seed=1), normal(32, seed=2)
    out = blocks.Downsample().apply({"params": {"op": {"kernel": kernel, "bias": bias}}}, x)
    weights = torch.tensor(kernel.transpose(3, 2, 0, 1)).double(), torch.tensor(bias).double()
    expected = torch.nn.functional.conv2d(to_torch(x), *weights, stride=2, padding=1)
    np.testing.assert_allclose(out, from_torch(expected), rtol=0, atol=1e-4)


def test_resampling_without_parameters_equals_torchs():
    x = normal(2, 4, 6, 3)
    up = torch.nn.functional.interpolate(to_torch(x), scale_factor=2, mode="nearest")
    np.testing.assert_array_equal(blocks.upsample(x), from_torch(up))
    down = torch.nn.functional.avg_pool2d(to_torch(x), 2)
    np.testing.assert_allclose(blocks.downsample(jnp.asarray(x)), from_torch(down), atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("new_order", [False, True])
def test_attention_equals_torchs_float64_for_flat_and_for_sharp_weights(new_order, scale):
    b, h, w, c, heads = 2, 4, 3, 64, 4
    x = normal(b, h, w, c)
    weights = {
        "norm": {"scale": scale * np.ones(c, np.float32), "bias": np.zeros(c, np.float32)},
        "qkv": {"kernel": normal(c, 3 * c, seed=1) / 8, "bias": normal(3 * c, seed=2)},
        "proj_out": {"kernel": normal(c, c, seed=3) / 8, "bias": normal(c, seed=4)},
    }
    block = blocks.AttentionBlock(heads, new_order)
    out = jax.jit(block.apply)({"params": weights}, x)

    double = jax.tree.map(lambda leaf: torch.tensor(leaf).double(), weights)
    y = scale * torch.nn.functional.group_norm(to_torch(x), 32, eps=1e-5)
    y = y.flatten(2).mT @ double["qkv"]["kernel"] + double["qkv"]["bias"]
    if new_order:
        q, k, v = y.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    else:
        q, k, v = y.unflatten(-1, (heads, 3, -1)).permute(3, 0, 2, 1, 4)
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    y = y @ double["proj_out"]["kernel"] + double["proj_out"]["bias"]
    expected = x + y.reshape(b, h, w, c).numpy()
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("channels", [64, 33])
def test_timestep_embedding_equals_float64_sinusoids(channels):
    t = np.array([0.0, 0.5, 17.25, 999.0])
    half = channels // 2
    angle = torch.tensor(t)[:, None] * 10000.0 ** (-torch.arange(half).double() / half)
    expected = torch.nn.functional.pad(torch.cat([angle.cos(), angle.sin()], 1), (0, channels % 2))
    out = blocks.timestep_embedding(jnp.asarray(t, jnp.float32), channels)
    # An angle of 999 rad is held to 6e-5 in float32.
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-4)
