"""What a whole picture of Stable Diffusion 1.5 takes: memory, and time beyond the bare calls.

The peak of memory of a process that draws one 512 x 512 picture, guided, with its weights in
float32, and in bfloat16 and computed so, over the bytes of the parameters; without what Python and
JAX take before them. No aim.

Whole `skipjax.sample` (words to picture) over the same calls by hand: the text encoder, the jitted
U-Net on a doubled batch as often as the plan has rows, the decoder. Run in turn; medians. Aim: at
most 1.01.

    python tests/benchmarks/stable_diffusion_picture.py [--parts memory overhead] [--steps 4]
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measuring import fresh, interleaved, line, peak_memory, ratio, seconds
from stable_diffusion_parts import pipeline

import skipjax
from skipjax.conditioners import Tokenizer

sys.path.append(str(Path(__file__).parents[1]))
import tiny_vocabulary

GB = 1e9
WIDTHS = {"float32": 4, "bfloat16": 2}
WORDS = {"prompt": "a fox in the snow", "negative": "blurry", "guidance": 7.5}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="A whole picture of Stable Diffusion 1.5.")
    parser.add_argument("--parts", nargs="+", default=["memory", "overhead"])
    parser.add_argument("--steps", type=int, default=4, help="network calls of a picture")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--tiny", action="store_true", help="to try it out")
    parser.add_argument("--child", choices=WIDTHS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(drawn(options.child, options.steps, options.tiny)))
        return
    if "memory" in options.parts:
        for dtype in WIDTHS:
            memory(dtype, options.tiny)
    if "overhead" in options.parts:
        overhead(options.steps, options.repeats, options.tiny)


def memory(dtype: str, tiny: bool) -> None:
    """The peak of a process that draws a picture."""
    tries = ["--child", dtype, "--steps", "2", *["--tiny"] * tiny]
    run = fresh(__file__, *tries)
    over = run["peak"] / run["parameters"]
    detail = f"{run['peak'] / GB:.2f} GB, of {run['parameters'] / GB:.2f} GB of parameters"
    detail += f"; {run['before'] / GB:.2f} GB with them alone"
    line(f"A picture in {dtype}: peak memory / parameters", over, None, detail)


def drawn(dtype: str, steps: int, tiny: bool) -> dict[str, float]:
    """Bytes that a picture takes in this process, beyond what was there before the weights."""
    jnp.zeros(1).block_until_ready()
    start = peak_memory()
    model = jax.block_until_ready(loaded(dtype, tiny))
    before = peak_memory() - start
    skipjax.sample(model, jax.random.key(0), num=1, plan="ddim", steps=steps, dtype=dtype, **WORDS)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    return {"peak": peak_memory() - start, "before": before, "parameters": size}


def overhead(steps: int, repeats: int, tiny: bool) -> None:
    """`skipjax.sample` over the bare calls."""
    model, key, ids = loaded("float32", tiny), jax.random.key(0), np.arange(1)
    words: Any = {"prompt": WORDS["prompt"]}
    first = jax.local_devices()[:1]
    network = jax.jit(model.network.apply)
    x = jax.random.normal(key, (2, *model.shape))
    t = jnp.full(2, 500.0)

    def sample() -> None:
        options: Any = {"plan": "ddim", "steps": steps, "devices": first} | WORDS
        skipjax.sample(model, key, num=1, **options).block_until_ready()

    def calls() -> None:
        condition = model.conditioner.encode(words, key, ids)
        null = model.conditioner.null(condition, WORDS["negative"])
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), condition, null)
        for _ in range(steps):
            out = network(model.params, x, t, both)
        skipjax.decode(model, out[:1]).block_until_ready()

    for case in (sample, calls):
        case()
    whole, bare = interleaved(repeats, lambda: seconds(sample), lambda: seconds(calls))
    ratio(f"A picture of {steps} calls / the same calls by hand", whole, bare, 1.01)


def loaded(dtype: str, tiny: bool) -> skipjax.Pretrained:
    """The pipeline, with a vocabulary that need not be CLIP's."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Tokenizer.read(tiny_vocabulary.write(Path(folder)))
    return pipeline(tokenizer, dtype, tiny)


if __name__ == "__main__":
    main()
