"""Transformers of latents: DiT (Peebles & Xie 2023, arXiv:2212.09748), and SiT (Ma et al. 2024,
arXiv:2401.08740), which is the same network with another meaning of its output.

Squares of p x p become tokens, attend each other, and are laid out again. Time and class reach the
tokens through adaLN-Zero alone: they scale, shift and gate what every block does.

Facebook's code and diffusers' build networks that look alike and are not. A config tells them
apart, by fields whose defaults are Facebook's; `DIFFUSERS` holds the other ones.

Blocks compute in `dtype`; norms, softmax, embeddings and the last layer in float32.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from skipjax.checks import whole
from skipjax.models.config import FlaxConfig, evaluate
from skipjax.models.dit.blocks import Block, Embedder, FinalLayer, Squares, sinusoids

# Depth, width and heads of the paper's sizes (table 1), which come with squares of 2, 4 or 8.
SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
# What diffusers' DiTTransformer2DModel and its pipeline do otherwise than Facebook's code.
DIFFUSERS: dict[str, Any] = {
    "positions": "computed",
    "embedders": "repeated",
    "freq_shift": 1.0,
    "mlp_norm_eps": 1e-5,
    "guided_channels": None,
}


@dataclass(frozen=True)
class DiTConfig(FlaxConfig):
    """Architecture of a DiT or SiT, in the argument names of Facebook's code where it has them.

    Args:
        sample_size: Of the latents: a side of square ones, or (height, width).
        hidden_size: Width of a token, a multiple of 4 and of `num_heads`.
        depth: Number of blocks.
        num_heads: Attention heads.
        patch_size: Side of the squares that become tokens; it divides the sample's sides.
        in_channels: Channels of x_t.
        num_classes: Number of labels, the last of them that which stands for no class.
        mlp_ratio: Width of the MLPs in units of `hidden_size`.
        sigma: The second half of the channels that the last layer makes, where a variance is
            learned: "given" beside the prediction (DiT), "dropped" (SiT's released network), or
            "none" (there is no such half).
        positions: Sinusoids of a token's place: "saved" among the weights, for `sample_size`
            alone, and held fixed in training; or "computed", for samples of any size, whose
            places are stretched over those of `sample_size`.
        embedders: Of time and label: "shared" by all blocks, or "repeated", one in each.
        freq_shift: s of the sinusoids of the time, whose frequencies are 10000^(-i / (128 - s)).
        mlp_norm_eps: Epsilon of the norm in front of the MLPs; that of the others is 1e-6.
        qkv_bias: Whether queries, keys and values have a bias.
        exact_gelu: Whether the GELU is exact, in place of tanh's approximation.
        dropout: Rate behind attention and inside the MLPs while training, in [0, 1).
        guided_channels: Number of leading channels that guidance without a classifier mixes where
            it is not told otherwise: 3 of 4 in Facebook's code, and None, which is all, in
            diffusers'.

    Raises:
        ValueError: For a value that no network can be built from.
    """

    sample_size: int | tuple[int, int]
    hidden_size: int
    depth: int
    num_heads: int
    patch_size: int = 2
    in_channels: int = 4
    num_classes: int = 1001
    mlp_ratio: float = 4.0
    sigma: Literal["given", "dropped", "none"] = "given"
    positions: Literal["saved", "computed"] = "saved"
    embedders: Literal["shared", "repeated"] = "shared"
    freq_shift: float = 0.0
    mlp_norm_eps: float = 1e-6
    qkv_bias: bool = True
    exact_gelu: bool = False
    dropout: float = 0.0
    guided_channels: int | None = 3

    def __post_init__(self):
        if not isinstance(self.sample_size, int):
            h, w = self.sample_size
            object.__setattr__(self, "sample_size", h if h == w else (h, w))
        names = ("hidden_size", "depth", "num_heads", "patch_size", "in_channels", "num_classes")
        for name in (*names, *(() if self.guided_channels is None else ("guided_channels",))):
            whole(name, getattr(self, name), 1)
        for name, hint in get_type_hints(type(self)).items():
            value, known = getattr(self, name), get_args(hint)
            if get_origin(hint) is Literal and value not in known:
                raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(known)}")
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise ValueError(
                f"hidden_size is {self.hidden_size}: it must be a multiple of num_heads, "
                f"{self.num_heads}, and of 4"
            )
        if any(side < 1 or side % self.patch_size for side in self.size):
            raise ValueError(
                f"sample_size is {self.sample_size}: it must be a multiple of patch_size, "
                f"{self.patch_size}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: it must be in [0, 1)")
        if not self.mlp_ratio > 0:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}: it must be above 0")

    @classmethod
    def named(cls, name: str, sample_size: int | tuple[int, int], **others: Any) -> "DiTConfig":
        """A network by the paper's name for its size.

        Args:
            name: "S/2", "B/4", "L/8", "XL/2", ...; "DiT-" or "SiT-" may stand before it.
            sample_size: Of the latents: 32 for pictures of 256 pixels, 64 for 512.
            others: Further fields; `**DIFFUSERS` for a network of diffusers'.

        Raises:
            ValueError: If the paper has no such size.
        """
        size, _, patch = name.removeprefix("DiT-").removeprefix("SiT-").partition("/")
        if size not in SIZES or patch not in ("2", "4", "8"):
            raise ValueError(
                f"name is {name!r}: it must be one of {', '.join(SIZES)} and the side of a "
                "square, 2, 4 or 8, such as 'XL/2'"
            )
        depth, width, heads = SIZES[size]
        return cls(sample_size, width, depth, heads, int(patch), **others)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the latents it is meant for."""
        size = self.sample_size
        return (size, size) if isinstance(size, int) else size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one latent."""
        return *self.size, self.in_channels

    @property
    def out_channels(self) -> int:
        """Channels of the output: twice those of x where a variance is given."""
        return self.in_channels * (2 if self.sigma == "given" else 1)

    @property
    def fixed(self) -> tuple[str, ...]:
        """Names of params that training leaves as they are."""
        return ("pos_embed",) if self.positions == "saved" else ()

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
        """The output for noisy latents.

        Args:
            params: As `init` makes them.
            x: Noisy latents, float [B, H, W, C].
            t: Times as the process tells them, float [B].
            condition: "label" int [B], each in 0 .. num_classes-1.
            dtype: To compute in: float32, bfloat16 or float16.
            remat: Whether blocks are computed again in the backward pass, to save memory.
            dropout: Key of the dropout of training; default: none.

        Returns:
            float32 [B, H, W, out_channels].

        Raises:
            ValueError: For a condition without labels or with more, or latents of a size that the
                network cannot take.
        """
        told = dict(condition or {})
        y = told.pop("label", None)
        if y is None or told:
            raise ValueError(
                f"the condition holds {', '.join(condition or {}) or 'nothing'}: this network "
                "takes label, and nothing else"
            )
        return evaluate(self.module(dtype, remat), params, (x, t, y), dropout)

    def module(self, dtype: DTypeLike = jnp.float32, remat: bool = False) -> "DiT":
        """The Flax module."""
        return DiT(self, jnp.dtype(dtype), remat)

    def example(self) -> tuple[jax.Array, ...]:
        """The least arguments that the module takes: x, t and y."""
        return jnp.zeros((1, *self.shape)), jnp.zeros(1), jnp.zeros(1, jnp.int32)


class DiT(nn.Module):
    """The network: [prediction, variance] on the channels where a variance is given.

    Args:
        config: The architecture.
        dtype: What the blocks compute in. Params are made in float32, and may be given in any
            float dtype.
        remat: Whether blocks are computed again in the backward pass, which then needs less
            memory and more time; params and results stay the same.
    """

    config: DiTConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, y: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """Evaluates the network.

        Args:
            x: Noisy latents, [B, H, W, in_channels].
            t: Times as the process tells them, float [B], may be fractional.
            y: Labels, int [B] in 0 .. num_classes-1.
            train: Whether dropout is active; needs `rngs={"dropout": key}`.

        Returns:
            float32 [B, H, W, out_channels].

        Raises:
            ValueError: If x is of a size that the network cannot take.
        """
        config, p, width = self.config, self.config.patch_size, self.config.hidden_size
        _check(config, x)
        grid = tuple(side // p for side in x.shape[1:3])
        h = Squares(p, width, self.dtype, name="x_embedder_proj")(x)
        h = h + self._places(grid).astype(self.dtype)

        shared = config.embedders == "shared"
        names = ["embedder"] if shared else [f"embedder_{i}" for i in range(config.depth)]
        embedder = partial(Embedder, config.num_classes, width, config.freq_shift)
        told = [embedder(name=name)(t, y) for name in names]
        block = partial(
            nn.remat(Block) if self.remat else Block,
            config.num_heads,
            int(config.mlp_ratio * width),
            config.mlp_norm_eps,
            config.qkv_bias,
            config.exact_gelu,
            config.dropout if train else 0.0,
            self.dtype,
        )
        for i in range(config.depth):
            h = block(name=f"blocks_{i}")(h, told[0 if shared else i])
        channels = config.in_channels * (1 if config.sigma == "none" else 2)
        h = FinalLayer(p * p * channels, name="final_layer")(h, told[0])

        h = h.reshape(-1, *grid, p, p, channels).swapaxes(2, 3)
        return h.reshape(*x.shape[:3], channels)[..., : config.out_channels]

    def _places(self, grid: tuple[int, ...]) -> jax.Array:
        """Sinusoids of the tokens' places, [1, N, hidden_size]."""
        config = self.config
        extent = tuple(side // config.patch_size for side in config.size)
        if config.positions == "computed":
            return jnp.asarray(sinusoids(config.hidden_size, grid, extent))[None]
        ours = self.param("pos_embed", lambda _: sinusoids(config.hidden_size, grid, extent)[None])
        return jax.lax.stop_gradient(jnp.asarray(ours))


def _check(config: DiTConfig, x: jax.Array) -> None:
    """Checks that x is [B, H, W, C] of a size that the network can take."""
    if x.ndim != 4 or x.shape[-1] != config.in_channels:
        raise ValueError(
            f"x is {list(x.shape)}: it must be [batch, height, width, {config.in_channels}]"
        )
    height, width = x.shape[1:3]
    if height % config.patch_size or width % config.patch_size:
        raise ValueError(
            f"x is {height} x {width}: height and width must be multiples of patch_size, "
            f"{config.patch_size}"
        )
    if config.positions == "saved" and (height, width) != config.size:
        raise ValueError(
            f"x is {height} x {width}: the places of {' x '.join(map(str, config.size))} are "
            "saved with the weights, and no others. Keep to that size; or give a config with "
            "positions = 'computed', which stretches them"
        )
