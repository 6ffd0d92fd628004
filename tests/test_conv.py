"""Convolution against its definition."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from compiling import EACH_WAY, WAYS
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec
from jaxprs import every_equation

from skipjax.models.conv import Conv, convolve, convolve_upsampled

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


@pytest.fixture(scope="module", params=EACH_WAY, autouse=True)
def way(request):
    for program in (run, gradients):
        program.clear_cache()
    with WAYS[request.param]():
        yield request.param


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_definition(x, kernel, stride=1):
    """Every output pixel as a sum over the padded picture's window, in float64."""
    side = kernel.shape[0]
    pad = side // 2
    x = np.pad(np.float64(x), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(1, 2))
    return np.tensordot(windows[:, ::stride, ::stride], np.float64(kernel), ([4, 5, 3], [0, 1, 2]))


run = jax.jit(convolve, static_argnums=2)


@partial(jax.jit, static_argnums=(3, 4))
def gradients(x, kernel, weights, stride=1, convolve=convolve):
    """Of <weights, convolve(x, kernel)>, by x and by the kernel."""
    return jax.grad(lambda *args: (weights * convolve(*args, stride)).sum(), (0, 1))(x, kernel)


def test_convolution_equals_its_definition(subtests):
    for size, side, stride in KINDS:
        with subtests.test(size=size, side=side, stride=stride):
            x, kernel = normal(2, *size, 5), normal(side, side, 5, 7, seed=1)
            out = run(x, kernel, stride)
            assert out.dtype == jnp.float32
            np.testing.assert_allclose(out, by_definition(x, kernel, stride), rtol=0, atol=2e-5)


@pytest.mark.slow
def test_gradients_are_its_transposes(subtests):
    for size, side, stride in KINDS:
        with subtests.test(size=size, side=side, stride=stride):
            x, kernel = normal(2, *size, 5), normal(side, side, 5, 7, seed=1)
            weights = normal(*by_definition(x, kernel, stride).shape, seed=2)
            of_x, of_kernel = gradients(x, kernel, weights, stride)
            # It is linear in either argument: <w, conv(d)> = <conv^T(w), d> for every d.
            for gradient, like, apply in [
                (of_x, x, lambda d, kernel=kernel, n=stride: by_definition(d, kernel, n)),
                (of_kernel, kernel, lambda d, x=x, n=stride: by_definition(x, d, n)),
            ]:
                direction = normal(*like.shape, seed=3)
                expected = (weights * apply(direction)).sum()
                ours = (np.asarray(gradient) * direction).sum()
                np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)


def test_half_precision_is_summed_in_float32_and_rounded_once(subtests):
    for dtype in (ml_dtypes.bfloat16, np.float16):
        with subtests.test(dtype):
            x, kernel = normal(1, 4, 4, 512).astype(dtype), normal(3, 3, 512, 8).astype(dtype)
            out = run(x, kernel, 1)
            assert out.dtype == dtype
            # Half a unit in the last place, of numbers near 70.
            error = np.abs(np.asarray(out, np.float32) - by_definition(x, kernel))
            assert error.max() <= float(jnp.finfo(dtype).eps) * 128


