"""Convolution against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec
from jaxprs import every_equation

from skipjax.models.conv import Conv, convolve

# (height, width), side of the kernel, stride
KINDS = [((6, 5), 3, 1), ((6, 8), 3, 2), ((7, 5), 3, 2), ((1, 1), 3, 2), ((4, 3), 1, 1)]
# [B, H, W, I, O] that CPUs convolve by products: in several bands, several blocks of channels,
# both, one of each, by windows, and those of odd sides and prime widths.
WIDE = [
    (2, 64, 32, 64, 64),
    (1, 32, 32, 64, 384),
    (5, 30, 22, 80, 256),
    (1, 32, 32, 67, 131),
    (1, 8, 8, 96, 64),
    (3, 5, 7, 64, 70),
    (1, 1, 1, 64, 64),
]
wide = pytest.mark.parametrize("sizes", WIDE, ids=str)
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


def multiplies(*args):
    """Names of what `convolve` multiplies by."""
    equations = every_equation(jax.make_jaxpr(convolve, static_argnums=2)(*args).jaxpr)
    return {e.primitive.name for e in equations} & {"conv_general_dilated", "dot_general"}


def wide_arrays(b, h, w, i, o, side=3):
    return normal(b, h, w, i), normal(side, side, i, o, seed=1) / np.float32(side * i**0.5)


@wide
def test_wide_convolution_on_a_cpu_is_made_of_products(sizes):
    x, kernel = wide_arrays(*sizes)
    assert multiplies(x, kernel) == {"dot_general"}
    out = jax.jit(convolve)(x, kernel)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, by_definition(x, kernel, 1), rtol=0, atol=1e-5)


@wide
def test_wide_convolution_in_bfloat16_is_rounded_once(sizes):
    x, kernel = (jnp.asarray(array, jnp.bfloat16) for array in wide_arrays(*sizes))
    assert multiplies(x, kernel) == {"dot_general"}
    exact = by_definition(*(np.asarray(array, np.float32) for array in (x, kernel)), 1)
    out = jax.jit(convolve)(x, kernel)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "side", "stride", "dtype"),
    [
        ((1, 33, 32, 64, 64), 3, 1, jnp.float32),
        ((1, 32, 32, 32, 64), 3, 1, jnp.float32),
        ((1, 32, 32, 64, 64), 3, 2, jnp.float32),
        ((1, 32, 32, 64, 64), 5, 1, jnp.float32),
        ((1, 32, 32, 64, 64), 3, 1, jnp.float16),
        ((0, 32, 32, 64, 64), 3, 1, jnp.float32),
    ],
)
def test_what_products_do_not_suit_is_left_to_xla(sizes, side, stride, dtype):
    x, kernel = (jnp.asarray(array, dtype) for array in wide_arrays(*sizes, side=side))
    assert multiplies(x, kernel, stride) == {"conv_general_dilated"}
    assert convolve(x, kernel, stride).shape[0] == sizes[0]


def test_double_precision_is_kept(float64):
    x, kernel = (array.astype(np.float64) for array in wide_arrays(1, 32, 32, 64, 64))
    out = convolve(jnp.asarray(x), jnp.asarray(kernel))
    np.testing.assert_allclose(out, by_definition(x, kernel, 1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("side", [1, 3])
def test_gradients_of_products_are_those_of_xlas_convolution(side):
    x, kernel = wide_arrays(2, 32, 16, 64, 64, side=side)
    weights = normal(2, 32, 16, 64, seed=2)

    def total(convolve, x, kernel):
        return (weights * convolve(x, kernel)).sum()

    def theirs(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    ours = jax.jit(jax.grad(lambda *args: total(convolve, *args), (0, 1)))(x, kernel)
    expected = jax.grad(lambda *args: total(theirs, *args), (0, 1))(x, kernel)
    for gradient, like in zip(ours, expected, strict=True):
        np.testing.assert_allclose(gradient, like, rtol=0, atol=1e-3)
    # Forward mode as well, along x and along the kernel at once.
    tangents = normal(*x.shape, seed=3), normal(*kernel.shape, seed=4)
    _, ahead = jax.jvp(lambda *args: total(convolve, *args), (x, kernel), tangents)
    along = sum((g * d).sum() for g, d in zip(expected, tangents, strict=True))
    np.testing.assert_allclose(ahead, along, rtol=1e-4, atol=1e-2)


def test_wide_convolution_maps_over_pictures_and_over_kernels():
    x, _ = wide_arrays(3, 32, 32, 64, 64)
    kernels = normal(3, 3, 3, 64, 64, seed=5) / 24
    out = jax.vmap(convolve)(x[:, None], kernels)
    for i in range(3):
        np.testing.assert_allclose(out[i], convolve(x[i : i + 1], kernels[i]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [8, 32])
def test_devices_convolve_their_own_pictures(size):
    mesh = jax.make_mesh((8,), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    x, kernel = wide_arrays(16, size, size, 64, 64)
    apply = jax.jit(convolve, in_shardings=(split, NamedSharding(mesh, PartitionSpec())))
    compiled = apply.lower(x, kernel).compile()
    for exchange in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert exchange not in compiled.as_text()
    assert compiled.output_shardings.is_equivalent_to(split, 4)
    np.testing.assert_allclose(apply(x, kernel), convolve(x, kernel), rtol=0, atol=1e-5)
