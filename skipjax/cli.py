"""The command `skipjax`."""

import json
import os
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import platformdirs
import tyro
from tqdm import tqdm

import skipjax
from skipjax import api, grids, images, labels, plans, request, schedules
from skipjax.checks import whole
from skipjax.files import pending
from skipjax.generation import generate
from skipjax.models import param_shapes
from skipjax.plans import Plan
from skipjax.pretrained import Classifier, Pretrained
from skipjax.weights import cards, folders, released

BAD_INPUT, INTERRUPTED = 2, 130  # exit codes


def _number(typed: list[str]) -> int | str:
    """An int; or, as it was typed, what is none: `whole` refuses it in one line, by name."""
    try:
        return int(typed[0])
    except ValueError:
        return typed[0]


Whole = Annotated[
    int,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=_number,
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    ),
]


@dataclass
class Sample:
    """Draw pictures from a checkpoint and save them."""

    checkpoint: str = "emoji32"
    """A bundled name, a checkpoint's folder, or a released .pt or .safetensors."""
    card: str | None = None
    """Card that describes a released file, a name or a .json; found by its name, unless told."""
    skip: Whole = 20
    """Stride over the training times: of 1000, 20 leaves 50 network calls."""
    cutoff: Whole = 0
    """Steps that start at this time or above are skipped-step, those below DDIM."""
    steps: str | None = None
    """One of ADM's strings instead of skip and cutoff, for its own sampler: "250", "ddim25"; or
    how many times the grid of a named plan has."""
    plan: str | None = None
    """Another sampler: a name that `skipjax plans` lists, or a .json that Plan.to_json wrote."""
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
    num: Whole = 4
    """How many pictures; with low_res as many as it holds."""
    labels: tuple[str, ...] = ()
    """Classes by number or name, taken in turn; drawn at random where none is given."""
    seed: Whole = 0
    """Of all randomness. A picture depends on the seed and its place, not on num or batch."""
    batch: Whole = 16
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
            chosen = None if self.plan is None else _plan(self.plan)
            plan = request.plan(
                params, self.skip, self.cutoff, self.steps, None, chosen, self.grid
            )
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

            def arguments(chosen: np.ndarray) -> tuple:
                y = None if label is None else label[chosen]
                small = None if low_res is None else low_res[chosen]
                return api.place(params, plan, key, ids[chosen], y, low_res=small, guide=guide)

            threshold, dtype = request.threshold(self.threshold), jnp.dtype(self.dtype)
            pictures, compiling, sampling = _draw(arguments, len(ids), batch, threshold, dtype)
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


@dataclass
class Plans:
    """List the samplers that --plan knows."""

    def __call__(self) -> None:
        """Prints a table, with K from a plan that is written."""
        schedule = schedules.linear()
        rows = [("plan", "order", "NFE", "per step", "K", "noise", "")]
        for name, method in plans.METHODS.items():
            plan = plans.write(name, schedule, grids.trailing(schedule.T, 10))
            noise = "yes" if plan.noise.any() else "no"
            numbers = (str(method.order), method.nfe, str(method.calls), str(plan.history))
            rows.append((name, *numbers, noise, method.about))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
        print(
            "\nOrder of convergence, weak where there is noise. NFE: network calls for N times in "
            "the grid.\nK: predictions that a step looks back at. Skipped-step sampling joined "
            "with DDIM: --skip and --cutoff."
        )


@dataclass
class Info:
    """Say what is known of a checkpoint, and what its network is made of."""

    checkpoint: Annotated[str, tyro.conf.Positional] = "emoji32"
    """A bundled or released name, a checkpoint's folder, or a released file."""

    def __call__(self) -> None:
        """Prints the card, then the parameters block by block."""
        card = cards.describe(self.checkpoint)
        print(json.dumps(card, indent=2, ensure_ascii=False))
        shapes = param_shapes(folders.architecture(cards.spec(card)))
        blocks = {
            block: sum(leaf.size for leaf in jax.tree.leaves(params))
            for block, params in shapes.items()
        }
        width = max(map(len, blocks))
        for block, count in blocks.items():
            print(f"{block:{width}}  {count:>12,}")
        print(f"{'parameters':{width}}  {sum(blocks.values()):>12,}")


@dataclass
class Convert:
    """Turn a released file of weights into a checkpoint's folder, with its card and checksums."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A .pt or .safetensors."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to make."""
    card: str | None = None
    """Card that describes the file, a name or a .json; found by the file's name, unless told."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """To store the weights in."""

    def __call__(self) -> None:
        """Converts, and says what came of it."""
        if not self.file.is_file():
            raise ValueError(f"{self.file} is not a file: give a .pt or .safetensors")
        card = released.convert(self.file, self.out, self.card, jnp.dtype(self.dtype))
        size = sum(path.stat().st_size for path in self.out.rglob("*") if path.is_file())
        print(
            f"{card['name']}: {card['parameters']:,} parameters, {self.dtype}, "
            f"{size / 1e9:.2f} GB. Saved: {self.out}"
        )


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; bad input ends it with one line and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"skipjax {skipjax.__version__}")
        return
    command = tyro.cli(
        Annotated[Sample, tyro.conf.subcommand("sample")]
        | Annotated[Plans, tyro.conf.subcommand("plans")]
        | Annotated[Info, tyro.conf.subcommand("info")]
        | Annotated[Convert, tyro.conf.subcommand("convert")],
        prog="skipjax",
        args=arguments,
        description="Sampling from pretrained diffusion models in JAX. Also: skipjax --version",
    )
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(platformdirs.user_cache_dir("skipjax")) / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    try:
        command()
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"skipjax: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("skipjax: interrupted, nothing was saved", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _draw(
    arguments: Callable[[np.ndarray], tuple],
    num: int,
    batch: int,
    threshold: float | None,
    dtype: jnp.dtype,
) -> tuple[np.ndarray, float, float]:
    """uint8 pictures, and the seconds spent compiling and sampling.

    Args:
        arguments: Those of `generate`, for the pictures at some places of all.
        num: How many pictures there are.
        batch: How many to compute at a time.
        threshold: Quantile of dynamic thresholding, if any.
        dtype: What to compute in.
    """
    # Beyond the end the last picture is drawn again, so that all batches are of one shape.
    batches = [np.minimum(np.arange(i, i + batch), num - 1) for i in range(0, num, batch)]
    # A bar over batches, not steps: a program that calls back to the host is never cached on disk.
    with tqdm(total=len(batches), desc="compiling", unit="batch") as bar:
        began = time.perf_counter()
        options = {"threshold": threshold}
        compiled = generate.lower(*arguments(batches[0]), **options, dtype=dtype).compile()
        ready = time.perf_counter()
        bar.set_description("sampling")
        pictures = []
        for chosen in batches:
            drawn = api.finite(compiled(*arguments(chosen), **options)[:batch], chosen)
            pictures.append(images.to_uint8(drawn))
            bar.update()
        done = time.perf_counter()
    return np.concatenate(pictures)[:num], ready - began, done - ready


def _plan(text: str) -> Plan | str:
    """The plan in a file, or the name of one."""
    if not text.endswith(".json"):
        return text
    try:
        return Plan.from_json(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"plan: {text} holds none ({error})") from None


def _read(path: Path) -> np.ndarray:
    """The pictures of an .npz, as ADM and this command write them."""
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file) as arrays:
            return arrays["arr_0"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"low_res: {path} is no .npz with pictures in arr_0 ({error})") from None
