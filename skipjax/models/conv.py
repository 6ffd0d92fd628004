"""Convolution of pictures.

On CPUs as products of matrices, where that is faster than XLA's convolution: a block at a time,
so that what is multiplied stays in the cache.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from skipjax.models.device import default_device

# Sizes of a block, and where which method is the fastest: measured on two cores of a Zen 5.
CHANNELS = 192  # of the result, at most
PIXELS = 1024  # at most, or one row of tiles
NARROW = 64  # channels, below which XLA's convolution wins
FEW = 512  # pixels, below which transforming the kernel costs more than it saves

Padding = tuple[int, int]


def convolve(
    x: jax.Array, kernel: jax.Array, stride: int = 1, padding: Padding | None = None
) -> jax.Array:
    """Convolution with zeros around the picture.

    Flax's "SAME" puts fewer in front where the stride is 2 and the side even; PyTorch does not.

    Args:
        x: Pictures, [B, H, W, I].
        kernel: Weights, [h, w, I, O], h and w odd, of the dtype of x.
        stride: Pixels from one application of the kernel to the next.
        padding: Zeros before and after, along the height and the width alike. Default: as many on
            either side as keep the size where the stride is 1.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), O] of the dtype of x, by default.
    """
    if stride == 1 and padding is None and _by_products_is_faster(x, kernel):
        wide = kernel.shape[:2] == (3, 3)
        if kernel.shape[:2] == (1, 1) or wide and (x.dtype == jnp.bfloat16 or _few(x) or _even(x)):
            return _by_products(x, kernel)
    return _by_xla(x, kernel, stride, padding)


def convolve_upsampled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve` of `upsample(x)` with a kernel of side 3: [B, 2 H, 2 W, O] of [B, H, W, I]."""
    # Sums of weights in half precision would be rounded before they count.
    if x.dtype == jnp.float32 and _by_products_is_faster(x, kernel):
        return _by_phases(x, kernel)
    return convolve(upsample(x), kernel)


