"""What a job draws: asked for in words, and resolved to what fixes every pixel of it."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from skipjax import config as request
from skipjax.checks import whole
from skipjax.codecs import Latents
from skipjax.conditioners import Labels
from skipjax.config import SampleConfig, Sampler
from skipjax.guidance import Autoguidance, ByClassifier, Guidance
from skipjax.jobs.compiled import Batch
from skipjax.plans import Plan
from skipjax.pretrained import Classifier, Pretrained
from skipjax.process import one_of
from skipjax.sharding import Placement
from skipjax.weights import loading, parts

UNIFORM, BALANCED = "uniform", "balanced"


@dataclass(frozen=True)
class Job(SampleConfig):
    """What to draw. Each field is an option of `skipjax generate`.

    Raises:
        ValueError: If `num`, `seed` or `shard_size` is no whole number in its range, or the format
            is not known.
    """

    checkpoint: str = "emoji32"
    """A bundled name, a checkpoint's folder, a released .pt or .safetensors, a folder that
    diffusers wrote, or a name of the Hugging Face hub."""
    card: str | None = None
    """Card that describes a released file, a name or a .json. Default: found by its name."""
    num: int = 50_000
    """How many samples, with ids 0 .. num-1."""
    seed: int = 0
    """Of all randomness. A sample depends on the seed and its id alone."""
    labels: tuple[str, ...] = (UNIFORM,)
    """"uniform" draws a class for each sample from its id, "balanced" takes all classes in turn;
    or classes by number or name, taken in turn; or a .txt with a class on each line, one for each
    sample."""
    prompt: str | None = None
    """What to draw, in words; or a .txt with a prompt on each line, taken in turn."""
    negative: str | None = None
    """What to keep away from, in words; with guidance."""
    shard_size: int = 256
    """Samples to a file: what a worker that is killed may lose."""
    format: Literal["npz", "tar"] = "npz"
    """Of the files: .npz with ids, images (uint8, NHWC) and labels; or webdataset's .tar of
    PNGs."""
    key: str | None = None
    """Of the weights among other things in a file. Default: found where one can be meant."""
    revision: str | None = None
    """Branch, tag or commit of a name of the hub. Default: main."""
    variant: str | None = None
    """Of weights that diffusers wrote, such as fp16."""

    def __post_init__(self):
        named = (self.labels,) if isinstance(self.labels, (str, int)) else tuple(self.labels)
        set_field = object.__setattr__
        set_field(self, "labels", tuple(map(str, named)))
        set_field(self, "num", whole("num", self.num, 1, 2**32))
        set_field(self, "seed", whole("seed", self.seed, 0, 2**32 - 1))
        set_field(self, "shard_size", whole("shard_size", self.shard_size, 1))
        one_of("format", self.format, ("npz", "tar"))
        one_of("dtype", self.dtype, ("float32", "bfloat16"))
        if not isinstance(self.plan, (str, type(None))):
            set_field(self, "plan", self.plan.to_json())
        for name in ("classifier", "guide"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise ValueError(f"{name} is no text: a job takes the name or path of one")
        values = self.guidance if isinstance(self.guidance, (list, tuple)) else [self.guidance]
        if any(isinstance(value, Guidance) for value in values):
            raise ValueError(
                "guidance is no number: a job takes the scale, and the path of a second network "
                "that guides as guide"
            )


class Resolved(NamedTuple):
    """A job with everything in it that was named.

    Attributes:
        job: What was asked for.
        sampler: What draws.
        numbers: Labels of the samples, taken in turn; None where they are drawn, or there are
            none.
        prompts: Prompts of the samples, taken in turn; empty where there are none.
        identity: What fixes the samples and the files, as JSON.
    """

    job: Job
    sampler: Sampler
    numbers: np.ndarray | None
    prompts: tuple[str, ...]
    identity: dict[str, Any]

    @property
    def params(self) -> Pretrained:
        """The model."""
        return self.sampler.model

    @property
    def plan(self) -> Plan:
        """The sampler's table."""
        return self.sampler.plan

    @property
    def key(self) -> jax.Array:
        """Of all randomness."""
        return jax.random.key(self.job.seed)

    def with_plan(self, plan: Plan, identity: dict[str, Any]) -> "Resolved":
        """The same by another table."""
        return self._replace(sampler=self.sampler._replace(plan=plan), identity=identity)

    def labels(self, ids: np.ndarray) -> np.ndarray | None:
        """Labels of some samples, int32 [len(ids)]; None where there are none."""
        if self.numbers is not None:
            return self.numbers[ids % len(self.numbers)]
        labels = self.sampler.labels
        return None if labels is None else np.asarray(labels.encode({}, self.key, ids)["label"])

    def batch(self, ids: np.ndarray) -> Batch:
        """What is told of some samples."""
        words: dict[str, Any] = {}
        if (numbers := self.labels(ids)) is not None:
            words["label"] = numbers
        if self.prompts:
            words["prompt"] = [self.prompts[i % len(self.prompts)] for i in ids]
        if self.job.negative is not None:
            words["negative"] = self.job.negative
        return Batch(ids, *self.sampler.condition(words, self.key, ids))


