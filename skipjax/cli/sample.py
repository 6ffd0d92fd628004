"""A few pictures, as a grid or as arrays."""

import sys
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from skipjax import api, images, labels, plans, request
from skipjax.checks import whole
from skipjax.compiled import Batch, Compiled
from skipjax.files import pending
from skipjax.plans import Plan
from skipjax.pretrained import Classifier, Pretrained
from skipjax.tuning.shipped import shipped


@dataclass
class Sample:
    """Draw pictures from a checkpoint and save them."""

    checkpoint: str = "emoji32"
    """A bundled name, a checkpoint's folder, or a released .pt or .safetensors."""
    card: str | None = None
    """Card that describes a released file, a name or a .json; found by its name, unless told."""
    skip: int = 20
    """Stride over the training times: of 1000, 20 leaves 50 network calls."""
    cutoff: int = 0
    """Steps that start at this time or above are skipped-step, those below DDIM."""
    steps: str | None = None
    """One of ADM's strings instead of skip and cutoff, for its own sampler: "250", "ddim25"; or
    how many times the grid of a named plan has."""
    plan: str | None = None
    """Another sampler: a name that `skipjax plans` lists, or a .json that Plan.to_json wrote."""
    nfe: int | None = None
    """Network calls, instead of skip and steps: of the plan that is named; or of one that was
    tuned for the checkpoint and comes with it, where there is one, and of dpmpp_2m otherwise."""
    foreign: bool = False
    """Say nothing where a plan was tuned for another checkpoint."""
    grid: str | None = None
    """Times of a named plan: uniform, quadratic, uniform_log_snr, karras, leading, trailing or
    linspace; trailing, unless told."""
    classifier: Path | None = None
    """Checkpoint of a classifier, to guide by."""
    guidance: float | None = None
    """Scale of guidance; 1 where a classifier is given."""
    threshold: float | None = None
    """Quantile of dynamic thresholding, such as 0.995, instead of clipping to [-1, 1]."""
    low_res: Path | None = None
    """.npz whose arr_0 holds the pictures to enlarge, as this command writes them."""
    num: int = 4
    """How many pictures; with low_res as many as it holds."""
    labels: tuple[str, ...] = ()
    """Classes by number or name, taken in turn; drawn at random where none is given."""
    seed: int = 0
    """Of all randomness. A picture depends on the seed and its place, not on num or batch."""
    batch: int = 16
    """How many pictures are computed at a time, at most."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the networks compute in."""
    out: Path = Path("samples.png")
    """A grid as .png, or .npz with arr_0 (uint8, NHWC) and arr_1 (labels)."""

    def __call__(self) -> None:
        """Samples, and says how long it took."""
        if self.out.suffix not in (".png", ".npz"):
            raise ValueError(f"out is {str(self.out)!r}: its name must end in .png or .npz")
        with pending(self.out) as temporary:
            params = api.load(self.checkpoint, card=self.card)
            if isinstance(params, Classifier):
                raise ValueError(f"{params.spec.name} is a classifier: give it as --classifier")
            spec = params.spec
            plan = self._plan(params)
            low_res = request.low_res(spec, None if self.low_res is None else _read(self.low_res))
            ids = request.ids(self.num, None, low_res)
            batch = min(whole("batch", self.batch, 1), len(ids))
            classifier = None if self.classifier is None else api.load(self.classifier)
            if isinstance(classifier, Pretrained):
                raise ValueError(f"{classifier.spec.name} is no classifier: it draws pictures")
            guide = request.guide(spec, plan, self.guidance, classifier, None)
            key = jax.random.key(whole("seed", self.seed, 0, 2**32 - 1))
            asked = [self.labels[i % len(self.labels)] for i in ids] if self.labels else None
            label = labels.resolve(request.labelled(spec, guide), key, ids, asked)

            options = {
                "threshold": request.threshold(self.threshold),
                "dtype": jnp.dtype(self.dtype),
            }
            pictures, compiling, sampling = _draw(
                Batch(ids, label, low_res),
                batch,
                lambda like: Compiled(params, plan, key, like, guide=guide, **options),
            )
            if self.out.suffix == ".png":
                images.grid(pictures).save(temporary)
            else:
                arrays = [pictures] if label is None else [pictures, label]
                np.savez(temporary, *arrays)
        print(
            f"{len(ids)} pictures, {plan.nfe} NFE each, in {sampling:.1f} s: "
            f"{len(ids) / sampling:.2f} pictures/s, after {compiling:.1f} s to compile. "
            f"Saved: {self.out}"
        )

    def _plan(self, params: Pretrained) -> Plan:
        """The sampler that is asked for; a word to people where it was chosen for them."""
        chosen = None if self.plan is None else request.plan_or_name(self.plan)
        steps, taken = self.steps, None
        if self.nfe is not None:
            nfe = whole("nfe", self.nfe, 1)
            if steps is not None:
                raise ValueError("nfe is given, and steps too, which it replaces: drop one")
            path = shipped(self.checkpoint).get(nfe) if self.plan is None else None
            if path is not None:
                chosen = Plan.from_json(path.read_text(encoding="utf-8"))
                taken = f"{path}, {chosen.origin.method if chosen.origin else 'of your own'}"
            elif not isinstance(chosen, Plan):
                name = chosen or "dpmpp_2m"
                chosen, steps = name, plans.times_for(name, nfe)
                taken = f"{name}, not tuned for {params.spec.name}"
            elif chosen.nfe != nfe:
                raise ValueError(f"nfe is {nfe}, and the plan makes {chosen.nfe} calls: drop one")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            plan = request.plan(params, self.skip, self.cutoff, steps, None, chosen, self.grid)
        if taken is not None:
            print(f"Plan: {taken}")
        for warning in said if not self.foreign else ():
            print(f"skipjax: {warning.message}. --foreign says that you know", file=sys.stderr)
        return plan


def _draw(
    every: Batch, size: int, compiled: Callable[[Batch], Compiled]
) -> tuple[np.ndarray, float, float]:
    """uint8 pictures, and the seconds spent compiling and sampling.

    Args:
        every: What is told of all of them.
        size: How many to compute at a time.
        compiled: Compiles for batches like one of that size.
    """
    places = np.arange(len(every.ids))
    batches = [places[i : i + size] for i in range(0, len(places), size)]
    # A bar over batches, not steps: a program that calls back to the host is never cached on disk.
    with tqdm(total=len(batches), desc="compiling", unit="batch") as bar:
        began = time.perf_counter()
        program = compiled(every.take(batches[0]))
        ready = time.perf_counter()
        bar.set_description("sampling")
        pictures = []
        for chosen in batches:
            drawn = api.finite(program(every.take(chosen))[: len(chosen)], every.ids[chosen])
            pictures.append(images.to_uint8(drawn))
            bar.update()
        done = time.perf_counter()
    return np.concatenate(pictures), ready - began, done - ready


def _read(path: Path) -> np.ndarray:
    """The pictures of an .npz, as ADM and this command write them."""
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file) as arrays:
            return arrays["arr_0"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"low_res: {path} is no .npz with pictures in arr_0 ({error})") from None
