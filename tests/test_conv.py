"""Convolution against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from skipjax.models.conv import Conv, convolve

# (height, width), side of the kernel, stride
KINDS = [((6, 5), 3, 1), ((6, 8), 3, 2), ((7, 5), 3, 2), ((1, 1), 3, 2), ((4, 3), 1, 1)]
kinds = pytest.mark.parametrize(("size", "side", "stride"), KINDS, ids=str)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_definition(x, kernel, stride):
    """Every output pixel as a sum over the padded picture's window, in float64."""
    side = kernel.shape[0]
    pad = side // 2
    x = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(1, 2))
    return np.einsum("nyxihw,hwio->nyxo", windows[:, ::stride, ::stride], kernel.astype(float))


@kinds
def test_convolution_equals_its_definition(size, side, stride):
    x, kernel = normal(2, *size, 5), normal(side, side, 5, 7, seed=1)
    out = jax.jit(convolve, static_argnums=2)(x, kernel, stride)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, by_definition(x, kernel, stride), rtol=0, atol=2e-5)


@kinds
def test_gradients_are_its_transposes(size, side, stride):
    x, kernel = normal(2, *size, 5), normal(side, side, 5, 7, seed=1)
    out, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, stride), x, kernel)
    weights = normal(*out.shape, seed=2)
    of_x, of_kernel = pull(jnp.asarray(weights))
    # It is linear in either argument: <w, conv(d)> = <conv^T(w), d> for every d.
    for gradient, like, apply in [
        (of_x, x, lambda d: by_definition(d, kernel, stride)),
        (of_kernel, kernel, lambda d: by_definition(x, d, stride)),
    ]:
        direction = normal(*like.shape, seed=3)
        expected = (weights * apply(direction)).sum()
        np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_summed_in_float32_and_rounded_once(dtype):
    x, kernel = jnp.asarray(normal(1, 4, 4, 512), dtype), jnp.asarray(normal(3, 3, 512, 8), dtype)
    out = convolve(x, kernel)
    assert out.dtype == dtype
    exact = by_definition(*(np.asarray(array, np.float32) for array in (x, kernel)), 1)
    # Half a unit in the last place, of numbers near 70.
    assert np.abs(out.astype(jnp.float32) - exact).max() <= jnp.finfo(dtype).eps * 128


@kinds
def test_the_module_is_flaxs_with_padding_on_both_sides(size, side, stride):
    x = jnp.asarray(normal(2, *size, 5))
    ours = Conv(7, side, stride)
    theirs = nn.Conv(7, (side, side), stride, padding=side // 2)
    params = ours.init(jax.random.key(3), x)
    jax.tree.map(np.testing.assert_array_equal, params, theirs.init(jax.random.key(3), x))
    params["params"]["bias"] = jnp.arange(7.0)
    np.testing.assert_array_equal(ours.apply(params, x), theirs.apply(params, x))


@pytest.mark.parametrize("params", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_the_module_computes_in_its_dtype_whatever_comes_in(params):
    module = Conv(7, dtype=jnp.bfloat16, kernel_init=nn.initializers.zeros)
    x = jnp.ones((1, 2, 2, 3))
    variables = module.init(jax.random.key(0), x)
    assert not variables["params"]["kernel"].any()
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    cast = jax.tree.map(lambda leaf: leaf.astype(params), variables)
    assert module.apply(cast, x).dtype == jnp.bfloat16
