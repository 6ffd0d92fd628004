"""What is asked of `sample`, checked and completed before anything is compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from skipjax import plans
from skipjax.checks import whole
from skipjax.generation import Guide
from skipjax.plans import Plan
from skipjax.pretrained import Classifier, ClassifierSpec, Pretrained, Spec
from skipjax.schedules import Variance


def network(params: Any) -> Pretrained:
    """The network, if it is one that draws pictures."""
    if isinstance(params, Pretrained):
        return params
    if isinstance(params, Classifier):
        raise TypeError(
            f"params is {params.spec.name}, a classifier, which draws nothing: pass it as "
            "classifier=, beside the network that it guides"
        )
    raise TypeError(
        f"params is a {type(params).__name__}: pass what skipjax.load(...) returned. Plain params "
        "become one with skipjax.Pretrained(params, skipjax.Spec(name, config, ...))"
    )


def key(key: Any) -> jax.Array:
    """The key, if it is a single one of the typed kind."""
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        legacy = ", a legacy key" if np.shape(key) == (2,) else ""
        raise TypeError(f"key is {key!r}{legacy}: pass a typed key, such as jax.random.key(0)")
    if key.shape:
        raise TypeError(
            f"key holds keys of shape {key.shape}: pass one; each picture derives its own"
        )
    return key


def dtype(dtype: DTypeLike) -> jnp.dtype:
    """What the network computes in."""
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"dtype is {jnp.dtype(dtype)}: it must be float32 or bfloat16")
    return jnp.dtype(dtype)


def plan(
    params: Pretrained,
    skip: int,
    cutoff: int,
    steps: str | None,
    variance: Variance | None,
    plan: Plan | None,
) -> Plan:
    """The sampler that is asked for in one of three ways."""
    if plan is not None:
        if (skip, cutoff, steps, variance) != (20, 0, None, None):
            raise ValueError(
                "plan is given, and skip, cutoff, steps or variance too, which it replaces: "
                "drop one"
            )
        return _learned(params.spec, plan)
    variance = variance or params.spec.variance
    if steps is None:
        return _learned(params.spec, plans.skipped(params.schedule, skip, cutoff, variance))
    if (skip, cutoff) != (20, 0):
        raise ValueError("steps is given, and skip or cutoff too, which it replaces: drop one")
    if not isinstance(steps, str):
        raise ValueError(f"steps is {steps!r}: it must be a string of ADM's, such as '250'")
    return _learned(params.spec, plans.respaced(params.schedule, steps, variance))


def guide(
    spec: Spec,
    scale: float | None,
    classifier: Any,
    interval: tuple[float, float] | None,
) -> Guide | None:
    """How to guide, if at all."""
    if scale is None and classifier is None:
        if interval is not None:
            raise ValueError("guidance_interval is given without guidance: say its scale too")
        return None
    if classifier is not None:
        _fits(spec, classifier)
    elif spec.null_label is None:
        raise ValueError(
            f"guidance is {scale}, and {spec.name} has no null label by which it could be guided: "
            "give a classifier too"
        )
    scale = 1.0 if scale is None else scale
    if not _numbers(scale, ()) or not np.isfinite(scale):
        raise ValueError(f"guidance is {scale!r}: it must be one finite number")
    if interval is None and classifier is None:
        # The network stands twice in a program that may leave guidance out, once where it may not.
        return Guide(jnp.float32(scale))
    interval = (-np.inf, np.inf) if interval is None else interval
    if not _numbers(interval, (2,)) or not interval[0] <= interval[1]:
        raise ValueError(f"guidance_interval is {interval!r}: it must be two times, least first")
    low, high = map(jnp.float32, interval)
    return Guide(jnp.float32(scale), (low, high), classifier)


def labelled(spec: Spec, guide: Guide | None) -> Spec | ClassifierSpec:
    """Who says what labels there are: the network, or what guides one that takes none."""
    if spec.classes or guide is None or guide.classifier is None:
        return spec
    return guide.classifier.spec


def towards(spec: Spec, guide: Guide | None, labels: np.ndarray | None) -> np.ndarray | None:
    """The labels, if each stands for a class where a classifier guides towards it."""
    by_classifier = guide is not None and guide.classifier is not None
    if by_classifier and spec.null_label is not None and np.any(labels == spec.null_label):
        raise ValueError(
            f"label {spec.null_label} stands for no class: a classifier has nothing to guide "
            "towards there"
        )
    return labels


def low_res(spec: Spec, pictures: Any) -> np.ndarray | jax.Array | None:
    """The pictures to enlarge, in [-1, 1]."""
    channels, side = spec.unet.low_res_channels, spec.low_res
    accepted = f"[num, {side or 'h'}, {side or 'w'}, {channels}]"
    if pictures is None:
        if channels:
            raise ValueError(f"{spec.name} enlarges pictures: give them as low_res, {accepted}")
        return None
    if not channels:
        raise ValueError(f"low_res is given, and {spec.name} does not enlarge pictures")
    if not isinstance(pictures, (np.ndarray, jax.Array)):
        pictures = np.asarray(pictures)
    shape = pictures.shape
    if (
        len(shape) != 4
        or not shape[0]
        or shape[1:] != ((side or shape[1]), (side or shape[2]), channels)
    ):
        raise ValueError(f"low_res is {shape}: {spec.name} takes {accepted}")
    if pictures.dtype == np.uint8:
        return np.asarray(pictures, np.float32) / 127.5 - 1
    if not jnp.issubdtype(pictures.dtype, jnp.floating):
        raise ValueError(f"low_res is {pictures.dtype}: it must be float in [-1, 1], or uint8")
    if not np.abs(np.asarray(pictures, np.float32)).max() <= 2:
        raise ValueError("low_res must be in [-1, 1]: divide 0 .. 255 by 127.5 and take 1 away")
    return pictures


def ids(num: int, ids: Any, low_res: np.ndarray | jax.Array | None) -> np.ndarray:
    """Ids of the pictures."""
    if ids is None:
        num = whole("num", num, 1, 2**32)
        # 4 is what num is where nobody said it.
        array = np.arange(len(low_res) if low_res is not None and num == 4 else num)
    else:
        array = np.asarray(ids)
        if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
            raise ValueError(f"ids is {ids!r}: it must be a non-empty list of whole numbers")
        if array.min() < 0 or array.max() >= 2**32:
            raise ValueError(
                f"ids span {array.min()} .. {array.max()}: they must be in 0 .. 2^32 - 1"
            )
    if low_res is not None and len(low_res) != len(array):
        raise ValueError(f"low_res has {len(low_res)} pictures, and {len(array)} are to be drawn")
    return array


def _learned(spec: Spec, plan: Plan) -> Plan:
    if plan.log_variance is not None and spec.unet.out_channels != 2 * spec.unet.in_channels:
        raise ValueError(
            f"the plan asks for a learned variance, and {spec.name} predicts none: take variance "
            "'small' or 'large'"
        )
    return plan


def _numbers(value: Any, shape: tuple[int, ...]) -> bool:
    try:
        array = np.asarray(value)
    except ValueError:  # lists within lists, of different lengths
        return False
    return array.shape == shape and array.dtype.kind in "iuf"


def _fits(spec: Spec, classifier: Any) -> None:
    if not isinstance(classifier, Classifier):
        what = f"a {type(classifier).__name__}"
        if isinstance(classifier, Pretrained):
            what = f"{classifier.spec.name}, a network that denoises"
        raise TypeError(f"classifier is {what}: pass what skipjax.load gives for a classifier")
    theirs = classifier.spec
    for what, wanted, got in (
        ("pictures of side", spec.unet.image_size, theirs.classifier.image_size),
        ("channels", spec.unet.in_channels, theirs.classifier.in_channels),
        ("the schedule", spec.schedule, theirs.schedule),
        ("T", spec.T, theirs.T),
        ("classes", spec.classes or theirs.classes, theirs.classes),
    ):
        if wanted != got:
            raise ValueError(
                f"classifier {theirs.name} does not fit {spec.name}: {what} {got}, and {wanted} "
                "is needed"
            )
