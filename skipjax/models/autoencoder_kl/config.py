"""The arguments of diffusers' AutoencoderKL, checked, and what follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from skipjax.models.blocks import ACTIVATIONS
from skipjax.models.unet2d.blocks import Level, OverPixels, check_kinds

# Whether a level attends.
DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}


@dataclass(frozen=True)
class AutoencoderKLArguments:
    """Architecture of an AutoencoderKL, in diffusers' argument names and with its defaults.

    Args:
        in_channels: Channels of what is encoded.
        out_channels: Channels of what is decoded.
        down_block_types: Of each level of the encoder, finest first: a name in `DOWN`.
        up_block_types: Of each level of the decoder, coarsest first: a name in `UP`.
        block_out_channels: Width of each level, finest first.
        layers_per_block: Residual blocks of a level of the encoder; the decoder has one more.
        act_fn: Activation of residual blocks: silu, swish, mish, gelu or relu.
        latent_channels: Channels of a latent.
        norm_num_groups: Groups of every group norm.
        sample_size: Pixels of the pictures it is meant for, a side or (height, width); it takes
            others.
        scaling_factor: s of what is diffused, s (z - shift); the weights do not tell it.
        shift_factor: The shift; default: none.
        latents_mean: Instead of one shift, that of each channel.
        latents_std: What each channel is divided by beside.
        force_upcast: Whether diffusers computes in float32 where asked for half precision. It is
            true of nearly all of them, and says nothing here: `dtype` does.
        use_quant_conv: Whether a 1 x 1 convolution follows the encoder.
        use_post_quant_conv: Whether one precedes the decoder.
        mid_block_add_attention: Whether there is attention in the middle of either.

    Raises:
        ValueError: For a value that no network can be built from.
    """

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: Sequence[str] = ("DownEncoderBlock2D",)
    up_block_types: Sequence[str] = ("UpDecoderBlock2D",)
    block_out_channels: Sequence[int] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int | tuple[int, int] = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: Sequence[float] | None = None
    latents_std: Sequence[float] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self):
        # JSON has no tuples, and a config must hash to be static under jit.
        for name in ("down_block_types", "up_block_types", "block_out_channels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("latents_mean", "latents_std"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(values))
        if not isinstance(self.sample_size, int):
            h, w = self.sample_size
            object.__setattr__(self, "sample_size", h if h == w else (h, w))
        self._check()

    def _check(self):
        if self.act_fn not in ACTIVATIONS:
            raise ValueError(
                f"act_fn is {self.act_fn!r}: it must be one of {', '.join(ACTIVATIONS)}"
            )
        widths, groups = self.block_out_channels, self.norm_num_groups
        check_kinds(self, DOWN, UP)
        for name in (
            "in_channels",
            "out_channels",
            "layers_per_block",
            "latent_channels",
            "norm_num_groups",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if bad := [width for width in widths if width < 1 or width % groups]:
            raise ValueError(
                f"block_out_channels holds {bad[0]}: widths must be multiples of "
                f"norm_num_groups = {groups}"
            )
        if not self.scaling_factor > 0:
            raise ValueError(f"scaling_factor is {self.scaling_factor}: it must be positive")
        for name in ("latents_mean", "latents_std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.latent_channels:
                raise ValueError(
                    f"{name} has {len(values)} numbers: there must be one for each of the "
                    f"{self.latent_channels} channels of a latent"
                )
        if self.latents_std is not None and not min(self.latents_std) > 0:
            raise ValueError(f"latents_std is {self.latents_std}: they must be positive")

    @property
    def factor(self) -> int:
        """Pixels of a picture along a side of a latent."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the latent of a picture of `sample_size`."""
        size = self.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height // self.factor, width // self.factor, self.latent_channels

    @property
    def encoder(self) -> tuple[Level, ...]:
        """Levels of the encoder, finest first."""
        attending = [DOWN[kind] for kind in self.down_block_types]
        return self._levels(self.block_out_channels, attending, 0)

    @property
    def decoder(self) -> tuple[Level, ...]:
        """Levels of the decoder, coarsest first."""
        attending = [UP[kind] for kind in self.up_block_types]
        return self._levels(self.block_out_channels[::-1], attending, 1)

    @property
    def middle(self) -> OverPixels | None:
        """What attends in the middle of either half, where anything does."""
        return self._attention if self.mid_block_add_attention else None

    @property
    def _attention(self) -> OverPixels:
        return OverPixels(None, self.norm_num_groups)

    def _levels(self, widths, attending, more: int) -> tuple[Level, ...]:
        layers, last = self.layers_per_block + more, len(widths) - 1
        return tuple(
            Level(width, layers, self._attention if yes else None, "none" if i == last else "conv")
            for i, (width, yes) in enumerate(zip(widths, attending, strict=True))
        )

    def scaled(self, z: jax.Array) -> jax.Array:
        """What is diffused of latents z [B, h, w, C]: scaling_factor (z - mean) / std."""
        mean, std = self._moments
        return (z - mean) / std * self.scaling_factor

    def unscaled(self, z: jax.Array) -> jax.Array:
        """Latents of what is diffused, z [B, h, w, C]: the inverse of `scaled`."""
        mean, std = self._moments
        return z / self.scaling_factor * std + mean

    @property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Shift and spread of each channel, [1, 1, 1, C]."""
        mean = self.latents_mean or (self.shift_factor or 0.0,) * self.latent_channels
        std = self.latents_std or (1.0,) * self.latent_channels
        mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        return mean[None, None, None], std[None, None, None]
