"""What a plan is learned for: the one file of tuning that knows networks and how they are asked.

All else sees a denoiser of examples, their starting noise, and a schedule.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.tree_util import Partial

from skipjax import sharding
from skipjax.checks import whole
from skipjax.conditioners.labels import Label
from skipjax.config import SampleConfig, as_dtype, as_key, as_model, diffused_shape, resolve
from skipjax.config.plans import fit
from skipjax.denoisers import Denoise, Transform
from skipjax.generation import denoiser, prior
from skipjax.guidance import Autoguidance, ByClassifier, Guidance
from skipjax.plans import Plan
from skipjax.pretrained import Pretrained
from skipjax.sampling import starting_noise
from skipjax.schedules import Schedule
from skipjax.tuning.examples import Denoiser, Examples

# Folded into the key: samples that `sample` draws with it begin in noise that was not learned.
TUNE = 2**32 - 3
OTHERS = 2**32 - 4  # of the samples that stand for the teacher's law
SCALES = 2**32 - 5  # of scales of guidance


@dataclass(frozen=True, eq=False)
class Problem(SampleConfig):
    """What is to be drawn in few calls: `SampleConfig`, without what a plan says; and these.

    Attributes:
        model: What `load` returned. Where its weights lie on a mesh, samples are spread over it.
        key: From `jax.random.key`; noise and labels follow from it.
        label: As for `sample`: one for all, one for each of `total`, or None to draw them.
        words: What else conditions the network, by name, such as "prompt".
        guidance: Scale of guidance that the plan is learned for; or the least and the greatest of
            a range, from which each sample has its own.
        num: Samples that are learned from, at least 2.
        held_out: Samples by which baselines, starts and iterations are chosen, at least 2; and as
            many more that decide between the learned plan and the best baseline.
    """

    model: Pretrained
    key: jax.Array
    label: Label | Sequence[Label] | None = None
    words: Mapping[str, Any] = field(default_factory=dict)
    guidance: float | tuple[float, float] | None = field(  # pyright: ignore
        default=None, kw_only=True
    )
    num: int = 64
    held_out: int = 64

    @property
    def total(self) -> int:
        """num + 2 held_out."""
        return self.num + 2 * self.held_out

    @property
    def schedule(self) -> Schedule:
        """The forward process."""
        return self.model.schedule

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample of what is diffused."""
        return diffused_shape(self.model, self.size)

    def check(self) -> None:
        """Refuses what cannot be tuned for.

        Raises:
            ValueError: If a number is out of range, or a plan is asked for.
            TypeError: If the model or key is of another kind.
        """
        as_model(self.model)
        as_key(self.key)
        as_dtype(self.dtype)
        whole("num", self.num, 2)
        whole("held_out", self.held_out, 2)
        for name in ("skip", "cutoff", "steps", "nfe", "eta", "variance", "plan", "grid"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is given, and the plan is what is learned: drop it")

    def admit(self, plan: Plan) -> Plan:
        """The plan, if it was written for this schedule and the network can serve it."""
        return fit(self.model, plan)

    def prepare(self, plan: Plan) -> "Prepared":
        """The denoiser, and examples without targets.

        Args:
            plan: One that is to be guided, for what that may object to.

        Raises:
            ValueError: If a label or the guidance does not fit the network.
            TypeError: If the classifier is of another kind.
        """
        key = jax.random.fold_in(self.key, TUNE)
        scale, scales = _scales(self.guidance)
        asked = {f.name: getattr(self, f.name) for f in fields(SampleConfig)}
        asked |= {"plan": plan, "guidance": scale, "dtype": as_dtype(self.dtype).name}
        sampler = resolve(self.model, SampleConfig(**asked))
        model = sharding.automatic(self.model)
        mesh = sharding.mesh_of(model)
        over = None if mesh is None else sharding.pictures(mesh, model)
        ids = np.arange(self.total)
        words = {**self.words, **({} if self.label is None else {"label": self.label})}
        condition, null = sampler.condition(words, key, ids)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids.astype(np.uint32))
        each = None
        if scales is not None:
            each = jax.random.uniform(
                jax.random.fold_in(key, SCALES), ids.shape, minval=scales[0], maxval=scales[1]
            )
        one_label = self.label is None or np.ndim(self.label) == 0
        by = next((w.classifier for w in sampler.guidance if isinstance(w, ByClassifier)), None)
        other = next((w.model for w in sampler.guidance if isinstance(w, Autoguidance)), None)
        guided = None if not sampler.guidance else float(sampler.guidance[0].scale)
        about = {
            "checkpoint": model.fingerprint,
            "name": model.name,
            "guidance": scales or guided,
            "guidance_interval": self.guidance_interval,
            "classifier": None if by is None else by.name,
            "guide": None if other is None else other.name,
            "label": self.label if one_label else "one for each picture",
            "clip": self.clip is not False,
            "dtype": sampler.dtype.name,
        }
        of = _denoiser(sampler.dtype, over)
        x = prior(model, plan, keys, sampler.shape)
        return Prepared(
            Partial(of, model.core, sampler.guidance, sampler.transform),
            Examples(x, keys, (condition, null), each),
            over,
            about,
            {
                "key": jax.random.key_data(key).tolist(),
                "condition": _digest(condition),
            },
        )


def _digest(condition: Any) -> str:
    """A hash of arrays."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(condition):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


class Prepared(NamedTuple):
    """A problem made ready.

    Attributes:
        denoiser: Of the network, with its guidance.
        examples: Without targets.
        over: How samples lie on the mesh that the weights lie on; None for one device.
        about: What it is, as JSON says it.
        identity: What else the teacher's samples depend on, as JSON says it.
    """

    denoiser: Denoiser
    examples: Examples
    over: NamedSharding | None
    about: dict[str, Any]
    identity: dict[str, Any]

    def fill(self, batch: int) -> int:
        """The batch, or the next that fills all devices."""
        return sharding.filled(batch, self.over)

    def with_other_noise(self) -> Examples:
        """The examples, starting from noise that is independent of theirs."""
        keys = jax.vmap(jax.random.fold_in, (0, None))(self.examples.keys, np.uint32(OTHERS))
        x = starting_noise(keys, self.examples.x.shape[1:])
        return self.examples._replace(x=x, keys=keys)


@lru_cache
def _denoiser(dtype: jnp.dtype[Any], over: NamedSharding | None) -> Callable[..., Denoise]:
    """One function for all networks of a kind, so that they share what is compiled."""

    def of(
        model: Pretrained, guidance: tuple[Guidance, ...], transform: Transform, examples: Examples
    ) -> Denoise:
        if examples.scale is not None:
            guidance = tuple(replace(way, scale=examples.scale) for way in guidance)
        condition, null = examples.condition
        denoise = denoiser(
            model, condition, null=null, guidance=guidance, transform=transform, dtype=dtype
        )
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
    return high, (low, high)  # which guides, where the least is 1
