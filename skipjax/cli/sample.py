"""A few samples, as a grid or as arrays."""

import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from tqdm import tqdm

from skipjax import progress
from skipjax.checks import whole
from skipjax.cli.options import Repeated, Weights
from skipjax.codecs import Identity, Latents, images
from skipjax.config import SampleConfig, Sampler, as_ids, prompts, resolve
from skipjax.config.words import Picture, in_turn
from skipjax.files import pending
from skipjax.jobs.compiled import Batch, Compiled
from skipjax.jobs.formats import chunk
from skipjax.plans import Plan
from skipjax.pretrained import Pretrained


@dataclass
class Sample:
    """Draw samples from a checkpoint and save them."""

    config: Annotated[SampleConfig, tyro.conf.OmitArgPrefixes] = field(
        default_factory=SampleConfig
    )
    checkpoint: str = "emoji32"
    """A bundled name, a checkpoint's folder, a released .pt or .safetensors, a folder that
    diffusers wrote, or a name of the Hugging Face hub."""
    card: str | None = None
    """Card that describes a released file, a name or a .json. Default: found by its name."""
    weights: Annotated[Weights, tyro.conf.OmitArgPrefixes] = field(default_factory=Weights)
    foreign: bool = False
    """Say nothing where a plan was tuned for another checkpoint."""
    low_res: Path | None = None
    """.npz whose arr_0 holds the pictures to enlarge, as this command writes them."""
    num: int | None = None
    """How many samples. Default: as many as low_res holds, or prompts are given, else 4."""
    labels: Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--label",))] = ()
    """Classes by number or name, taken in turn. Default: drawn at random."""
    prompt: Repeated = ()
    """What to draw, in words; several by several --prompt, taken in turn; or a .txt with one on
    each line, a .csv or .jsonl of them."""
    negative: str | None = None
    """What to keep away from, in words; with guidance."""
    picture: Annotated[Picture, tyro.conf.OmitArgPrefixes] = field(default_factory=Picture)
    latents: bool = False
    """Keep what is diffused, not decoded, as float32; with --out samples.npz."""
    seed: int = 0
    """Of all randomness. A sample depends on the seed and its place, not on num or batch."""
    batch: int = 16
    """How many samples are computed at a time, at most."""
    out: Path = Path("samples.png")
    """A grid as .png, whose text "skipjax" says what was asked for; or .npz with arr_0 (uint8,
    NHWC; of latents float32), arr_1 (labels) and captions (prompts)."""

    def __call__(self) -> None:
        """Samples, and says how long it took."""
        if self.out.suffix not in (".png", ".npz"):
            raise ValueError(f"out is {str(self.out)!r}: its name must end in .png or .npz")
        with pending(self.out) as temporary:
            model = self.weights.load(self.checkpoint, self.card, other="--classifier")
            with warnings.catch_warnings():
                known = "ignore" if self.foreign else "always"
                warnings.filterwarnings(known, "the plan was tuned for")
                sampler = resolve(model, self.config)
            if self.latents:
                sampler = sampler._replace(model=sampler.model.replace(codec=Latents()))
            is_latents = isinstance(sampler.model.codec, Latents)
            if self.out.suffix == ".png" and is_latents:
                what = "latents are" if self.latents else f"{model.name} draws latents,"
                raise ValueError(f"{what} no pictures: --out samples.npz")
            if self.out.suffix == ".png":
                shape = images.shape_of(sampler.model, sampler.shape)
                images.check_png(shape, "--out samples.npz")
            if self.config.nfe is not None:
                print(f"Plan: {_name(sampler.plan, model)}")
            key = jax.random.key(whole("seed", self.seed, 0, 2**32 - 1))
            words, ids = self._words(sampler)
            every = _encode(sampler, words, key, ids)
            size = min(whole("batch", self.batch, 1), len(ids))
            keep = np.asarray if is_latents else images.to_uint8
            if jax.tree.leaves((sampler.model.conditioner, sampler.model.codec)):
                drawn = _draw_by_steps(every, size, sampler, key, keep)
            else:
                drawn = _draw(every, size, lambda like: Compiled(sampler, key, like), keep)
            samples, compiling, sampling = drawn
            if self.out.suffix == ".png":
                images.grid(samples).save(temporary, pnginfo=chunk(self._about(sampler, words)))
            else:
                label = (every.condition or {}).get("label", (every.condition or {}).get("class"))
                arrays = [samples] if label is None else [samples, label]
                named: dict[str, Any] = dict(zip(("arr_0", "arr_1"), arrays, strict=False))
                if self.prompt:
                    named["captions"] = np.array(words["prompt"], str)
                savez: Any = np.savez  # whose types take no names
                savez(temporary, **named)
        print(
            f"{len(ids)} pictures, {sampler.plan.nfe} NFE each, in {sampling:.1f} s: "
            f"{len(ids) / sampling:.2f} pictures/s, after {compiling:.1f} s to compile. "
            f"Saved: {self.out}"
        )

    def _words(self, sampler: Sampler) -> tuple[dict[str, Any], np.ndarray]:
        """What the samples are told, and their ids."""
        typed = prompts.of_command(self.prompt)
        words: dict[str, Any] = {"prompt": typed.prompts or None, "negative": self.negative}
        if typed.negatives is not None:
            words["negative"] = typed.negatives
        words["low_res"] = None if self.low_res is None else _read(self.low_res)
        words = {name: value for name, value in words.items() if value is not None}
        words |= self.picture.words
        sampler.check(words)
        ids = as_ids(self.num, None, sampler.number_of(words) or 4)
        in_turns = {"label": self.labels or None}
        in_turns |= {name: words[name] for name in ("prompt", "negative") if name in words}
        for name, given in in_turns.items():
            if given is not None and not isinstance(given, str):
                words[name] = in_turn(given, ids)
        return words, ids

    def _about(self, sampler: Sampler, words: dict[str, Any]) -> dict[str, Any]:
        """What was asked for, as a picture says it."""
        asked = {k: v for k, v in asdict(self.config).items() if v not in (None, False)}
        asked |= {k: v for k, v in words.items() if k != "low_res"}
        for name in ("prompt", "negative"):
            if name in asked and len({*asked[name]}) == 1 and not isinstance(asked[name], str):
                asked[name] = asked[name][0]
        weights = {k: v for k, v in asdict(self.weights).items() if v}
        known = {"checkpoint": self.checkpoint, **weights, "seed": self.seed}
        return known | asked | {"plan": str(sampler.plan)}


