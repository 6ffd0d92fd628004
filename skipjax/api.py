"""Load a network, sample from it."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from skipjax import denoisers, labels, plans, sampling
from skipjax import progress as progress_bar
from skipjax.checks import whole
from skipjax.labels import Label
from skipjax.models import UNet
from skipjax.plans import Plan
from skipjax.pretrained import Pretrained
from skipjax.weights import cards

_READINGS = {
    "eps": denoisers.from_eps,
    "x_0": denoisers.from_x_0,
    "v": denoisers.from_v,
}


def load(checkpoint: str | Path) -> Pretrained:
    """Loads a checkpoint, after checking each of its files against the card's sha256.

    Args:
        checkpoint: A bundled name ("emoji32"), or a checkpoint's folder.

    Returns:
        The weights, float32, as a pytree that carries what is known of the network.

    Raises:
        ValueError: If there is no such checkpoint, a file of it is missing or damaged, or a
            weight is not finite.
    """
    return cards.load(cards.find(checkpoint))


def sample(
    params: Pretrained,
    key: jax.Array,
    *,
    skip: int = 20,
    cutoff: int = 0,
    num: int = 4,
    ids: Sequence[int] | np.ndarray | None = None,
    label: Label | Sequence[Label] | None = None,
    plan: Plan | None = None,
    clip: bool = True,
    dtype: DTypeLike = jnp.float32,
    devices: Sequence[jax.Device] | None = None,
    progress: bool = False,
) -> jax.Array:
    """Draws pictures.

    A picture depends on `key` and its id alone: not on which others are drawn with it, nor on how
    many devices. A new key, label, cutoff or eta, or another plan of as many rows, runs the
    program that is compiled already.

    Args:
        params: What `load` returned.
        key: From `jax.random.key`.
        skip: Stride over the T training times, 1 .. T; the network is called ceil(T / skip) times.
        cutoff: Steps that start at t >= cutoff are skipped-step, those below DDIM; 0 .. T.
        num: How many pictures, with ids 0 .. num-1.
        ids: Ids of the pictures instead, each in 0 .. 2^32 - 1.
        label: Class, by number or name: one for all, or one per picture. None draws one for each
            picture from its id. Only for class-conditional networks.
        plan: Any other sampler, instead of `skip` and `cutoff`.
        clip: Whether predictions of x_0 are kept in [-1, 1].
        dtype: What the network computes in, float32 or bfloat16.
        devices: Where to compute; all local devices unless told. Pictures are spread over them.
        progress: Whether to show the steps go by.

    Returns:
        float32 [num, H, W, C]; in [-1, 1] where `clip` is set and the plan ends without noise.

    Raises:
        ValueError: For an argument out of range, with what is accepted.
        TypeError: If `params` or `key` is of another kind.
        FloatingPointError: If a picture came out NaN or infinite.
    """
    params, key, dtype = _pretrained(params), _typed(key), _compute_dtype(dtype)
    if plan is None:
        plan = plans.skipped(params.schedule, skip, cutoff)
    elif (skip, cutoff) != (20, 0):
        raise ValueError("plan is given, and skip or cutoff too, which it replaces: drop one")
    ids = np.arange(whole("num", num, 1, 2**32)) if ids is None else _ids(ids)
    numbers = labels.resolve(params.spec, key, ids, label)
    arguments = place(params, plan, key, ids, numbers, devices)
    if progress:
        with progress_bar.bar(plan.nfe):
            images = generate(*arguments, clip=clip, dtype=dtype, on_step=progress_bar.on_step)
            images.block_until_ready()
    else:
        images = generate(*arguments, clip=clip, dtype=dtype)
    return finite(images[: len(ids)], ids)


@partial(jax.jit, static_argnames=("clip", "dtype", "on_step"))
def generate(
    params: Pretrained,
    plan: Plan,
    key: jax.Array,
    ids: jax.Array,
    labels: jax.Array | None,
    *,
    clip: bool = True,
    dtype: DTypeLike = jnp.float32,
    on_step: Callable[[jax.Array], None] | None = None,
) -> jax.Array:
    """All of sampling as a pure function of arrays: what `sample` runs, to be used under `jit`,
    `vmap`, `grad`, compiled ahead of time, or with arrays that are sharded over a mesh.

    Args:
        params: What `load` returned.
        plan: The sampler.
        key: Scalar key of the run; a picture's own is fold_in(key, id).
        ids: Ids of the pictures, uint32 [B].
        labels: Labels, int [B]; None for an unconditional network.
        clip: Whether predictions of x_0 are kept in [-1, 1].
        dtype: What the network computes in.
        on_step: Told the index of each row of the plan when it is done.

    Returns:
        float32 [B, H, W, C].
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
    x = sampling.starting_noise(keys, params.shape)
    denoise = denoiser(params, labels, clip=clip, dtype=dtype)
    return sampling.integrate(plan, denoise, x, keys, on_step=on_step)


