"""Convolution of pictures."""

import jax
import jax.numpy as jnp
from flax import linen as nn


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolution with zeros around the picture, as many on either side.

    Flax's "SAME" puts fewer in front where the stride is 2 and the side even; PyTorch does not.

    Args:
        x: Pictures, [B, H, W, I].
        kernel: Weights, [h, w, I, O], h and w odd, of the dtype of x.
        stride: Pixels from one application of the kernel to the next.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), O] of the dtype of x.
    """
    h, w, _, _ = kernel.shape
    # Sums of half-precision products are float32 without asking, and rounded once at the end.
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((h // 2, h // 2), (w // 2, w // 2)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


class Conv(nn.Module):
    """Convolution with bias: every one of the networks is made by this module.

    Args:
        channels: Channels of the result.
        size: Side of the kernel, odd.
        stride: 1, or 2 to halve height and width.
        dtype: What it computes in, and gives; params are cast to it.
        kernel_init: Initialiser of the kernel.
    """

    channels: int
    size: int = 3
    stride: int = 1
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.channels)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        x, kernel, bias = (jnp.asarray(array, self.dtype) for array in (x, kernel, bias))
        return convolve(x, kernel, self.stride) + bias[None, None, None, :]
