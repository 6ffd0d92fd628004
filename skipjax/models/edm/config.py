"""What fixes the shape of EDM's U-Nets, as frozen data, in the words of their own arguments."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from skipjax.models.config import FlaxConfig, evaluate

# Least value of whole numbers; more than the most is no network that fits a device.
_COUNTS = {"img_resolution": 1, "model_channels": 1, "label_dim": 0}
_COUNTS |= {"in_channels": 1, "out_channels": 1, "img_channels": 1, "augment_dim": 0}
_COUNTS |= {"channels_per_head": 1}
_MOST, _MOST_BLOCKS = 2**20, 99


@dataclass(frozen=True)
class EdmConfig(FlaxConfig):
    """What all of EDM's and EDM2's U-Nets have in common.

    A label is a class 0 .. label_dim-1; `label_dim` itself stands for none, a one-hot vector of
    zeros.

    Args:
        img_resolution: Pixels along a side of the pictures that it is meant for.
        label_dim: Number of classes; 0 for an unconditional network.
        model_channels: Base width.
        channel_mult: Width of each level in units of `model_channels`; one level per entry.
        num_blocks: Residual blocks per level of the encoder (the decoder has one more).
        attn_resolutions: Sides, in pixels of a picture of `img_resolution`, at which there is
            attention.
        dropout: Rate inside residual blocks while training, in [0, 1).

    Raises:
        ValueError: For a value that no network can be built from.
    """

    img_resolution: int
    label_dim: int = 0
    model_channels: int = 192
    channel_mult: Sequence[int] = (1, 2, 3, 4)
    num_blocks: int = 3
    attn_resolutions: Sequence[int] = (16, 8)
    dropout: float = 0.0

    accepts: ClassVar[tuple[str, ...]] = ("label",)

    def __post_init__(self):
        for field in fields(self):  # JSON has no tuples, and a config must hash
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))
        if not self.channel_mult:
            raise ValueError("channel_mult is empty: give one width per level, e.g. (1, 2, 2)")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: it must be in [0, 1)")
        for name, least in _COUNTS.items():
            if not least <= (value := getattr(self, name, least)) <= _MOST:
                raise ValueError(f"{name} is {value}: it must be in {least} .. {_MOST}")
        if not 1 <= self.num_blocks <= _MOST_BLOCKS:
            raise ValueError(f"num_blocks is {self.num_blocks}: it must be in 1 .. {_MOST_BLOCKS}")
        if self.img_resolution % self.factor:
            raise ValueError(
                f"img_resolution is {self.img_resolution}: it must be a multiple of {self.factor} "
                f"for {len(self.channel_mult)} levels"
            )
        widths = (*self.channels, self.noise_channels, self.embedding_channels)
        if any(not 4 <= width <= _MOST for width in widths):
            raise ValueError(
                f"levels and embeddings have {widths} channels: each must be in 4 .. {_MOST}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one sample of what is diffused."""
        raise NotImplementedError

    @property
    def channels(self) -> tuple[int, ...]:
        """Width of each level, finest first."""
        return tuple(int(self.model_channels * mult) for mult in self.channel_mult)

    @property
    def noise_channels(self) -> int:
        """Width of the embedding of the noise level alone."""
        return self.model_channels

    @property
    def embedding_channels(self) -> int:
        """Width of the embedding of the noise level and the class."""
        raise NotImplementedError

    @property
    def sides(self) -> tuple[int, ...]:
        """Pixels along a side at each level, finest first: what blocks are named by."""
        return tuple(self.img_resolution >> level for level in range(len(self.channel_mult)))

    @property
    def factor(self) -> int:
        """Pixels of the picture along a side of one of the coarsest level."""
        return 2 ** (len(self.channel_mult) - 1)

    def example(self) -> tuple[jax.Array | None, ...]:
        """The least arguments that the module takes: x, t and y."""
        y = jnp.zeros(1, jnp.int32) if self.label_dim else None
        return jnp.zeros((1, self.factor, self.factor, self.shape[-1])), jnp.ones(1), y

    def apply(
        self,
        params: Any,
        x: jax.Array,
        t: jax.Array,
        condition: dict[str, jax.Array] | None = None,
        *,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        dropout: jax.Array | None = None,
    ) -> jax.Array:
        """The raw output F(c_in x, c_noise).

        Args:
            params: As `init` makes them.
            x: Noisy samples times c_in, float [B, H, W, C].
            t: c_noise, float [B].
            condition: What it `accepts`, as far as it does: "label" int [B] in 0 .. label_dim,
                and "augment" float [B, augment_dim]; None for none.
            dtype: To compute in: float32, bfloat16 or float16.
            remat: Whether blocks are computed again in the backward pass, to save memory.
            dropout: Key of the dropout of training; default: none.

        Returns:
            float32 [B, H, W, C], or of twice as many channels where a variance is learned.

        Raises:
            ValueError: For a condition that is missing, not wanted, or of another shape.
        """
        given = dict(condition or {})
        told = tuple(given.pop(key, None) for key in self.accepts)
        if given:
            raise ValueError(
                f"the condition holds {', '.join(given)}: this network takes "
                f"{' and '.join(self.accepts)}"
            )
        return evaluate(self.module(dtype, remat), params, (x, t, *told), dropout)

    def check(self, x: jax.Array, y: jax.Array | None) -> None:
        """Checks what the module is given.

        Raises:
            ValueError: If x has sizes that it cannot take, or labels are missing or not wanted.
        """
        channels = self.shape[-1]
        if x.ndim != 4 or x.shape[-1] != channels:
            raise ValueError(
                f"x is {list(x.shape)}: it must be [batch, height, width, {channels}]"
            )
        if x.shape[1] % self.factor or x.shape[2] % self.factor:
            raise ValueError(
                f"x is {x.shape[1]} x {x.shape[2]} pixels: height and width must be multiples of "
                f"{self.factor} for the {len(self.channel_mult)} levels of the network"
            )
        if (y is None) != (not self.label_dim):
            kind = "class-conditional" if self.label_dim else "unconditional"
            raise ValueError(
                f"the network is {kind}, and label is {'missing' if y is None else 'given'}"
            )

    def one_hot(self, y: jax.Array) -> jax.Array:
        """Labels [B] as vectors, float32 [B, label_dim]; zeros for the label that is no class."""
        return jax.nn.one_hot(y, self.label_dim, dtype=jnp.float32)


