"""How a network is sampled from: what a plan is learned for."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.tree_util import Partial
from jax.typing import DTypeLike

from skipjax import labels, placement, request
from skipjax.denoisers import Denoise
from skipjax.generation import Guide, denoiser
from skipjax.labels import Label
from skipjax.plans import Plan
from skipjax.pretrained import Classifier, Pretrained
from skipjax.sampling import starting_noise
from skipjax.tuning.examples import Denoiser, Examples

SCALES = 2**32 - 5  # folded into the key, for scales of guidance


class Setting(NamedTuple):
    """A network, and pictures that begin in noise.

    Attributes:
        denoiser: Of the network, with its guidance.
        examples: Without targets.
        over: How pictures lie on the mesh that the weights lie on; None for one device.
        about: What it is, as JSON says it.
    """

    denoiser: Denoiser
    examples: Examples
    over: NamedSharding | None
    about: dict[str, Any]


def setting(
    params: Pretrained,
    key: jax.Array,
    num: int,
    plan: Plan,
    *,
    label: Label | Sequence[Label] | None = None,
    guidance: float | tuple[float, float] | None = None,
    classifier: Classifier | None = None,
    guidance_interval: tuple[float, float] | None = None,
    clip: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> Setting:
    """The denoiser of a network and `num` examples; arguments as in `tune`.

    Args:
        params: What `load` returned.
        key: Noise, labels and scales follow from it.
        num: Pictures.
        plan: One that is to be used with the guide, for what that may object to.

    Raises:
        ValueError: If a label or the guidance does not fit the network.
        TypeError: If the classifier is of another kind.
    """
    scale, scales = _scales(guidance)
    guide = request.guide(params.spec, plan, scale, classifier, guidance_interval)
    params = placement.automatic(params)
    mesh = placement.mesh_of(params)
    over = None if mesh is None else placement.pictures(mesh, params)
    of: Denoiser = Partial(_denoiser(clip, jnp.dtype(dtype), over), params, guide)
    ids = np.arange(num)
    numbers = labels.resolve(request.labelled(params.spec, guide), key, ids, label)
    numbers = request.towards(params.spec, guide, numbers)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids.astype(np.uint32))
    each = None
    if scales is not None:
        low, high = scales
        each = jax.random.uniform(jax.random.fold_in(key, SCALES), (num,), minval=low, maxval=high)
    about = {
        "checkpoint": params.fingerprint,
        "name": params.spec.name,
        "guidance": scales or (None if guide is None else float(guide.scale)),
        "guidance_interval": guidance_interval,
        "classifier": None if classifier is None else classifier.spec.name,
        "label": label if label is None or np.ndim(label) == 0 else "one for each picture",
        "clip": clip,
        "dtype": jnp.dtype(dtype).name,
    }
    return Setting(
        of, Examples(starting_noise(keys, params.shape), keys, numbers, each), over, about
    )


@lru_cache
def _denoiser(clip: bool, dtype: jnp.dtype, over: NamedSharding | None) -> Callable[..., Denoise]:
    """One function for all networks of a kind, so that they share what is compiled."""

    def of(params: Pretrained, guide: Guide | None, examples: Examples) -> Denoise:
        if guide is not None and examples.scale is not None:
            guide = guide._replace(scale=examples.scale)
        denoise = denoiser(params, examples.labels, guide=guide, clip=clip, dtype=dtype)
        if over is None:
            return denoise
        return lambda x, point: denoise(jax.lax.with_sharding_constraint(x, over), point)

    return of


def _scales(guidance: Any) -> tuple[float | None, tuple[float, float] | None]:
    """One scale, and the least and greatest where a range is given."""
    if guidance is None or np.ndim(guidance) == 0:
        return guidance, None
    low, high = map(float, guidance) if np.shape(guidance) == (2,) else (np.nan, np.nan)
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(
            f"guidance is {guidance!r}: it must be one scale, or the least and the greatest of a "
            "range"
        )
    return low, (low, high)
