"""The command `skipjax`."""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import platformdirs
import tyro
from tqdm import tqdm

import skipjax
from skipjax import api, images, labels, plans
from skipjax.checks import whole
from skipjax.models import param_shapes
from skipjax.plans import Plan
from skipjax.pretrained import Pretrained
from skipjax.weights import cards

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
    """A bundled name, or a checkpoint's folder."""
    skip: Whole = 20
    """Stride over the training times: of 1000, 20 leaves 50 network calls."""
    cutoff: Whole = 0
    """Steps that start at this time or above are skipped-step, those below DDIM."""
    num: Whole = 4
    """How many pictures."""
    labels: tuple[str, ...] = ()
    """Classes by number or name, taken in turn; drawn at random where none is given."""
    seed: Whole = 0
    """Of all randomness. A picture depends on the seed and its place, not on num or batch."""
    batch: Whole = 16
    """How many pictures are computed at a time, at most."""
    out: Path = Path("samples.png")
    """A grid as .png, or .npz with arr_0 (uint8, NHWC) and arr_1 (labels)."""

    def __call__(self) -> None:
        """Samples, and says how long it took."""
        if self.out.suffix not in (".png", ".npz"):
            raise ValueError(f"out is {str(self.out)!r}: its name must end in .png or .npz")
        num = whole("num", self.num, 1, 2**32)
        batch = min(whole("batch", self.batch, 1), num)
        with images.pending(self.out) as pending:
            params = api.load(self.checkpoint)
            plan = plans.skipped(params.schedule, self.skip, self.cutoff)
            key, ids = jax.random.key(whole("seed", self.seed, 0, 2**32 - 1)), np.arange(num)
            asked = [self.labels[i % len(self.labels)] for i in ids] if self.labels else None
            label = labels.resolve(params.spec, key, ids, asked)
            pictures, compiling, sampling = _draw(params, plan, key, ids, label, batch)
            if self.out.suffix == ".png":
                images.grid(pictures).save(pending)
            else:
                arrays = [pictures] if label is None else [pictures, label]
                np.savez(pending, *arrays)
        print(
            f"{num} pictures, {plan.nfe} NFE each, in {sampling:.1f} s: {num / sampling:.2f} "
            f"pictures/s, after {compiling:.1f} s to compile. Saved: {self.out}"
        )


@dataclass
class Info:
    """Say what is known of a checkpoint, and what its network is made of."""

    checkpoint: Annotated[str, tyro.conf.Positional] = "emoji32"
    """A bundled name, or a checkpoint's folder."""

    def __call__(self) -> None:
        """Prints the card, then the parameters block by block."""
        card = cards.read(cards.find(self.checkpoint))
        print(json.dumps(card, indent=2, ensure_ascii=False))
        blocks = {
            block: sum(leaf.size for leaf in jax.tree.leaves(params))
            for block, params in param_shapes(cards.spec(card).unet).items()
        }
        width = max(map(len, blocks))
        for block, count in blocks.items():
            print(f"{block:{width}}  {count:>12,}")
        print(f"{'parameters':{width}}  {sum(blocks.values()):>12,}")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; bad input ends it with one line and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"skipjax {skipjax.__version__}")
        return
    command = tyro.cli(
        Annotated[Sample, tyro.conf.subcommand("sample")]
        | Annotated[Info, tyro.conf.subcommand("info")],
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
    params: Pretrained,
    plan: Plan,
    key: jax.Array,
    ids: np.ndarray,
    label: np.ndarray | None,
    batch: int,
) -> tuple[np.ndarray, float, float]:
    """uint8 pictures, and the seconds spent compiling and sampling."""
    num = len(ids)
    batches = [np.arange(start, start + batch) for start in range(0, num, batch)]

    def arguments(chosen):
        # Beyond the end the last picture is drawn again, so that all batches are of one shape.
        chosen = np.minimum(chosen, num - 1)
        return api.place(params, plan, key, ids[chosen], None if label is None else label[chosen])

    # A bar over batches, not steps: a program that calls back to the host is never cached on disk.
    with tqdm(total=len(batches), desc="compiling", unit="batch") as bar:
        began = time.perf_counter()
        compiled = api.generate.lower(*arguments(batches[0])).compile()
        ready = time.perf_counter()
        bar.set_description("sampling")
        pictures = []
        for chosen in batches:
            drawn = api.finite(compiled(*arguments(chosen))[:batch], np.minimum(chosen, num - 1))
            pictures.append(images.to_uint8(drawn))
            bar.update()
        done = time.perf_counter()
    return np.concatenate(pictures)[:num], ready - began, done - ready