@dataclass(frozen=True)
class PixelConfig(EdmConfig):
    """What EDM's two U-Nets have besides.

    Args:
        in_channels: Channels of x.
        out_channels: Channels of the output; of a network whose variance is learned, twice as
            many.
        augment_dim: Numbers that say how training pictures were changed; 0 for none. Unless a
            condition has them under "augment", they are zero.
        channel_mult_emb: Width of the embedding, in units of `model_channels`.
        label_dropout: Part of the labels that training left out, in [0, 1).
    """

    in_channels: int = 3
    out_channels: int = 3
    augment_dim: int = 0
    channel_mult_emb: int = 4
    label_dropout: float = 0.0

    accepts: ClassVar[tuple[str, ...]] = ("label", "augment")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one picture."""
        return self.img_resolution, self.img_resolution, self.in_channels

    @property
    def embedding_channels(self) -> int:
        """Width of the embedding of the noise level and the class."""
        return self.model_channels * self.channel_mult_emb

    def augmented(self, augment: jax.Array | None, batch: int) -> jax.Array:
        """What the network is told of how pictures were changed, float32 [B, augment_dim].

        Raises:
            ValueError: If it is of another shape.
        """
        wanted = (batch, self.augment_dim)
        if augment is None:
            return jnp.zeros(wanted)
        if augment.shape != wanted or not self.augment_dim:
            raise ValueError(f"augment is {list(augment.shape)}: it must be {list(wanted)}")
        return augment.astype(jnp.float32)


def check_taps(taps: Sequence[float]) -> None:
    """Refuses a resampling filter that does not halve a side.

    Raises:
        ValueError: Unless it is an even number of taps, whose sum is not 0.
    """
    if len(taps) < 2 or len(taps) % 2 or not sum(taps):
        raise ValueError(
            f"resample_filter is {taps}: it must be an even number of taps, as (1, 1) or "
            "(1, 3, 3, 1)"
        )