def denoiser(
    params: Pretrained,
    labels: jax.Array | None = None,
    *,
    clip: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> denoisers.Denoise:
    """The denoiser of a loaded network, for a batch of the given labels, int [B] or None."""
    net, channels = UNet(params.spec.unet, jnp.dtype(dtype)), params.shape[-1]

    def network(x, t):
        # A learned variance stands behind the prediction; the plans here bring their own.
        output: Any = net.apply({"params": params.params}, x, t, labels)
        return output[..., :channels]

    denoise = _READINGS[params.spec.prediction](network)
    return denoisers.clip(denoise) if clip else denoise


def finite(images: jax.Array, ids: np.ndarray) -> jax.Array:
    """The pictures, if every one of them is finite.

    Raises:
        FloatingPointError: With the ids of those that are not.
    """
    bad = ids[~np.isfinite(np.asarray(images)).all(axis=(1, 2, 3))]
    if len(bad):
        raise FloatingPointError(
            f"pictures {', '.join(map(str, bad[:8]))}{' ...' if len(bad) > 8 else ''} are NaN or "
            "infinite: check the weights, or compute in float32"
        )
    return images


def place(
    params: Pretrained,
    plan: Plan,
    key: jax.Array,
    ids: np.ndarray,
    labels: np.ndarray | None,
    devices: Sequence[jax.Device] | None = None,
) -> tuple:
    """The arguments of `generate` on the devices: weights on each, pictures spread over them.

    The last picture is repeated where their number is not a multiple of the devices'.
    """
    devices = list(devices or jax.local_devices())[: len(ids)]
    params = jax.device_put(params, _sharding(devices, PartitionSpec()))
    over_pictures = partial(_spread, devices=devices)
    return params, plan, key, *jax.tree.map(over_pictures, (ids.astype(np.uint32), labels))


def _spread(vector: np.ndarray, devices: Sequence[jax.Device]) -> jax.Array:
    """A vector over pictures, split over devices; its last entry is repeated to fill them up."""
    short = -len(vector) % len(devices)
    filled = np.pad(vector, (0, short), mode="edge")
    return jax.device_put(filled, _sharding(devices, PartitionSpec("data")))


def _sharding(devices: Sequence[jax.Device], spec: PartitionSpec) -> NamedSharding:
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=auto, devices=devices)
    return NamedSharding(mesh, spec)


def _pretrained(params: Any) -> Pretrained:
    if isinstance(params, Pretrained):
        return params
    raise TypeError(
        f"params is a {type(params).__name__}: pass what skipjax.load(...) returned. Plain params "
        "become one with skipjax.Pretrained(params, skipjax.Spec(name, config, ...))"
    )


def _typed(key: Any) -> jax.Array:
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        legacy = ", a legacy key" if np.shape(key) == (2,) else ""
        raise TypeError(f"key is {key!r}{legacy}: pass a typed key, such as jax.random.key(0)")
    if key.shape:
        raise TypeError(
            f"key holds keys of shape {key.shape}: pass one; each picture derives its own"
        )
    return key


def _compute_dtype(dtype: DTypeLike) -> jnp.dtype:
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"dtype is {jnp.dtype(dtype)}: it must be float32 or bfloat16")
    return jnp.dtype(dtype)


def _ids(ids: Any) -> np.ndarray:
    array = np.asarray(ids)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
        raise ValueError(f"ids is {ids!r}: it must be a non-empty list of whole numbers")
    if array.min() < 0 or array.max() >= 2**32:
        raise ValueError(f"ids span {array.min()} .. {array.max()}: they must be in 0 .. 2^32 - 1")
    return array
