"""Load a network, sample from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from skipjax import labels, placement, request
from skipjax import progress as progress_bar
from skipjax.generation import Guide, generate
from skipjax.labels import Label
from skipjax.models import ClassifierConfig, UNetConfig
from skipjax.placement import Placement
from skipjax.plans import Plan
from skipjax.pretrained import Classifier, ClassifierSpec, Pretrained, Spec
from skipjax.schedules import Variance
from skipjax.weights import cards, folders, released

Images = TypeVar("Images", jax.Array, np.ndarray)


def load(
    checkpoint: str | Path,
    *,
    card: str | None = None,
    config: UNetConfig | ClassifierConfig | Spec | ClassifierSpec | None = None,
    dtype: DTypeLike = jnp.float32,
    sharding: Placement | None = None,
) -> Any:
    """Loads a checkpoint, after checking its files against the sha256 that is known of them.

    Args:
        checkpoint: A bundled name ("emoji32"), a checkpoint's folder, or a released file of
            weights, .pt or .safetensors ("256x256_diffusion.pt").
        card: Name or .json of the card that describes the file; found by the file's name, unless
            told.
        config: What the file holds instead of a card: a `Spec`, or just the architecture, and then
            it is taken to be trained as ADM's are (linear schedule, T = 1000, eps).
        dtype: To keep the weights in: float32, bfloat16 or float16.
        sharding: Where to put the weights: a `jax.sharding.Sharding` for all, a mesh of
            `skipjax.placement.mesh` to split them over, a function from a shape to a sharding, or
            a pytree of shardings. Each array goes straight there.
            Unless told, to the first device.

    Returns:
        A `Pretrained`, or for a classifier of noisy pictures a `Classifier`: the weights as a
        pytree that carries what is known of the network.

    Raises:
        ValueError: If there is no such checkpoint, a file of it is missing or damaged, the weights
            do not fit the architecture, or one is not finite.
    """
    path, dtype = Path(checkpoint), jnp.dtype(dtype)
    if dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        raise ValueError(f"dtype is {dtype}: it must be float32, bfloat16 or float16")
    if path.is_file():
        return released.load(path, card, config, dtype, sharding)
    if card is not None or config is not None:
        raise ValueError(
            f"{path} is not a file: card and config say what a .pt or .safetensors holds"
        )
    return folders.load(cards.find(checkpoint), dtype, sharding)


def sample(
    params: Pretrained,
    key: jax.Array,
    *,
    skip: int = 20,
    cutoff: int = 0,
    num: int = 4,
    ids: Sequence[int] | np.ndarray | None = None,
    label: Label | Sequence[Label] | None = None,
    guidance: float | None = None,
    classifier: Classifier | None = None,
    guidance_interval: tuple[float, float] | None = None,
    low_res: jax.Array | np.ndarray | None = None,
    steps: str | int | None = None,
    variance: Variance | None = None,
    plan: Plan | str | None = None,
    grid: str | None = None,
    clip: bool = True,
    threshold: float | None = None,
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
    devices: Sequence[jax.Device] | None = None,
    progress: bool = False,
) -> jax.Array:
    """Draws pictures.

    A picture depends on `key` and its id alone: not on which others are drawn with it, nor on how
    many devices. A new key, label, cutoff or eta, another scale or interval of guidance, another
    threshold, another plan of as many rows: each runs the program that is compiled already.

    Args:
        params: What `load` returned. Where its weights lie on a mesh, pictures are spread over the
            axes that no weight is split over.
        key: From `jax.random.key`.
        skip: Stride over the T training times, 1 .. T; the network is called ceil(T / skip) times.
        cutoff: Steps that start at t >= cutoff are skipped-step, those below DDIM; 0 .. T.
        num: How many pictures, with ids 0 .. num-1; with `low_res` as many as it has.
        ids: Ids of the pictures instead, each in 0 .. 2^32 - 1.
        label: Class, by number or name: one for all, or one per picture. None draws one for each
            picture from its id. Only where the network or the classifier takes labels.
        guidance: Scale of guidance: by the classifier, 1 unless told; or without one, where the
            network has a null label (1 is then no guidance).
        classifier: What guides, from `load`, trained on the same schedule.
        guidance_interval: Least and largest time at which to guide; at all times, unless told.
        low_res: Pictures to enlarge, [num, h, w, C], float in [-1, 1] or uint8; only for a
            network that does, and needed there.
        steps: One of ADM's strings instead of `skip` and `cutoff`, for ADM's own sampler:
            "250", "90,60,60,20,20", "" for all T times; "ddim25" for DDIM. With the name of a plan
            how many times its grid has, or one of ADM's strings.
        variance: Of the noise in skipped-step and ADM's sampling: "small", "large",
            "learned_range", "learned"; what the network was made for, unless told.
        plan: Any other sampler, instead of `skip`, `cutoff`, `steps` and `variance`; or the name
            of one in `skipjax.plans.METHODS`, on the times that `skip` or `steps` gives.
        grid: Which times those are, a name in `skipjax.grids.GRIDS`; "trailing" unless told.
        clip: Whether predictions of x_0 are kept in [-1, 1].
        threshold: Quantile of dynamic thresholding, in (0, 1], instead of clipping: where guidance
            is strong it keeps pictures from saturating. 0.995 is usual.
        dtype: What the network computes in, float32 or bfloat16.
        remat: Whether a classifier's layers are computed again for its gradient, to save memory.
        devices: Where to compute, each with a copy of the weights; unless told, where the weights
            lie if that is a mesh, and all local devices otherwise.
        progress: Whether to show the steps go by.

    Returns:
        float32 [num, H, W, C]; in [-1, 1] where `clip` or `threshold` is set, nothing guides and
        the plan ends without noise.

    Raises:
        ValueError: For an argument out of range, with what is accepted.
        TypeError: If `params`, `classifier` or `key` is of another kind.
        FloatingPointError: If a picture came out NaN or infinite.
    """
    params, key, dtype = request.network(params), request.key(key), request.dtype(dtype)
    threshold = request.threshold(threshold)
    plan = request.plan(params, skip, cutoff, steps, variance, plan, grid)
    low_res = request.low_res(params.spec, low_res)
    ids = request.ids(num, ids, low_res)
    guide = request.guide(params.spec, plan, guidance, classifier, guidance_interval)
    numbers = labels.resolve(request.labelled(params.spec, guide), key, ids, label)
    numbers = request.towards(params.spec, guide, numbers)
    arguments = place(params, plan, key, ids, numbers, devices, low_res=low_res, guide=guide)
    options: Any = {"clip": clip, "threshold": threshold, "dtype": dtype, "remat": remat}
    if progress:
        with progress_bar.bar(plan.nfe):
            images = generate(*arguments, **options, on_step=progress_bar.on_step)
            images.block_until_ready()
    else:
        images = generate(*arguments, **options)
    return finite(images[: len(ids)], ids)


def finite(images: Images, ids: np.ndarray) -> Images:
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
    *,
    low_res: np.ndarray | jax.Array | None = None,
    guide: Guide | None = None,
) -> tuple:
    """The arguments of `generate` on the devices: weights, and pictures spread over them.

    The last picture is repeated where their number is not a multiple of the devices'.
    """
    params, guide = placement.automatic((params, guide))
    mesh: Mesh | None = None if devices else placement.mesh_of(params)
    if mesh is None:
        chosen = list(devices or jax.local_devices())[: len(ids)]
        mesh = placement.mesh(len(chosen), devices=chosen)
        params = jax.device_put(params, placement.replicated(mesh))
    if guide is not None and placement.mesh_of(guide) != mesh:
        guide = jax.device_put(guide, placement.replicated(mesh))
    over = placement.pictures(mesh, (params, guide))

    def spread(array):
        return None if array is None else placement.spread(array, over)

    ids = ids.astype(np.uint32)
    return params, plan, key, spread(ids), spread(labels), spread(low_res), guide
