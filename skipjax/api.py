"""Load a network, sample from it."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from skipjax import progress as progress_bar
from skipjax import sharding as shardings
from skipjax.codecs.images import finite
from skipjax.conditioners.labels import Label
from skipjax.config import SampleConfig, ScaleLike, as_dtype, as_ids, as_key, resolve
from skipjax.generation import decode, generate
from skipjax.plans import Plan
from skipjax.pretrained import Classifier, Pretrained
from skipjax.sampling import Callback
from skipjax.schedules import Variance
from skipjax.weights.loading import load as load


def sample(
    params: Pretrained,
    key: jax.Array,
    *,
    skip: int | None = None,
    cutoff: int | None = None,
    num: int | None = None,
    ids: Sequence[int] | np.ndarray | None = None,
    label: Label | Sequence[Label] | None = None,
    prompt: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    low_res: jax.Array | np.ndarray | None = None,
    size: tuple[int, int] | None = None,
    guidance: ScaleLike = None,
    guide: Pretrained | str | None = None,
    classifier: Classifier | str | None = None,
    guidance_interval: tuple[float, float] | None = None,
    guidance_rescale: float | None = None,
    clip_skip: int | None = None,
    prompt_weights: bool = False,
    long_prompts: bool = False,
    steps: str | int | None = None,
    nfe: int | None = None,
    eta: float | None = None,
    variance: Variance | None = None,
    plan: Plan | str | None = None,
    grid: str | None = None,
    clip: bool | None = None,
    threshold: float | None = None,
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
    devices: Sequence[Any] | None = None,
    progress: bool = False,
    callback: Callback | None = None,
    trajectory: bool = False,
    latents: bool = False,
    tiles: int | None = None,
    vae_dtype: DTypeLike | None = None,
    **words: Any,
) -> jax.Array:
    """Draws samples.

    A sample depends on `key` and its id alone: not on which others are drawn with it, nor on how
    many devices. A new key, label, prompt, cutoff or eta, another scale or interval of guidance,
    another threshold, another plan of as many rows, other weights: each runs the program that is
    compiled already.

    Args:
        params: What `load` returned. Where its weights lie on a mesh, samples are spread over the
            axes that no weight is split over.
        key: From `jax.random.key`.
        skip: Stride over the T training times, 1 .. T; the network is called ceil(T / skip) times.
            Default: the checkpoint's own sampler where it has one, one call of a consistency
            model, else 20.
        cutoff: Steps that start at t >= cutoff are skipped-step, those below DDIM; 0 .. T.
            Default: 0.
        num: How many samples, with ids 0 .. num-1. Default: as many as `low_res`, labels or
            prompts are given, or 4.
        ids: Ids of the samples instead, each in 0 .. 2^32 - 1.
        label: Class, by number or name: one for all, or one per sample. Default: one is drawn for
            each sample from its id. Only where the network or the classifier takes labels.
        prompt: What to draw, in words: one for all, or one per sample; only for a network of text.
        negative: What to keep away from, in words, one for all or one per sample; only with
            guidance of a scale above 1. Default: "", or what else the network was trained with.
        low_res: Pictures to enlarge, [num, h, w, C], float in [-1, 1] or uint8; only for a
            network that does, and needed there.
        size: Height and width of a sample in pixels. Default: what the network was made for.
        guidance: Scale of guidance: by the classifier, default: 1; by the guide; or without
            either, where the network has a null label or prompt (1 is then no guidance), of the
            channels that the code it came with guides: 3 of 4 in Facebook's DiT and SiT, else all;
            default: the checkpoint's own, 7.5 of Stable Diffusion 1 and 2, 5 of XL, none of turbo,
            and none of those that have no such. A network of latent consistency is told it, 8.5
            by default, and called once.
            Or a value of `skipjax.guidance`, such as Autoguidance(model, scale); or several of
            them, with a scale at most.
        guide: A second network that guides by doing the same worse, from `load`.
        classifier: What guides, from `load`, trained on the same schedule.
        guidance_interval: Least and largest time at which to guide. Default: at all times.
        guidance_rescale: Of guidance without a classifier: part of the way back to the spread of
            the conditional output, 0 .. 1. Default: 0.
        clip_skip: Layers of the text encoder, from its end, that the prompt is not passed through,
            as diffusers counts them; not of `negative`. Default: as the network was trained.
        prompt_weights: Whether (words), [words] and (words:1.3) of a prompt count for more or
            less, as A1111 has it.
        long_prompts: Whether prompts are read to their end, in chunks of 75 tokens; or else cut
            there, which is said.
        steps: Of the checkpoint's own sampler, where it has one: how many steps. Else one of ADM's
            strings instead of `skip` and `cutoff`, for ADM's own sampler: "250",
            "90,60,60,20,20", "" for all T times; "ddim25" for DDIM. With the name of a plan how
            many times its grid has, or one of ADM's strings.
        nfe: Network calls, instead of `skip` and `steps`: of the plan that is named; or of one
            that was tuned for the checkpoint and comes with it, where there is one, and of
            dpmpp_2m otherwise; of a consistency model, of `plans.consistency` on Karras's times.
        eta: Noise of DDIM, 0 .. 1, on the times that `skip` or `steps` gives.
        variance: Of the noise in skipped-step and ADM's sampling: "small", "large",
            "learned_range", "learned". Default: what the network was made for.
        plan: Any other sampler, instead of `skip`, `cutoff`, `steps` and `variance`; or the name
            of one in `skipjax.plans.METHODS`, on the times that `skip` or `steps` gives, or the
            .json of one.
        grid: Which times those are, a name in `skipjax.grids.GRIDS`. Default: "trailing".
        clip: Whether predictions of x_0 are kept in the bounds of the data. Default: where it has
            any, as pixels have; or as the checkpoint's own sampler does.
        threshold: Quantile of dynamic thresholding, in (0, 1], instead of clipping: where guidance
            is strong it keeps pictures from saturating. 0.995 is usual.
        dtype: What the network computes in, float32 or bfloat16.
        remat: Whether a classifier's layers are computed again for its gradient, to save memory.
        devices: Where to compute, each with a copy of the weights. Default: where the weights
            lie if that is a mesh, and all local devices otherwise.
        progress: Whether to show the steps go by.
        callback: Told i, x_i and the `Prediction` there of each row i of the plan, on the host.
        trajectory: Whether to return the predictions of x_0 at each row instead.
        latents: Whether to return what is diffused, not decoded.
        tiles: Side of the tiles, in latent pixels, that pictures are decoded in where memory is
            short; they are then not exact. Default: whole pictures, one at a time.
        vae_dtype: What the autoencoder computes in, float32 or bfloat16. Default: float32.
        words: Whatever else the model's conditioner takes: "concat"; of Stable Diffusion XL
            `original_size`, `crop`, `target_size` and of its refiner `aesthetic_score`, each for
            all samples or one per sample; arrays "text" of a network without a text encoder.

    Returns:
        float32 [num, H, W, C], or what else the model draws; in [-1, 1] where x_0 is clipped,
        nothing guides and the plan ends without noise. With `latents` what is diffused, [num, h,
        w, c]; with `trajectory` [N, num, ...] of it.

    Raises:
        ValueError: For an argument out of range, with what is accepted.
        TypeError: If `params`, `classifier` or `key` is of another kind, or an argument is not
            known.
        FloatingPointError: If a sample came out NaN or infinite.
    """
    config = SampleConfig(
        skip=skip,
        cutoff=cutoff,
        steps=steps,
        nfe=nfe,
        eta=eta,
        variance=variance,
        plan=plan,
        grid=grid,
        classifier=classifier,
        guidance=guidance,
        guide=guide,
        guidance_interval=guidance_interval,
        guidance_rescale=guidance_rescale,
        clip=clip,
        threshold=threshold,
        clip_skip=clip_skip,
        prompt_weights=prompt_weights,
        long_prompts=long_prompts,
        size=size,
        tiles=tiles,
        vae_dtype=None if vae_dtype is None else _dtype_name(vae_dtype),
        dtype=_dtype_name(dtype),
        remat=remat,
    )
    sampler, key = resolve(params, config), as_key(key)
    words |= {"label": label, "prompt": prompt, "negative": negative, "low_res": low_res}
    words = {name: value for name, value in words.items() if value is not None}
    sampler.check(words)
    devices = _devices(devices)
    ids = as_ids(num, ids, sampler.number_of(words) or 4)
    encodes = progress and bool(jax.tree.leaves(params.conditioner))
    with progress_bar.stage(encodes, "encoding", len(ids), "prompt", late=True):
        condition, null = sampler.condition(words, key, ids)
    # What encodes words has done its part, and stays where it is.
    drawing = sampler.model.replace(conditioner=None)
    model, guides, spread = shardings.place(drawing, sampler.guidance, len(ids), devices)
    options: dict[str, Any] = {"callback": callback, "trajectory": trajectory}
    arguments = model, sampler.plan, key, spread(ids.astype(np.uint32)), spread(condition)
    options |= {"null": spread(null), "guidance": guides, "transform": sampler.transform}
    options |= {"shape": sampler.shape, "dtype": sampler.dtype}
    if progress:
        with progress_bar.bar(sampler.plan.nfe):
            z = generate(*arguments, **options, on_step=progress_bar.on_step)
            z.block_until_ready()
    else:
        z = generate(*arguments, **options)
    if trajectory:
        return z[:, : len(ids)]
    if latents:
        return finite(z[: len(ids)], ids)
    decodes = progress and bool(jax.tree.leaves(params.codec))
    with progress_bar.stage(decodes, "decoding", len(ids), "picture"):
        return finite(decode(model, z)[: len(ids)], ids)


def _dtype_name(dtype: DTypeLike) -> Literal["float32", "bfloat16"]:
    name: Any = as_dtype(dtype).name
    return name


def _devices(devices: Any) -> list[Any] | None:
    if devices is None:
        return None
    listed = list(devices) if isinstance(devices, (Sequence, np.ndarray)) else [devices]
    if isinstance(devices, str) or not all(isinstance(d, jax.Device) for d in listed):
        raise TypeError(f"devices is {devices!r}: give some of jax.devices(), in a list")
    return listed
