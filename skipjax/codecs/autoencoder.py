"""Latents that are diffused instead of pictures, by diffusers' autoencoders.

Pictures are decoded one at a time, by one program whose memory is that of one picture: exactly as
all together, since no layer sees two. On a mesh every device decodes its own.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from skipjax import sharding
from skipjax.checks import as_dtype, whole
from skipjax.codecs.latents import check_size
from skipjax.codecs.tiles import in_tiles
from skipjax.models import AutoencoderKLConfig, AutoencoderTinyConfig, param_shapes

LOG_VARIANCE = -30.0, 20.0  # beyond which it is cut off
register = partial(
    jax.tree_util.register_dataclass,
    data_fields=["params"],
    meta_fields=["network", "dtype", "tile"],
)


@dataclass(frozen=True)
class Autoencoder:
    """What autoencoders have in common.

    Args:
        params: Of both halves, as `init` makes them; in float16 too, which nothing is computed in.
        network: The architecture.
        dtype: To compute in: "float32" or "bfloat16", with norms and softmax in float32 all the
            same. Not in float16, in which those of Stable Diffusion XL overflow.
        tile: Side in latent pixels, at least 8, of squares that larger pictures are decoded and
            encoded by, of which neighbours share a quarter and fade into each other there: less
            memory, but not the same pictures, as norms and attention then see no further than a
            square. Default: whole pictures.

    Raises:
        ValueError: For another dtype, or a tile too small.
    """

    params: Any = field(default=None, repr=False)
    network: Any = None
    dtype: str = "float32"
    tile: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "dtype", as_dtype(self.dtype).name)
        if self.tile is not None:
            object.__setattr__(self, "tile", whole("tile", self.tile, 8))

    @property
    def factor(self) -> int:
        """Pixels of a picture along a side of a latent."""
        return self.network.factor

    def init(self, key: jax.Array) -> Any:
        """Params drawn at random, nested dict of float32 arrays."""
        return self.network.init(key)

    def shape(self, diffused: tuple[int, ...], size: tuple[int, int]) -> tuple[int, ...]:
        """The latents of pictures of `size`, (height, width), which the factor must divide.

        Raises:
            ValueError: If it does not.
        """
        height, width = check_size(size, self.factor)
        return *diffused[:-3], height // self.factor, width // self.factor, diffused[-1]

    def decode(self, z: jax.Array) -> jax.Array:
        """Samples, about [-1, 1], of what is diffused.

        Args:
            z: Scaled latents, float [B, h, w, C].

        Returns:
            float32 [B, H, W, out_channels], H = h factor and W = w factor.

        Raises:
            ValueError: For another shape, or numbers that are not float.
        """
        channels = self.network.latent_channels
        _check("latents", z, f"decodes [B, h, w, {channels}]", channels)
        return self._run("decode", z)

    def memory(self, shape: tuple[int, ...]) -> int | None:
        """Bytes that decoding takes on a device, weights and pictures included; None where that
        is not known. The program is compiled to find it out, and not run.

        Args:
            shape: Of scaled latents, [B, h, w, C].
        """
        params = param_shapes(self.network) if self.params is None else self.params
        mesh = sharding.mesh_of(params)
        over = None if mesh is None else sharding.replicated(mesh)
        z = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=over)
        lowered = program.lower(params, z, mesh=mesh, **self._static("decode"))
        return sharding.memory(lowered.compile())

    def _encoded(self, x: jax.Array) -> jax.Array:
        channels = self.network.in_channels
        _check("samples", x, f"encodes [B, H, W, {channels}]", channels)
        check_size((x.shape[1], x.shape[2]), self.factor)
        return self._run("encode", x)

    def _run(self, half: Literal["encode", "decode"], x: jax.Array) -> jax.Array:
        params, x = sharding.automatic((self.params, x))
        # Latents are small: they go where the weights are, if these are on several devices.
        mesh = sharding.mesh_of(params) or sharding.mesh_of(x)
        if mesh is not None:
            whole = sharding.replicated(mesh)
            if sharding.mesh_of(params) != mesh:
                params = jax.device_put(params, whole)
            if half == "decode" or sharding.mesh_of(x) != mesh:
                x = jax.device_put(x, whole)
        return program(params, x, mesh=mesh, **self._static(half))

    def _static(self, half: Literal["encode", "decode"]) -> dict[str, Any]:
        return {"half": half, "network": self.network, "dtype": self.dtype, "tile": self.tile}


@register
@dataclass(frozen=True)
class AutoencoderKL(Autoencoder):
    """The autoencoder of Stable Diffusion and its like, which says a normal distribution of
    latents; `Autoencoder` has the arguments.
    """

    network: AutoencoderKLConfig = AutoencoderKLConfig()

    def encode_moments(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log variance of latents, not scaled; the latter within -30 .. 20.

        Args:
            x: Samples in [-1, 1], float [B, H, W, in_channels]; H and W multiples of `factor`.

        Returns:
            Two of float32 [B, h, w, latent_channels].

        Raises:
            ValueError: For another shape, or numbers that are not float.
        """
        mean, log_variance = jnp.split(self._encoded(x), 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCE)

    def encode(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """What is diffused: s (mean + std noise - shift), float32 [B, h, w, latent_channels].

        Args:
            x: As in `encode_moments`.
            key: Of the noise. Default: none of it, the mode.

        Raises:
            ValueError: As `encode_moments` does.
        """
        z, log_variance = self.encode_moments(x)
        if key is not None:
            z = z + jnp.exp(log_variance / 2) * jax.random.normal(key, z.shape)
        return self.network.scaled(z)


@register
@dataclass(frozen=True)
class AutoencoderTiny(Autoencoder):
    """TAESD: latents like those of an `AutoencoderKL`, nearly as good, at a hundredth of the work;
    `Autoencoder` has the arguments.
    """

    network: AutoencoderTinyConfig = AutoencoderTinyConfig()

    def encode(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """What is diffused, float32 [B, h, w, latent_channels]; nothing in it is random.

        Args:
            x: Samples in [-1, 1], float [B, H, W, in_channels]; H and W multiples of `factor`.
            key: Not used.

        Raises:
            ValueError: For another shape, or numbers that are not float.
        """
        return self.network.scaled(self._encoded(x))


@partial(jax.jit, static_argnames=("half", "network", "dtype", "tile", "mesh"))
def program(
    params: Any,
    x: jax.Array,
    *,
    half: Literal["encode", "decode"],
    network: AutoencoderKLConfig | AutoencoderTinyConfig,
    dtype: str,
    tile: int | None,
    mesh: Mesh | None,
) -> jax.Array:
    """What one half of an autoencoder makes of x [B, ...], a picture at a time.

    Args:
        params: Of both halves.
        x: Samples, or what is diffused.
        half: Which.
        network: The architecture.
        dtype: To compute in.
        tile: As `Autoencoder` has it.
        mesh: Over all devices of which pictures are spread; None for one device.
    """
    scales = (1, network.factor) if half == "decode" else (network.factor, 1)

    def one(params: Any, x: jax.Array) -> jax.Array:
        if half == "encode":
            return network.encode(params, x, dtype=dtype)
        return network.decode(params, network.unscaled(x), dtype=dtype)

    def each(params: Any, x: jax.Array) -> jax.Array:
        run = in_tiles(partial(one, params), tile, *scales)
        return run(x) if len(x) == 1 else jax.lax.map(lambda x: run(x[None])[0], x)

    if mesh is None:
        return each(params, x)
    # The last picture is repeated until all devices have as many.
    full = jnp.concatenate([x, jnp.repeat(x[-1:], -len(x) % mesh.size, axis=0)])
    over = PartitionSpec(mesh.axis_names)
    specs = (PartitionSpec(), over)
    spread = jax.shard_map(each, mesh=mesh, in_specs=specs, out_specs=over, check_vma=False)
    return spread(params, full)[: len(x)]


def _check(what: str, x: jax.Array, accepted: str, channels: int) -> None:
    if x.ndim != 4 or x.shape[-1] != channels or not len(x):
        raise ValueError(f"{what} are {x.shape}: the autoencoder {accepted}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        instead = ": pictures of 8 bits are made so by x / 127.5 - 1" if x.dtype == "uint8" else ""
        raise ValueError(f"{what} are {x.dtype}: they must be float{instead}")