def resolve(job: Job, sharding: Placement | None = None) -> Resolved:
    """Loads what a job names, and checks that it fits together.

    Args:
        job: What is asked for.
        sharding: Where to put the weights, as `skipjax.load` has it.

    Raises:
        ValueError: For whatever `load` and `sample` refuse.
    """
    model = loading.load(
        job.checkpoint,
        card=job.card,
        key=job.key,
        sharding=sharding,
        revision=job.revision,
        variant=job.variant,
    )
    if not isinstance(model, Pretrained):
        raise ValueError(f"{model.name} is a classifier: give it as classifier")
    if isinstance(model.codec, Latents):
        raise ValueError(
            f"{model.name} draws latents, and a job keeps pictures: skipjax.sample gives latents, "
            "and so does skipjax sample --out samples.npz"
        )
    asked = {f.name: getattr(job, f.name) for f in dataclasses.fields(SampleConfig)}
    sampler = request.resolve(model, SampleConfig(**asked), sharding)
    numbers, prompts = _numbers(job, sampler.labels, model.name), _prompts(job)
    resolved = Resolved(job, sampler, numbers, prompts, {})
    resolved.batch(np.arange(1))  # refuses words that are missing or not understood
    by = next((way for way in sampler.guidance if isinstance(way, ByClassifier)), None)
    guide = next((way for way in sampler.guidance if isinstance(way, Autoguidance)), None)
    identity = {
        "model": parts.describe(model)
        | {"sha256": loading.sha256(job.checkpoint, job.revision, job.variant), "key": job.key},
        "classifier": by
        and parts.describe(by.classifier) | {"sha256": loading.sha256(str(job.classifier))},
        "plan": json.loads(sampler.plan.to_json()),
        "shape": sampler.shape,
        "guidance": [_numbers_of(way) for way in sampler.guidance],
        "transform": _numbers_of(sampler.transform),
        "dtype": sampler.dtype.name,
        "labels": _describe_labels(job, numbers),
        "prompts": prompts if len(prompts) < 2 else _digest("\n".join(prompts).encode()),
        "negative": job.negative,
        "num": job.num,
        "seed": job.seed,
        "shard_size": job.shard_size,
        "format": job.format,
    }
    if guide is not None:
        known = parts.describe(guide.model) | {"sha256": loading.sha256(str(job.guide))}
        identity["guide"] = known
    return resolved._replace(identity=json.loads(json.dumps(identity)))


def name_of(identity: dict[str, Any]) -> str:
    """The hash that names a job."""
    return _digest(json.dumps(identity, sort_keys=True).encode())


def fields_of(job: Job) -> dict[str, Any]:
    """The fields of a job, as JSON has them."""
    return json.loads(json.dumps(dataclasses.asdict(job)))


def _numbers_of(value: Any) -> dict[str, Any]:
    """What a guidance or transform is, apart from weights."""
    known: dict[str, Any] = {"kind": type(value).__name__}
    for field in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
        if not isinstance(found := getattr(value, field.name), (Classifier, Pretrained)):
            known[field.name] = jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), found)
    return known


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _numbers(job: Job, labels: Labels | None, name: str) -> np.ndarray | None:
    """The labels that samples take in turn, if they are not drawn."""
    if job.labels == (UNIFORM,):
        return None
    if labels is None:
        raise ValueError(f"{name} is unconditional: it takes no labels, got {job.labels}")
    if job.labels == (BALANCED,):
        return labels.of_class(np.arange(labels.classes, dtype=np.int32))
    given: Sequence[str] = job.labels
    if len(given) == 1 and given[0].endswith(".txt"):
        given = _lines("labels", Path(given[0]))
        if len(given) != job.num:
            raise ValueError(
                f"labels: {job.labels[0]} has {len(given)} lines for {job.num} samples"
            )
    number = {label: labels.number(label) for label in dict.fromkeys(given)}
    return np.array([number[label] for label in given], np.int32)


def _prompts(job: Job) -> tuple[str, ...]:
    if job.prompt is None:
        return ()
    if not job.prompt.endswith(".txt"):
        return (job.prompt,)
    found = _lines("prompt", Path(job.prompt))
    if not found:
        raise ValueError(f"prompt: {job.prompt} has no lines")
    return found


def _lines(what: str, path: Path) -> tuple[str, ...]:
    try:
        lines = tuple(path.read_text(encoding="utf-8").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{what}: {path} cannot be read ({error})") from None
    return lines[:-1] if lines and not lines[-1] else lines


def _describe_labels(job: Job, numbers: np.ndarray | None) -> Any:
    """How the labels are recorded: the numbers themselves while they are few."""
    if numbers is None or job.labels == (BALANCED,):
        return job.labels[0]
    if len(numbers) <= 1000:
        return numbers.tolist()
    return {"file": job.labels[0], "sha256": _digest(numbers.tobytes())}
