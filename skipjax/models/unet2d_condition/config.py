"""The arguments of diffusers' UNet2DConditionModel, checked, and what follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass

from skipjax.checks import whole
from skipjax.models.blocks import ACTIVATIONS
from skipjax.models.unet2d.blocks import PADDING, Level, check_kinds
from skipjax.models.unet2d_condition import levels
from skipjax.models.unet2d_condition.blocks import OverText

_ACCEPTED: dict[str, tuple] = {
    "mid_block_type": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None),
    "downsample_padding": tuple(PADDING),
    "act_fn": tuple(ACTIVATIONS),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None, "timestep", "identity", "projection"),
    "addition_embed_type": (None, "text_time"),
}
# Of which there may be one for each level.
_PER_LEVEL = (
    "only_cross_attention",
    "layers_per_block",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "reverse_transformer_layers_per_block",
    "attention_head_dim",
    "num_attention_heads",
)


@dataclass(frozen=True)
class UNet2DConditionArguments:
    """Architecture of a UNet2DConditionModel, in diffusers' argument names and with its defaults.

    Args:
        sample_size: Of the latents: a side of square ones, or (height, width).
        in_channels: Channels of x_t, and of what is laid beside it.
        out_channels: Channels of the output.
        center_input_sample: Whether x is in 0 .. 1, of which the network makes 2 x - 1.
        flip_sin_to_cos: Whether cosines come first among the sinusoids of the time.
        freq_shift: Of the sinusoids: 1 where the last frequency is 1 / 10000.
        down_block_types: Of each level, finest first: a name in `levels.DOWN`.
        mid_block_type: "UNetMidBlock2DCrossAttn"; "UNetMidBlock2D" for a residual block alone; or
            None for nothing.
        up_block_types: Of each level, coarsest first: a name in `levels.UP`.
        only_cross_attention: Whether attention to the text takes the place of attention to the
            pixels (the middle excepted); one for all levels, or one for each, finest first.
        block_out_channels: Width of each level, finest first.
        layers_per_block: Residual blocks of a level of the encoder, one for all or one for each;
            the decoder has one more.
        downsample_padding: Of strided convolutions: 1 is symmetric, 0 pads right and below.
        mid_block_scale_factor: What residual sums in the middle are divided by.
        dropout: Rate inside residual blocks while training, in [0, 1).
        act_fn: Activation of residual blocks: silu, swish, mish, gelu or relu.
        norm_num_groups: Groups of every group norm.
        norm_eps: Epsilon of the group norms of residual blocks and of the last one. Those in front
            of transformers have 1e-6, and layer norms 1e-5.
        cross_attention_dim: Width of the text's tokens; where there is one for each level, they
            must be equal.
        transformer_layers_per_block: Transformer blocks behind a residual block: one for all
            levels; one for each, finest first; or for a level one for each residual block.
        reverse_transformer_layers_per_block: Those of the decoder, coarsest first. Default: as in
            the encoder.
        attention_head_dim: In levels that attend to the text the NUMBER of heads, whatever its
            name says; in those that attend to pixels alone, channels of a head. One for all or one
            for each, finest first.
        num_attention_heads: Number of heads; default: as `attention_head_dim` says.
        use_linear_projection: Whether what leads into a transformer and out of it is a linear
            layer, and no 1 x 1 convolution. The numbers are the same.
        class_embed_type: None for a table of `num_class_embeds` labels, "timestep" for labels that
            are embedded like times, "identity" for embeddings that come as they are, "projection"
            for such that pass two linear layers.
        addition_embed_type: "text_time" for a pooled text and sizes beside the time (SDXL), or
            None.
        addition_time_embed_dim: Width of the sinusoids of each of those sizes.
        num_class_embeds: Number of labels; None for none, or for any of "timestep".
        upcast_attention: Whether diffusers takes logits in float32. Here they are always.
        resnet_time_scale_shift: Whether the embedding is added ("default") or scales and shifts
            ("scale_shift").
        time_embedding_dim: Width of the embedding; default: 4 times the first block's.
        time_cond_proj_dim: Width of the sinusoids of the guidance's scale, where the network is
            told it (LCM); None where it is not.
        conv_in_kernel: Side of the first convolution, odd.
        conv_out_kernel: Side of the last one.
        projection_class_embeddings_input_dim: Channels of the pooled text and of the sinusoids of
            all sizes together; or of embeddings of "projection".
        concat_channels: How many of `in_channels` are a condition that is laid beside x_t, which
            has the others; 0 for none. diffusers does not say it.

    Raises:
        ValueError: For a value that no network can be built from.
    """

    sample_size: int | tuple[int, int]
    in_channels: int = 4
    out_channels: int = 4
    center_input_sample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    down_block_types: Sequence[str] = (*3 * ("CrossAttnDownBlock2D",), "DownBlock2D")
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    up_block_types: Sequence[str] = ("UpBlock2D", *3 * ("CrossAttnUpBlock2D",))
    only_cross_attention: bool | Sequence[bool] = False
    block_out_channels: Sequence[int] = (320, 640, 1280, 1280)
    layers_per_block: int | Sequence[int] = 2
    downsample_padding: int = 1
    mid_block_scale_factor: float = 1
    dropout: float = 0.0
    act_fn: str = "silu"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int | Sequence[int] = 1280
    transformer_layers_per_block: int | Sequence[int | Sequence[int]] = 1
    reverse_transformer_layers_per_block: int | Sequence[int | Sequence[int]] | None = None
    attention_head_dim: int | Sequence[int] = 8
    num_attention_heads: int | Sequence[int] | None = None
    use_linear_projection: bool = False
    class_embed_type: str | None = None
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    num_class_embeds: int | None = None
    upcast_attention: bool = False
    resnet_time_scale_shift: str = "default"
    time_embedding_dim: int | None = None
    time_cond_proj_dim: int | None = None
    conv_in_kernel: int = 3
    conv_out_kernel: int = 3
    projection_class_embeddings_input_dim: int | None = None
    concat_channels: int = 0

    def __post_init__(self):
        # JSON has no tuples, and a config must hash to be static under jit.
        for name in ("down_block_types", "up_block_types", "block_out_channels", *_PER_LEVEL):
            object.__setattr__(self, name, _hashable(getattr(self, name)))
        if not isinstance(self.sample_size, int):
            h, w = self.sample_size
            object.__setattr__(self, "sample_size", h if h == w else (h, w))
        self._check_levels()
        self._check_values()

    def _check_levels(self) -> None:
        count = len(self.block_out_channels)
        check_kinds(self, levels.DOWN, levels.UP)
        for name in _PER_LEVEL:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != count:
                raise ValueError(
                    f"{name} has {len(value)} entries: there must be one for each of the {count} "
                    "levels, or one for all"
                )

    def _check_values(self) -> None:
        for name, accepted in _ACCEPTED.items():
            if getattr(self, name) not in accepted:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: it must be one of "
                    f"{', '.join(map(str, accepted))}"
                )
        least = {"in_channels": 1, "out_channels": 1, "norm_num_groups": 1}
        for name in ("num_class_embeds", "time_cond_proj_dim", "time_embedding_dim"):
            if getattr(self, name) is not None:
                least[name] = 1
        if self.addition_embed_type is not None:
            least |= {"addition_time_embed_dim": 1, "projection_class_embeddings_input_dim": 1}
        if self.class_embed_type == "projection":
            least["projection_class_embeddings_input_dim"] = 1
        for name, lowest in least.items():
            whole(name, getattr(self, name), lowest)
        for name in ("conv_in_kernel", "conv_out_kernel"):
            if (side := getattr(self, name)) < 1 or side % 2 == 0:
                raise ValueError(f"{name} is {side}: it must be odd, 1 or more")
        groups = self.norm_num_groups
        if bad := [width for width in self.block_out_channels if width < 1 or width % groups]:
            raise ValueError(
                f"block_out_channels holds {bad[0]}: widths must be multiples of "
                f"norm_num_groups = {groups}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: it must be in [0, 1)")
        if not 0 <= self.concat_channels < self.in_channels:
            raise ValueError(
                f"concat_channels is {self.concat_channels}: it must be 0 .. "
                f"{self.in_channels - 1}, which leaves x a channel of the {self.in_channels}"
            )
        dims = self.cross_attention_dim
        if isinstance(dims, tuple) and len(set(dims)) > 1:
            raise ValueError(
                f"cross_attention_dim is {dims}: all levels must read a text of one width"
            )
        _ = self.encoder, self.middle, self.decoder  # refuse what they cannot be built from

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one latent, without what is laid beside it."""
        size = self.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height, width, self.in_channels - self.concat_channels

    @property
    def factor(self) -> int:
        """Pixels of the latent along a side of one of the coarsest level."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def multiple(self) -> int:
        """What the sides of latents must be multiples of: any are taken where padding is
        symmetric, as odd ones are then met again on the way up.
        """
        return 1 if self.downsample_padding == 1 else self.factor

    @property
    def text_channels(self) -> int:
        """Width of the text's tokens."""
        dims = self.cross_attention_dim
        return dims[0] if isinstance(dims, Sequence) else dims

    @property
    def embedding_channels(self) -> int:
        """Width of the embedding of the time and what else is told."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def encoder(self) -> tuple[Level, ...]:
        """Levels of the encoder, finest first."""
        return levels.encoder(self)

    @property
    def middle(self) -> OverText | None:
        """What attends in the middle, where anything does."""
        return levels.middle(self)

    @property
    def decoder(self) -> tuple[Level, ...]:
        """Levels of the decoder, coarsest first."""
        return levels.decoder(self)

    @property
    def takes(self) -> tuple[str, ...]:
        """Keys of the condition."""
        attending = (*self.encoder, *self.decoder)
        reads = self.middle or any(isinstance(level.attends, OverText) for level in attending)
        told = {"timestep": ("label",), "identity": ("embedding",), "projection": ("embedding",)}
        labelled = () if self.num_class_embeds is None else ("label",)
        return (
            *(("text",) if reads else ()),
            *(("pooled", "time_ids") if self.addition_embed_type else ()),
            *(("guidance",) if self.time_cond_proj_dim else ()),
            *told.get(str(self.class_embed_type), labelled),
            *(("concat",) if self.concat_channels else ()),
        )

    @property
    def num_classes(self) -> int | None:
        """Number of labels; None for a network that takes none, or any."""
        return self.num_class_embeds if "label" in self.takes else None


def _hashable(value):
    return tuple(map(_hashable, value)) if isinstance(value, (list, tuple)) else value
