"""What a job draws: asked for in words, and resolved to what fixes every pixel of it."""

import dataclasses
import json
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from skipjax import conditioners
from skipjax import config as request
from skipjax.checks import whole
from skipjax.codecs import Latents
from skipjax.conditioners import ClipText
from skipjax.config import LoadConfig, SampleConfig, Sampler
from skipjax.config import prompts as prompt_files
from skipjax.config.prompts import Prompts
from skipjax.config.words import Picture
from skipjax.guidance import Autoguidance, ByClassifier, Guidance
from skipjax.jobs import told as tell
from skipjax.jobs.compiled import Batch
from skipjax.jobs.told import UNIFORM, Told
from skipjax.plans import Plan
from skipjax.pretrained import Classifier, Pretrained
from skipjax.process import one_of
from skipjax.sharding import Placement
from skipjax.weights import loading, parts

NUM = 50_000  # samples, where nothing says how many


@dataclass(frozen=True)
class Job(SampleConfig, LoadConfig, Picture):
    """What to draw. Each field is an option of `skipjax generate`.

    Raises:
        ValueError: If `num`, `seed`, `shard_size` or `per_prompt` is no whole number in its range,
            or the format is not known.
    """

    checkpoint: str = "emoji32"
    """A bundled name, a checkpoint's folder, a released .pt or .safetensors, a folder that
    diffusers wrote, or a name of the Hugging Face hub."""
    card: str | None = None
    """Card that describes a released file, a name or a .json. Default: found by its name."""
    num: int | None = None
    """How many samples, with ids 0 .. num-1. Default: per_prompt of each prompt in a file, else
    50,000."""
    seed: int = 0
    """Of all randomness. A sample depends on the seed and its id alone."""
    labels: tuple[str, ...] = (UNIFORM,)
    """"uniform" draws a class for each sample from its id, "balanced" takes all classes in turn;
    or classes by number or name, taken in turn; or a .txt with a class on each line, one for each
    sample."""
    prompt: str | None = None
    """What to draw, in words; or a file as `prompts` has it."""
    negative: str | None = None
    """What to keep away from, in words; with guidance."""
    shard_size: int = 256
    """Samples to a file: what a worker that is killed may lose."""
    format: Literal["npz", "tar"] = "npz"
    """Of the files: .npz with ids, images (uint8, NHWC), labels and captions; or webdataset's .tar
    of PNGs."""
    prompts: str | None = None
    """A file of prompts, taken in turn, in UTF-8: a .txt with one on each line; a .csv with a
    column prompt, or a .jsonl of objects with that key, and negative beside it if need be."""
    per_prompt: int = 1
    """Samples of each prompt, one after the other."""

    def __post_init__(self):
        named = (self.labels,) if isinstance(self.labels, (str, int)) else tuple(self.labels)
        set_field = object.__setattr__
        set_field(self, "labels", tuple(map(str, named)))
        set_field(self, "per_prompt", whole("per_prompt", self.per_prompt, 1))
        if self.num is not None or not self._counts_prompts:
            num = NUM if self.num is None else self.num
            set_field(self, "num", whole("num", num, 1, 2**32))
        for field in dataclasses.fields(self):  # lists, where they come of JSON
            if isinstance(value := getattr(self, field.name), list) and field.name != "guidance":
                set_field(self, field.name, tuple(value))
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

    @property
    def _counts_prompts(self) -> bool:
        """Whether there are as many samples as prompts ask for, where nothing says how many."""
        of_file = self.prompts is not None or prompt_files.is_file(self.prompt or "")
        return of_file or (self.prompt is not None and self.per_prompt > 1)


