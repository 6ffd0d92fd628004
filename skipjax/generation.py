"""All of sampling as one pure function of arrays: a network, a plan and keys give pictures."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from skipjax import denoisers, guidance, models, sampling
from skipjax.plans import Plan
from skipjax.pretrained import Classifier, Pretrained

_READINGS = {
    "eps": denoisers.from_eps,
    "x_0": denoisers.from_x_0,
    "v": denoisers.from_v,
    "score": denoisers.from_score,
    "velocity": denoisers.from_velocity,
}
# Folded into the key of a network that enlarges pictures: one key then serves a whole cascade, the
# labels that it draws are the same at each stage, and the noise is not.
ENLARGE = 2**32 - 1


class Guide(NamedTuple):
    """How to guide; every leaf may be traced.

    Attributes:
        scale: Weight of guidance, a scalar.
        interval: Least and largest time at which to guide; at all times if None, and then the
            program is smaller.
        classifier: What guides; None for classifier-free guidance, by the network's null label.
    """

    scale: jax.Array | float
    interval: guidance.Interval | None = None
    classifier: Classifier | None = None


@partial(jax.jit, static_argnames=("clip", "dtype", "remat", "on_step"))
def generate(
    params: Pretrained,
    plan: Plan,
    key: jax.Array,
    ids: jax.Array,
    labels: jax.Array | None,
    low_res: jax.Array | None = None,
    guide: Guide | None = None,
    *,
    clip: bool = True,
    threshold: jax.Array | float | None = None,
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
    on_step: Callable[[jax.Array], None] | None = None,
) -> jax.Array:
    """What `sample` runs, to be used under `jit`, `vmap`, `grad`, compiled ahead of time, or with
    arrays that are sharded over a mesh.

    Args:
        params: What `load` returned.
        plan: The sampler.
        key: Scalar key of the run; a picture's own is fold_in(key, id).
        ids: Ids of the pictures, uint32 [B].
        labels: Labels, int [B]; None where neither network nor guide takes any.
        low_res: Pictures to enlarge, float32 [B, h, w, C] in [-1, 1], for a network that does.
        guide: How to guide; not at all, unless told.
        clip: Whether predictions of x_0 are kept in [-1, 1], before any guidance by a classifier.
        threshold: Quantile of dynamic thresholding, which then takes the place of clipping.
        dtype: What the networks compute in.
        remat: Whether a classifier's layers are computed again for its gradient, to save memory.
        on_step: Told the index of each row of the plan when it is done.

    Returns:
        float32 [B, H, W, C].
    """
    if low_res is not None:
        key = jax.random.fold_in(key, ENLARGE)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
    x = sampling.starting_noise(keys, params.shape)
    denoise = denoiser(
        params,
        labels,
        low_res=low_res,
        guide=guide,
        clip=clip,
        threshold=threshold,
        dtype=dtype,
        remat=remat,
    )
    return sampling.integrate(plan, denoise, x, keys, on_step=on_step)


def denoiser(
    params: Pretrained,
    labels: jax.Array | None = None,
    *,
    low_res: jax.Array | None = None,
    guide: Guide | None = None,
    clip: bool = True,
    threshold: jax.Array | float | None = None,
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
) -> denoisers.Denoise:
    """The denoiser of a loaded network, for a batch of the given labels, int [B] or None.

    The other arguments are those of `generate`.

    Raises:
        ValueError: If the guide has no classifier, and the network no null label.
    """
    spec = params.spec
    net: Any = models.network(spec.unet, jnp.dtype(dtype))
    rescale = 1000 / spec.T if spec.rescale_timesteps else 1.0

    def of(labels: jax.Array | None) -> denoisers.Denoise:
        def network(x, t):
            small = low_res
            if small is not None and len(small) != len(x):  # a picture twice, for two labels
                small = jnp.repeat(small, len(x) // len(small), axis=0)
            y = labels if spec.unet.num_classes else None
            return net.apply({"params": params.params}, x, rescale * t, y, small)

        return _READINGS[spec.prediction](network)

    denoise = of(labels)
    if guide is not None and guide.classifier is None:
        if spec.null_label is None or labels is None:
            raise ValueError(
                f"{spec.name} has no null label, by which it could be guided: give a classifier"
            )
        scale, interval = guide.scale, guide.interval
        denoise = guidance.classifier_free(of, labels, spec.null_label, scale, interval)
    if threshold is not None:
        denoise = denoisers.threshold(denoise, threshold)
    elif clip:
        denoise = denoisers.clip(denoise)
    if guide is not None and guide.classifier is not None:
        classes = labels
        if labels is not None and spec.null_label is not None:
            classes = labels - (labels > spec.null_label)  # the classifier has no null label
        log_prob = _log_prob(guide.classifier, classes, rescale, dtype, remat)
        denoise = guidance.classifier(denoise, log_prob, guide.scale, guide.interval)
    return denoise


def _log_prob(
    classifier: Classifier,
    labels: jax.Array | None,
    rescale: float,
    dtype: DTypeLike,
    remat: bool,
) -> guidance.LogProb:
    """log p(y | x) of a classifier, for the labels y [B]."""
    if labels is None:
        raise ValueError("a classifier guides towards labels: give one for each picture")
    net: Any = models.network(classifier.spec.classifier, jnp.dtype(dtype), remat)

    def log_prob(x, t):
        logits = net.apply({"params": classifier.params}, x, rescale * t)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]

    return log_prob
