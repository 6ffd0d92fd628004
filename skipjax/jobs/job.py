"""What a job draws: asked for in words, and resolved to what fixes every pixel of it."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from skipjax import api, request
from skipjax import labels as classes
from skipjax.checks import whole
from skipjax.generation import Guide
from skipjax.placement import Placement
from skipjax.plans import Plan
from skipjax.pretrained import Classifier, Pretrained
from skipjax.weights import cards, checksums

UNIFORM, BALANCED = "uniform", "balanced"


@dataclass(frozen=True)
class Job:
    """What to draw. Each field is an option of `skipjax generate`.

    Raises:
        ValueError: If `num`, `seed` or `shard_size` is no whole number in its range, or the format
            is not known.
    """

    checkpoint: str = "emoji32"
    """A bundled name, a checkpoint's folder, or a released .pt or .safetensors."""
    card: str | None = None
    """Card that describes a released file, a name or a .json; found by its name, unless told."""
    num: int = 50_000
    """How many pictures, with ids 0 .. num-1."""
    seed: int = 0
    """Of all randomness. A picture depends on the seed and its id alone."""
    labels: tuple[str, ...] = (UNIFORM,)
    """"uniform" draws a class for each picture from its id, "balanced" takes all classes in turn;
    or classes by number or name, taken in turn; or a .txt with a class on each line, one for each
    picture."""
    skip: int = 20
    """Stride over the training times: of 1000, 20 leaves 50 network calls."""
    cutoff: int = 0
    """Steps that start at this time or above are skipped-step, those below DDIM."""
    steps: str | None = None
    """One of ADM's strings instead of skip and cutoff, for its own sampler: "250", "ddim25"; or
    how many times the grid of a named plan has."""
    plan: str | None = None
    """Another sampler: a name that `skipjax plans` lists, or a .json that Plan.to_json wrote; or
    what is in it."""
    grid: str | None = None
    """Times of a named plan; trailing, unless told."""
    classifier: str | None = None
    """Checkpoint of a classifier, to guide by."""
    guidance: float | None = None
    """Scale of guidance; 1 where a classifier is given."""
    threshold: float | None = None
    """Quantile of dynamic thresholding, such as 0.995, instead of clipping to [-1, 1]."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the networks compute in."""
    shard_size: int = 256
    """Pictures to a file: what a worker that is killed may lose."""
    format: Literal["npz", "tar"] = "npz"
    """Of the files: .npz with ids, images (uint8, NHWC) and labels; or webdataset's .tar of
    PNGs."""

    def __post_init__(self):
        named = (self.labels,) if isinstance(self.labels, (str, int)) else tuple(self.labels)
        set_field = object.__setattr__
        set_field(self, "labels", tuple(map(str, named)))
        set_field(self, "num", whole("num", self.num, 1, 2**32))
        set_field(self, "seed", whole("seed", self.seed, 0, 2**32 - 1))
        set_field(self, "shard_size", whole("shard_size", self.shard_size, 1))
        for name, value, known in (
            ("format", self.format, ("npz", "tar")),
            ("dtype", self.dtype, ("float32", "bfloat16")),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(known)}")


class Resolved(NamedTuple):
    """A job with everything in it that was named.

    Attributes:
        job: What was asked for.
        params: The network.
        plan: The sampler.
        guide: How to guide, if at all.
        numbers: Classes of the pictures, taken in turn; None where they are drawn, or there are
            none.
        identity: What fixes the pictures and the files, as JSON.
    """

    job: Job
    params: Pretrained
    plan: Plan
    guide: Guide | None
    numbers: np.ndarray | None
    identity: dict[str, Any]

    @property
    def key(self) -> jax.Array:
        """Of all randomness."""
        return jax.random.key(self.job.seed)

    @property
    def labelled(self) -> Any:
        """The spec of the network that takes the labels."""
        return request.labelled(self.params.spec, self.guide)

    def labels(self, ids: np.ndarray) -> np.ndarray | None:
        """Classes of some pictures, int32 [len(ids)]; None where there are none."""
        if self.numbers is not None:
            return self.numbers[ids % len(self.numbers)]
        return classes.resolve(self.labelled, self.key, ids, None)