class Resolved(NamedTuple):
    """A job with everything in it that was named.

    Attributes:
        job: What was asked for.
        sampler: What draws.
        told: What the samples are told.
        identity: What fixes the samples and the files, as JSON.
    """

    job: Job
    sampler: Sampler
    told: Told
    identity: dict[str, Any]

    @property
    def num(self) -> int:
        """How many samples there are."""
        return self.identity["num"]

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
        return self.told.labels_of(self.key, ids)

    def captions(self, ids: np.ndarray) -> np.ndarray | None:
        """Prompts of some samples, texts [len(ids)]; None where there are none."""
        return self.told.captions_of(ids)

    def batch(self, ids: np.ndarray) -> Batch:
        """What is told of some samples."""
        words = self.told.words(self.key, ids)
        return Batch(ids, *self.sampler.condition(words, self.key, ids))


def resolve(job: Job, sharding: Placement | None = None) -> Resolved:
    """Loads what a job names, and checks that it fits together.

    Args:
        job: What is asked for.
        sharding: Where to put the weights, as `skipjax.load` has it.

    Raises:
        ValueError: For whatever `load` and `sample` refuse.
    """
    model = job.load(job.checkpoint, job.card, sharding)
    if isinstance(model.codec, Latents):
        raise ValueError(
            f"{model.name} draws latents, and a job keeps pictures: skipjax.sample gives latents, "
            "and so does skipjax sample --out samples.npz"
        )
    asked = {f.name: getattr(job, f.name) for f in dataclasses.fields(SampleConfig)}
    sampler = request.resolve(model, SampleConfig(**asked), sharding)
    prompts = tell.read_prompts(job.prompt, job.prompts)
    num = _num(job, prompts)
    numbers = tell.numbers(job.labels, num, sampler.labels, model.name)
    common = job.words | ({} if job.negative is None else {"negative": job.negative})
    told = Told(sampler.labels, numbers, prompts, job.per_prompt, common)
    resolved = Resolved(job, sampler, told, {})
    resolved.batch(np.arange(1))  # refuses words that are missing or not understood
    by = next((way for way in sampler.guidance if isinstance(way, ByClassifier)), None)
    guide = next((way for way in sampler.guidance if isinstance(way, Autoguidance)), None)
    identity = {
        "model": parts.describe(sampler.model) | LoadConfig.identity(job, job.checkpoint),
        "classifier": by
        and parts.describe(by.classifier) | {"sha256": loading.sha256(str(job.classifier))},
        "plan": json.loads(sampler.plan.to_json()),
        "shape": sampler.shape,
        "guidance": [_numbers_of(way) for way in sampler.guidance],
        "transform": _numbers_of(sampler.transform),
        "dtype": sampler.dtype.name,
        "labels": tell.describe_numbers(job.labels, numbers),
        **told.identity,
        "negative": job.negative,
        "num": num,
        "seed": job.seed,
        "shard_size": job.shard_size,
        "format": job.format,
    }
    if job.words:
        identity["words"] = job.words
    if guide is not None:
        known = parts.describe(guide.model) | {"sha256": loading.sha256(str(job.guide))}
        identity["guide"] = known
    remembering = sampler._replace(model=_remembering(sampler.model, prompts, job.negative))
    known = json.loads(json.dumps(identity))
    return resolved._replace(sampler=remembering, identity=known)


def _remembering(model: Pretrained, prompts: Prompts | None, negative: str | None) -> Pretrained:
    """The model with text encoders that say what they said before of a prompt that comes again,
    of as many chunks whatever it comes with: a sample is the same in all batches.
    """
    text = conditioners.part(model.conditioner, ClipText)
    if text is None or prompts is None:
        return model
    every = {*prompts.prompts, *(prompts.negatives or ()), negative or ""}
    long = replace(text, chunks=text.chunks_for([*every]))
    several = [long if one is text else one for one in conditioners.parts(model.conditioner)]
    joined = conditioners.join(several)
    assert joined is not None
    return model.replace(conditioner=conditioners.remember(joined))


def name_of(identity: dict[str, Any]) -> str:
    """The hash that names a job."""
    return tell.digest(json.dumps(identity, sort_keys=True).encode())


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


def _num(job: Job, prompts: Prompts | None) -> int:
    """How many samples there are to draw."""
    if job.num is not None or prompts is None:
        return job.num or NUM
    return len(prompts.prompts) * job.per_prompt