def upsample(x: jax.Array) -> jax.Array:
    """Nearest neighbour, twice as high and wide; x [B, H, W, C]."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


def _by_products_is_faster(x: jax.Array, kernel: jax.Array) -> bool:
    suits = min(kernel.shape[2:]) >= NARROW and x.size > 0
    suits = suits and x.dtype in (jnp.float32, jnp.bfloat16)
    return suits and default_device().platform == "cpu"


def _few(x: jax.Array) -> bool:
    return math.prod(x.shape[:3]) < FEW


def _even(x: jax.Array) -> bool:
    return x.shape[1] % 2 == x.shape[2] % 2 == 0


def _by_xla(
    x: jax.Array, kernel: jax.Array, stride: int = 1, padding: Padding | None = None
) -> jax.Array:
    h, w, _, _ = kernel.shape
    # Sums of half-precision products are float32 without asking, and rounded once at the end.
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((h // 2, h // 2), (w // 2, w // 2)) if padding is None else 2 * (padding,),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _product(indices: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """An einsum of two arrays of one dtype, summed in float32 and rounded once."""
    return jnp.einsum(indices, a, b, preferred_element_type=jnp.float32).astype(a.dtype)


@jax.custom_jvp
def _by_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution with a kernel of side 1, or of 3 by blocks of the result's channels and rows."""
    if kernel.shape[:2] == (1, 1):
        return _product("byxi,io->byxo", x, kernel[0, 0])
    (b, h, w, _), channels = x.shape, kernel.shape[-1]
    # Transforms in half precision would round too often.
    minimal = x.dtype == jnp.float32 and not _few(x)
    # Where there are many bands, the kernel is transformed once for all of them.
    whole = not minimal or b * h * w > PIXELS
    width = channels if whole else _divisor(channels, CHANNELS)
    tile = 2 if minimal else 1
    rows = tile * _divisor(h // tile, PIXELS // (tile * b * w))
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def block(j, out):
        part = lax.dynamic_slice_in_dim(kernel, j * width, width, 3)
        part = _transformed(part) if minimal else part

        def band(i, out):
            above = lax.dynamic_slice_in_dim(padded, i * rows, rows + 2, 1)
            result = (_winograd if minimal else _direct)(above, part)
            return lax.dynamic_update_slice(out, result, (0, i * rows, 0, j * width))

        return lax.fori_loop(0, h // rows, band, out)

    # All of it is overwritten. Were it zeros, XLA would hold those of all layers from the start.
    out = jnp.broadcast_to(x[:, :1, :1, :1], (b, h, w, channels))
    return lax.fori_loop(0, channels // width, block, out)


# XLA's own gradient of x is as fast as its convolution; that of the kernel is not.
_by_products.defjvps(
    lambda dx, _, x, kernel: _by_xla(dx, kernel),
    lambda dkernel, _, x, kernel: _along_kernel(x, dkernel),
)


@jax.custom_jvp
def _by_phases(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution of `upsample(x)` with a kernel of side 3, by bands of x's rows.

    A pixel of the result sees 2 x 2 pixels of x alone, some by several weights, whose sum counts:
    four kernels of side 2, one for each of the four places that it may have above a pixel of x,
    and 16 multiplications for 4 pixels of the result instead of 36.
    """

    def along(k, axis):
        a, b, c = (lax.index_in_dim(k, i, axis, keepdims=False) for i in range(3))
        return jnp.stack([jnp.stack([a, b + c]), jnp.stack([a + b, c])])

    (b, h, w, _), channels = x.shape, kernel.shape[-1]
    # [place along the width, weight, place along the height, weight, I, O]
    kernels = along(along(kernel, 0), 2)
    rows = _divisor(h, PIXELS // (b * w))
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def band(i, out):
        above = lax.dynamic_slice_in_dim(padded, i * rows, rows + 2, 1)

        def phase(y, z):
            windows = _windows(above[:, y : y + rows + 1, z : z + w + 1], 2)
            part = jnp.moveaxis(kernels[z, :, y], 0, 1).reshape(-1, channels)
            return _product("byxi,io->byxo", windows, part)

        lines = [jnp.stack([phase(y, 0), phase(y, 1)], 3) for y in (0, 1)]
        result = jnp.stack(lines, 2).reshape(b, 2 * rows, 2 * w, channels)
        return lax.dynamic_update_slice(out, result, (0, 2 * i * rows, 0, 0))

    # As in `_by_products`.
    out = jnp.broadcast_to(x[:, :1, :1, :1], (b, 2 * h, 2 * w, channels))
    return lax.fori_loop(0, h // rows, band, out)


_by_phases.defjvps(
    lambda dx, _, x, kernel: _by_xla(upsample(dx), kernel),
    lambda dkernel, _, x, kernel: _along_kernel(upsample(x), dkernel),
)


def _along_kernel(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution for the sake of its transpose, the gradient of the kernel: by bands of rows.

    The gradient sums over all pixels of all pictures; XLA's reads both arrays from far away.
    """
    if x.dtype != jnp.float32:
        return _by_xla(x, kernel)
    (b, h, w, _), (side, *_, channels) = x.shape, kernel.shape
    rows, margin = _divisor(h, PIXELS // (b * w)), side // 2
    padded = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    kernel = kernel.reshape(-1, channels).T

    # Windows are many times the size of x: they are laid out again where they are needed.
    @partial(jax.checkpoint, prevent_cse=False)
    def band(i):
        windows = _windows(lax.dynamic_slice_in_dim(padded, i * rows, rows + side - 1, 1), side)
        out = jnp.einsum("oi,byxi->obyx", kernel, windows)
        # Transposed, this is a copy in the order that the product reads fastest.
        return jnp.moveaxis(lax.optimization_barrier(out), 0, -1)

    return jnp.moveaxis(lax.map(band, jnp.arange(h // rows)), 0, 1).reshape(b, h, w, channels)


def _divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is not above `most`, and 1 if `most` is less."""
    return next(d for d in range(min(number, max(most, 1)), 0, -1) if number % d == 0)


def _direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution of x [B, H + 2, W + 2, I] by one product."""
    return _product("byxi,io->byxo", _windows(x, 3), kernel.reshape(-1, kernel.shape[-1]))


def _windows(x: jax.Array, side: int) -> jax.Array:
    """Each pixel's neighbours side by side: [B, H, W, side^2 I] of [B, H+side-1, W+side-1, I]."""
    h, w = x.shape[1] - side + 1, x.shape[2] - side + 1
    parts = [x[:, i : i + h, j : j + w] for i in range(side) for j in range(side)]
    return jnp.concatenate(parts, axis=-1)


def _transformed(kernel: jax.Array) -> jax.Array:
    """G k G^T for `_winograd`, [4, 4, I, O] of [3, 3, I, O]."""

    def along(k, axis):
        a, b, c = (lax.index_in_dim(k, i, axis, keepdims=False) for i in range(3))
        return jnp.stack([a, (a + b + c) / 2, (a - b + c) / 2, c])

    return along(along(kernel, 0), 1)


def _winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution of x [B, H + 2, W + 2, I], H and W even, with a transformed kernel.

    A^T [(G k G^T) * (B^T d B)] A for tiles d of 4 x 4 pixels, two apart: 16 multiplications for 4
    pixels of the result instead of 36 (Lavin & Gray 2016, arXiv:1509.09308, section 4.1).

    Args:
        x: Pictures with a margin of one pixel.
        kernel: [4, 4, I, O] from `_transformed`.

    Returns:
        [B, H, W, O].
    """

    def to_tiles(x, axis):
        last = x.shape[axis] - 3
        a, b, c, d = (lax.slice_in_dim(x, i, i + last, 2, axis) for i in range(4))
        return jnp.stack([a - c, b + c, c - b, b - d])

    def to_pixels(m, axis):
        a, b, c, d = m
        return jnp.stack([a + b + c, b - c - d], axis)

    m = jnp.einsum("uvbyxi,uvio->uvbyxo", to_tiles(to_tiles(x, 1), 3), kernel)
    b, h, w, _ = x.shape
    return to_pixels(to_pixels(m, 4), 2).reshape(b, h - 2, w - 2, -1)


class Conv(nn.Module):
    """Convolution, with bias by default: every one of the networks is made by this module.

    Args:
        channels: Channels of the result.
        size: Side of the kernel, odd.
        stride: 1, or 2 to halve height and width.
        padding: As in `convolve`.
        upsampled: Whether what it convolves is first made twice as high and wide.
        dtype: What it computes in, and gives; params are cast to it.
        kernel_init: Initialiser of the kernel.
        use_bias: Whether there is a bias.
    """

    channels: int
    size: int = 3
    stride: int = 1
    dtype: jnp.dtype = jnp.float32
    padding: Padding | None = None
    upsampled: bool = False
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.channels)
        kernel = self.param("kernel", self.kernel_init, shape)
        x, kernel = (jnp.asarray(array, self.dtype) for array in (x, kernel))
        if self.upsampled:
            y = convolve_upsampled(x, kernel)
        else:
            y = convolve(x, kernel, self.stride, self.padding)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        return y + jnp.asarray(bias, self.dtype)[None, None, None, :]