@pytest.mark.slow
def test_the_module_is_flaxs_with_padding_on_both_sides(subtests):
    for size, side, stride in KINDS:
        x, bias = normal(2, *size, 5), np.arange(7, dtype=np.float32)
        with subtests.test(size=size, side=side, stride=stride):
            ours = Conv(7, side, stride)
            theirs = nn.Conv(7, (side, side), stride, padding=side // 2)
            params = params_of(side, False)
            jax.tree.map(np.testing.assert_array_equal, params, params_of(side, True))
            params = {"params": params["params"] | {"bias": bias}}
            outs = [jax.jit(module.apply)(params, x) for module in (ours, theirs)]
            np.testing.assert_array_equal(*outs)


@cache
def params_of(side, flaxs):
    """Of a module with a kernel of that side, as it makes them itself."""
    module = nn.Conv(7, (side, side), padding=side // 2) if flaxs else Conv(7, side)
    return jax.jit(module.init)(jax.random.key(3), np.zeros((1, 1, 1, 5), np.float32))


def test_the_module_computes_in_its_dtype_whatever_comes_in(subtests):
    module = Conv(7, dtype=jnp.bfloat16, kernel_init=nn.initializers.zeros)
    x = np.ones((1, 2, 2, 3), np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    assert not variables["params"]["kernel"].any()
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    for dtype in (np.float32, ml_dtypes.bfloat16, np.float16):
        with subtests.test(dtype):
            cast = jax.tree.map(lambda leaf, dtype=dtype: np.asarray(leaf, dtype), variables)
            assert jax.jit(module.apply)(cast, x).dtype == jnp.bfloat16


def multiplies(*args):
    """Names of what `convolve` multiplies by."""
    equations = every_equation(jax.make_jaxpr(convolve, static_argnums=2)(*args).jaxpr)
    return {e.primitive.name for e in equations} & {"conv_general_dilated", "dot_general"}


def wide_arrays(b, h, w, i, o, side=3):
    return normal(b, h, w, i), normal(side, side, i, o, seed=1) / np.float32(side * i**0.5)


def test_wide_convolution_on_a_cpu_is_made_of_products(subtests):
    for sizes in WIDE:
        with subtests.test(sizes):
            x, kernel = wide_arrays(*sizes)
            assert multiplies(x, kernel) == {"dot_general"}
            out = run(x, kernel, 1)
            assert out.dtype == jnp.float32
            np.testing.assert_allclose(out, by_definition(x, kernel), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_wide_convolution_in_bfloat16_is_rounded_once(subtests, way):
    for sizes in WIDE if way == "as_ever" else WIDE[3:6]:
        with subtests.test(sizes):
            x, kernel = (array.astype(ml_dtypes.bfloat16) for array in wide_arrays(*sizes))
            assert multiplies(x, kernel) == {"dot_general"}
            out = run(x, kernel, 1)
            assert out.dtype == jnp.bfloat16
            out, exact = np.asarray(out, np.float32), by_definition(x, kernel)
            np.testing.assert_allclose(out, exact, rtol=2**-8, atol=1e-5)


def test_what_products_do_not_suit_is_left_to_xla(subtests):
    for sizes, side, stride, dtype in [
        ((1, 33, 32, 64, 64), 3, 1, np.float32),
        ((1, 32, 32, 32, 64), 3, 1, np.float32),
        ((1, 32, 32, 64, 64), 3, 2, np.float32),
        ((1, 32, 32, 64, 64), 5, 1, np.float32),
        ((1, 32, 32, 64, 64), 3, 1, np.float16),
        ((0, 32, 32, 64, 64), 3, 1, np.float32),
    ]:
        with subtests.test(sizes=sizes, side=side, stride=stride, dtype=dtype):
            x, kernel = (array.astype(dtype) for array in wide_arrays(*sizes, side=side))
            assert multiplies(x, kernel, stride) == {"conv_general_dilated"}
            assert run(x, kernel, stride).shape[0] == sizes[0]


def test_double_precision_is_kept(float64):
    x, kernel = (array.astype(np.float64) for array in wide_arrays(1, 32, 32, 64, 64))
    np.testing.assert_allclose(run(x, kernel, 1), by_definition(x, kernel), rtol=0, atol=1e-13)


@pytest.mark.parametrize("side", [1, 3])
def test_gradients_of_products_are_those_of_xlas_convolution(side):
    x, kernel = wide_arrays(2, 32, 16, 64, 64, side=side)
    weights = normal(2, 32, 16, 64, seed=2)
    tangents = normal(*x.shape, seed=3), normal(*kernel.shape, seed=4)

    def xlas(x, kernel, stride):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)

    @jax.jit
    def ahead(*tangents):
        # Forward mode as well, along x and along the kernel at once.
        def total(x, kernel):
            return (weights * convolve(x, kernel)).sum()

        return jax.jvp(total, (x, kernel), tangents)[1]

    ours = gradients(x, kernel, weights)
    expected = gradients(x, kernel, weights, 1, xlas)
    along = 0
    for gradient, like, tangent in zip(ours, expected, tangents, strict=True):
        np.testing.assert_allclose(gradient, like, rtol=0, atol=1e-3)
        along += (np.asarray(like) * tangent).sum()
    np.testing.assert_allclose(ahead(*tangents), along, rtol=1e-4, atol=1e-2)


def test_wide_convolution_maps_over_pictures_and_over_kernels():
    x, _ = wide_arrays(3, 32, 32, 64, 64)
    kernels = normal(3, 3, 3, 64, 64, seed=5) / 24
    out = jax.jit(jax.vmap(convolve))(x[:, None], kernels)
    for i in range(3):
        one = run(x[i : i + 1], kernels[i], 1)
        np.testing.assert_allclose(out[i], one, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [8, 32])
@pytest.mark.parametrize("convolve", [convolve, convolve_upsampled], ids=lambda f: f.__name__)
def test_devices_convolve_their_own_pictures(size, convolve):
    mesh = jax.make_mesh((8,), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    x, kernel = wide_arrays(16, size, size, 64, 64)
    shardings = split, NamedSharding(mesh, PartitionSpec())
    compiled = jax.jit(convolve, in_shardings=shardings).lower(x, kernel).compile()
    for exchange in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert exchange not in compiled.as_text()
    assert compiled.output_shardings.is_equivalent_to(split, 4)
    out = compiled(*jax.device_put((x, kernel), shardings))
    np.testing.assert_allclose(out, jax.jit(convolve)(x, kernel), rtol=0, atol=1e-5)


def doubled(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


# In several bands, in one, of odd sides and prime widths; and what XLA convolves.
UPSAMPLED = [(2, 32, 24, 64, 64), (1, 8, 8, 96, 64), (3, 5, 7, 67, 70), (2, 4, 6, 8, 5)]


def test_convolution_of_what_is_upsampled_equals_its_definition(subtests):
    for sizes in UPSAMPLED:
        with subtests.test(sizes):
            x, kernel = wide_arrays(*sizes)
            out = jax.jit(convolve_upsampled)(x, kernel)
            np.testing.assert_allclose(out, by_definition(doubled(x), kernel), rtol=0, atol=1e-5)
    x, kernel = (array.astype(ml_dtypes.bfloat16) for array in wide_arrays(*UPSAMPLED[2]))
    out = jax.jit(convolve_upsampled)(x, kernel)
    assert out.dtype == jnp.bfloat16
    exact = by_definition(doubled(x), kernel)
    np.testing.assert_allclose(np.asarray(out, np.float32), exact, rtol=2**-8, atol=1e-5)


def test_gradients_of_what_is_upsampled_are_its_transposes():
    x, kernel = wide_arrays(*UPSAMPLED[2])
    weights = normal(3, 10, 14, 70, seed=2)
    gradient = jax.jit(
        jax.grad(lambda *args: (weights * convolve_upsampled(*args)).sum(), (0, 1))
    )(x, kernel)
    for ours, like, apply in [
        (gradient[0], x, lambda d: by_definition(doubled(d), kernel)),
        (gradient[1], kernel, lambda d: by_definition(doubled(x), d)),
    ]:
        direction = normal(*like.shape, seed=3)
        expected = (weights * apply(direction)).sum()
        np.testing.assert_allclose((np.asarray(ours) * direction).sum(), expected, rtol=1e-4)


def test_the_module_makes_it_twice_as_high_and_wide(subtests):
    for channels in (5, 64):
        x, module = normal(2, 4, 6, channels), Conv(channels, upsampled=True)
        params = jax.jit(module.init)(jax.random.key(0), x)
        plain = Conv(channels).apply(params, doubled(x))
        with subtests.test(channels):
            np.testing.assert_allclose(module.apply(params, x), plain, rtol=0, atol=1e-5)