def resolve(job: Job, sharding: Placement | None = None) -> Resolved:
    """Loads what a job names, and checks that it fits together.

    Args:
        job: What is asked for.
        sharding: Where to put the weights, as `skipjax.load` has it.

    Raises:
        ValueError: For whatever `load` and `sample` refuse.
    """
    params = api.load(job.checkpoint, card=job.card, sharding=sharding)
    if not isinstance(params, Pretrained):
        raise ValueError(f"{params.spec.name} is a classifier: give it as classifier")
    spec = params.spec
    if spec.unet.low_res_channels:
        raise ValueError(f"{spec.name} enlarges pictures, and a job has none: use skipjax.sample")
    chosen = None if job.plan is None else request.plan_or_name(job.plan)
    plan = request.plan(params, job.skip, job.cutoff, job.steps, None, chosen, job.grid)
    classifier = None
    if job.classifier is not None:
        classifier = api.load(job.classifier, sharding=sharding)
        if not isinstance(classifier, Classifier):
            raise ValueError(f"{classifier.spec.name} is no classifier: it draws pictures")
    guide = request.guide(spec, plan, job.guidance, classifier, None)
    numbers = _numbers(job, request.labelled(spec, guide))
    request.towards(spec, guide, numbers)
    request.threshold(job.threshold)
    identity = {
        "checkpoint": {"name": spec.name, "sha256": _sha256(job.checkpoint)},
        "plan": json.loads(plan.to_json()),
        "num": job.num,
        "seed": job.seed,
        "labels": _said(job, numbers),
        "classifier": job.classifier and _sha256(job.classifier),
        "guidance": None if guide is None else float(guide.scale),
        "threshold": job.threshold,
        "dtype": job.dtype,
        "shard_size": job.shard_size,
        "format": job.format,
    }
    return Resolved(job, params, plan, guide, numbers, identity)


def name_of(identity: dict[str, Any]) -> str:
    """The hash that names a job."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def asked(job: Job) -> dict[str, Any]:
    """The fields of a job, as JSON has them."""
    return json.loads(json.dumps(dataclasses.asdict(job)))


def _sha256(checkpoint: str) -> str:
    path = Path(checkpoint)
    return checksums.of_weights(path if path.is_file() else cards.find(checkpoint))


def _numbers(job: Job, spec: Any) -> np.ndarray | None:
    """The classes that pictures take in turn, if they are not drawn."""
    if job.labels == (UNIFORM,):
        return None
    if not spec.classes:
        raise ValueError(f"{spec.name} is unconditional: it takes no labels, got {job.labels}")
    if job.labels == (BALANCED,):
        every = np.arange(spec.classes, dtype=np.int32)
        null = getattr(spec, "null_label", None)
        return every if null is None else every + (every >= null)
    said = job.labels
    if len(said) == 1 and said[0].endswith(".txt"):
        said = _lines(Path(said[0]), job.num)
    number = {label: classes.number(spec, label) for label in dict.fromkeys(said)}
    return np.array([number[label] for label in said], np.int32)


def _lines(path: Path, num: int) -> tuple[str, ...]:
    try:
        lines = tuple(path.read_text(encoding="utf-8").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"labels: {path} cannot be read ({error})") from None
    lines = lines[:-1] if lines and not lines[-1] else lines
    if len(lines) != num:
        raise ValueError(f"labels: {path} has {len(lines)} lines for {num} pictures")
    return lines


def _said(job: Job, numbers: np.ndarray | None) -> Any:
    """How the labels are recorded: the numbers themselves while they are few."""
    if numbers is None or job.labels == (BALANCED,):
        return job.labels[0]
    if len(numbers) <= 1000:
        return numbers.tolist()
    return {"file": job.labels[0], "sha256": hashlib.sha256(numbers.tobytes()).hexdigest()}