def _encode(sampler: Sampler, words: dict[str, Any], key: jax.Array, ids: np.ndarray) -> Batch:
    """What the network is told of all samples; with a bar where words are encoded by one."""
    encodes = bool(jax.tree.leaves(sampler.model.conditioner))
    with progress.stage(encodes, "encoding", len(ids), "prompt", late=True):
        return Batch(ids, *sampler.condition(words, key, ids))


def _name(plan: Plan, model: Pretrained) -> str:
    method = plan.origin.method if plan.origin else "of your own"
    tuned = plan.origin is not None and plan.origin.tuned is not None
    return f"{method}, {'tuned' if tuned else 'not tuned'} for {model.name}"


def _draw(
    every: Batch,
    size: int,
    compiled: Callable[[Batch], Compiled],
    keep: Callable[[Any], np.ndarray],
) -> tuple[np.ndarray, float, float]:
    """Samples as they are kept, and the seconds spent compiling and sampling.

    Args:
        every: What is told of all of them.
        size: How many to compute at a time.
        compiled: Compiles for batches like one of that size.
        keep: Of a batch's samples, what is kept.
    """
    batches = _batches(len(every.ids), size)
    began = time.perf_counter()
    program = compiled(every.take(batches[0]))
    ready = time.perf_counter()
    with tqdm(total=len(every.ids), desc="sampling", unit="picture") as bar:
        samples = []
        for chosen in batches:
            drawn = images.finite(program(every.take(chosen))[: len(chosen)], every.ids[chosen])
            samples.append(keep(drawn))
            bar.update(len(chosen))
        done = time.perf_counter()
    return np.concatenate(samples), ready - began, done - ready


def _draw_by_steps(
    every: Batch,
    size: int,
    sampler: Sampler,
    key: jax.Array,
    keep: Callable[[Any], np.ndarray],
) -> tuple[np.ndarray, float, float]:
    """As `_draw`, with bars over network calls and over what is decoded: for networks whose calls
    take seconds.
    """
    batches = _batches(len(every.ids), size)
    began = time.perf_counter()
    program = Compiled(sampler, key, every.take(batches[0]), by_steps=True)
    ready = time.perf_counter()
    with tqdm(total=sampler.plan.nfe * len(batches), desc="sampling", unit="call") as bar:
        diffused = [program.diffuse(every.take(chosen), bar.update) for chosen in batches]
    samples = []
    as_it_is = isinstance(sampler.model.codec, Identity)
    with tqdm(total=len(every.ids), desc="decoding", unit="picture", disable=as_it_is) as bar:
        for chosen, z in zip(batches, diffused, strict=True):
            drawn = images.finite(program.decode(z)[: len(chosen)], every.ids[chosen])
            samples.append(keep(drawn))
            bar.update(len(chosen))
    return np.concatenate(samples), ready - began, time.perf_counter() - ready


def _batches(num: int, size: int) -> list[np.ndarray]:
    places = np.arange(num)
    return [places[i : i + size] for i in range(0, num, size)]


def _read(path: Path) -> np.ndarray:
    """The pictures of an .npz, as ADM and this command write them."""
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file) as arrays:
            return arrays["arr_0"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"low_res: {path} is no .npz with pictures in arr_0 ({error})") from None
