"""The arguments of diffusers' UNet2DModel, checked, and what follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass

from skipjax.models.blocks import ACTIVATIONS
from skipjax.models.unet2d.blocks import PADDING, Level, OverPixels, check_kinds

# Whether a level attends, and how it goes on to the next size; None as the config says.
DOWN = {
    "DownBlock2D": (False, "conv"),
    "AttnDownBlock2D": (True, None),
    "ResnetDownsampleBlock2D": (False, "resnet"),
}
UP = {
    "UpBlock2D": (False, "conv"),
    "AttnUpBlock2D": (True, None),
    "ResnetUpsampleBlock2D": (False, "resnet"),
}
_ACCEPTED: dict[str, tuple] = {
    "time_embedding_type": ("positional", "fourier", "learned"),
    "mid_block_type": ("UNetMidBlock2D", None),
    "downsample_padding": tuple(PADDING),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "act_fn": tuple(ACTIVATIONS),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None, "timestep", "identity"),
}


@dataclass(frozen=True)
class UNet2DArguments:
    """Architecture of a UNet2DModel, in diffusers' argument names and with its defaults.

    Args:
        sample_size: Pixels of the pictures it is meant for: a side of square ones, or (height,
            width).
        in_channels: Channels of x_t, and of what is laid beside it.
        out_channels: Channels of the output; twice those of x_t where the variance is learned.
        center_input_sample: Whether x is in 0 .. 1, of which the network makes 2 x - 1.
        time_embedding_type: "positional" for sinusoids; "fourier" for random frequencies of log t,
            with an output that is divided by t; "learned" for a table of `num_train_timesteps`
            whole times.
        time_embedding_dim: Width of the embedding; default: 4 times the first block's.
        freq_shift: Of sinusoids: 1 where the last frequency is 1 / 10000, as in DDPM.
        flip_sin_to_cos: Of sinusoids: whether cosines come first. DDPM has sines first.
        down_block_types: Of each level, finest first: a name in `DOWN`.
        mid_block_type: "UNetMidBlock2D", or None for none.
        up_block_types: Of each level, coarsest first: a name in `UP`.
        block_out_channels: Width of each level, finest first.
        layers_per_block: Residual blocks of a level of the encoder; the decoder has one more.
        mid_block_scale_factor: What residual sums in the middle are divided by.
        downsample_padding: Of strided convolutions: 1 is symmetric, 0 pads right and below, as
            in DDPM.
        downsample_type: Of levels with attention: "conv", or "resnet" for a residual block.
        upsample_type: Likewise.
        dropout: Rate inside residual blocks while training, in [0, 1).
        act_fn: Activation of residual blocks: silu, swish, mish, gelu or relu.
        attention_head_dim: Channels of an attention head; None for one head of all.
        norm_num_groups: Groups of every group norm.
        attn_norm_num_groups: Of the norm before attention in the middle. Default: as all others,
            but no norm where the embedding scales and shifts.
        norm_eps: Epsilon of every group norm.
        resnet_time_scale_shift: Whether the embedding is added ("default") or scales and shifts
            ("scale_shift").
        add_attention: Whether there is attention in the middle.
        class_embed_type: None for a table of `num_class_embeds` labels, "timestep" for labels that
            are embedded like times, "identity" for embeddings that come as they are.
        num_class_embeds: Number of labels; None for none, or for any of "timestep".
        num_train_timesteps: Rows of the table of "learned" times.
        concat_channels: How many of `in_channels` are a condition that is laid beside x_t, which
            has the others; 0 for none. diffusers does not say it.

    Raises:
        ValueError: For a value that no network can be built from.
    """

    sample_size: int | tuple[int, int]
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    freq_shift: float = 0
    flip_sin_to_cos: bool = True
    down_block_types: Sequence[str] = ("DownBlock2D", *3 * ("AttnDownBlock2D",))
    mid_block_type: str | None = "UNetMidBlock2D"
    up_block_types: Sequence[str] = (*3 * ("AttnUpBlock2D",), "UpBlock2D")
    block_out_channels: Sequence[int] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1
    downsample_padding: int = 1
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    dropout: float = 0.0
    act_fn: str = "silu"
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"
    add_attention: bool = True
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    num_train_timesteps: int | None = None
    concat_channels: int = 0

    def __post_init__(self):
        # JSON has no tuples, and a config must hash to be static under jit.
        for name in ("down_block_types", "up_block_types", "block_out_channels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not isinstance(self.sample_size, int):
            h, w = self.sample_size
            object.__setattr__(self, "sample_size", h if h == w else (h, w))
        self._check()

    def _check(self):
        for name, accepted in _ACCEPTED.items():
            if getattr(self, name) not in accepted:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: it must be one of "
                    f"{', '.join(map(str, accepted))}"
                )
        widths, groups = self.block_out_channels, self.norm_num_groups
        check_kinds(self, DOWN, UP)
        for name in ("in_channels", "out_channels", "layers_per_block", "norm_num_groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if bad := [width for width in widths if width < 1 or width % groups]:
            raise ValueError(
                f"block_out_channels holds {bad[0]}: widths must be multiples of "
                f"norm_num_groups = {groups}"
            )
        in_middle = self.attn_norm_num_groups
        if in_middle is not None and (in_middle < 1 or widths[-1] % in_middle):
            raise ValueError(
                f"attn_norm_num_groups is {in_middle}: it must divide the last width, {widths[-1]}"
            )
        head, levels = self.attention_head_dim, (*self.encoder, *self.decoder)
        attending = [level.channels for level in levels if level.attends is not None]
        attending += [widths[-1]] if self.add_attention else []
        least = min(attending, default=max(widths))
        if head is not None and not 1 <= head <= least:
            raise ValueError(
                f"attention_head_dim is {head}: it must be in 1 .. {least}, the least width with "
                "attention, or None for one head"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: it must be in [0, 1)")
        if self.time_embedding_type == "learned" and not self.num_train_timesteps:
            raise ValueError(
                "time_embedding_type is 'learned', and num_train_timesteps is "
                f"{self.num_train_timesteps}: say how many times there are"
            )
        if self.num_class_embeds is not None and self.num_class_embeds < 1:
            raise ValueError(
                f"num_class_embeds is {self.num_class_embeds}: at least 1, or None for no labels"
            )
        if not 0 <= self.concat_channels < self.in_channels:
            raise ValueError(
                f"concat_channels is {self.concat_channels}: it must be 0 .. "
                f"{self.in_channels - 1}, which leaves x a channel of the {self.in_channels}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one picture, without what is laid beside it."""
        size = self.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height, width, self.in_channels - self.concat_channels

    @property
    def factor(self) -> int:
        """Pixels of the picture along a side of one of the coarsest level."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def encoder(self) -> tuple[Level, ...]:
        """Levels of the encoder, finest first."""
        kinds = [DOWN[kind] for kind in self.down_block_types]
        return self._levels(self.block_out_channels, kinds, self.downsample_type, 0)

    @property
    def decoder(self) -> tuple[Level, ...]:
        """Levels of the decoder, coarsest first."""
        kinds = [UP[kind] for kind in self.up_block_types]
        return self._levels(self.block_out_channels[::-1], kinds, self.upsample_type, 1)

    def _levels(self, widths, kinds, resample: str, more: int) -> tuple[Level, ...]:
        ways = [way or resample for _, way in kinds[:-1]] + ["none"]
        layers = self.layers_per_block + more
        over_pixels = OverPixels(self.attention_head_dim, self.norm_num_groups)
        return tuple(
            Level(width, layers, over_pixels if attends else None, way)
            for width, (attends, _), way in zip(widths, kinds, ways, strict=True)
        )

    @property
    def middle(self) -> OverPixels | None:
        """Attention in the middle, where there is any."""
        if not self.add_attention:
            return None
        plain = self.resnet_time_scale_shift == "default"
        groups = self.attn_norm_num_groups or (self.norm_num_groups if plain else None)
        return OverPixels(self.attention_head_dim, groups, self.mid_block_scale_factor)

    @property
    def embedding_channels(self) -> int:
        """Width of the time and class embedding."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def takes(self) -> tuple[str, ...]:
        """Keys of the condition."""
        told = {"timestep": ("label",), "identity": ("embedding",)}
        labelled = ("label",) if self.num_class_embeds is not None else ()
        beside = ("concat",) if self.concat_channels else ()
        return (*told.get(str(self.class_embed_type), labelled), *beside)

    @property
    def num_classes(self) -> int | None:
        """Number of labels; None for a network that takes none, or any."""
        return self.num_class_embeds if "label" in self.takes else None
