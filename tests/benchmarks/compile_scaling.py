"""What 1000 network calls cost to compile and to hold in memory, over 10.

Of `skipjax.generate` with emoji32:
- seconds to trace, lower and compile, each time anew (`jax.clear_caches`, no persistent cache),
  after one unmeasured compilation. In turn; medians. Aim: at most 1.1;
- memory of the compiled program by XLA's own analysis: arguments, output and temporaries.
  Aim: at most 1.05.

Of `skipjax.generate` with a small random network, 16 pictures of 16 x 16: peak resident memory
of a fresh process that compiles and runs it. In turn; medians. Aim: at most 1.05. (To hold the
noise or the points of 1000 steps would take 50 MB and miss it.)

    python tests/benchmarks/compile_scaling.py [--batch 16] [--repeats 5]
"""

import argparse
import json

import jax
import numpy as np
from measuring import fresh, interleaved, peak_memory, ratio, seconds

import skipjax

SKIPS = {1000: 1, 10: 100}


def arguments(params: skipjax.Pretrained, nfe: int, batch: int) -> tuple:
    """What `skipjax.generate` takes, for a plan of `nfe` rows."""
    plan = skipjax.plans.skipped(params.schedule, SKIPS[nfe])
    label = None if params.labels is None else {"label": np.zeros(batch, np.int32)}
    return params, plan, jax.random.key(0), np.arange(batch, dtype=np.uint32), label


def small() -> skipjax.Pretrained:
    """A random network that is fast enough for 1000 calls in seconds."""
    config = skipjax.models.UNetConfig(
        image_size=16,
        in_channels=3,
        model_channels=32,
        out_channels=6,
        num_res_blocks=1,
        attention_resolutions=(),
        channel_mult=(1,),
    )
    process = skipjax.Process(skipjax.schedules.linear())
    return skipjax.Pretrained(config.init(jax.random.key(0)), config, process)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="What 1000 network calls cost over 10.")
    parser.add_argument("--batch", type=int, default=16, help="pictures at a time")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--peak", type=int, choices=SKIPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)

    if options.peak:
        given = arguments(small(), options.peak, options.batch)
        skipjax.generate(*given).block_until_ready()
        print(json.dumps({"MB": peak_memory() / 1e6}))
        return

    params = skipjax.load("emoji32")
    given = {nfe: arguments(params, nfe, options.batch) for nfe in SKIPS}

    def compiled(nfe: int) -> jax.stages.Compiled:
        return jax.jit(skipjax.generate).lower(*given[nfe]).compile()

    def compiling(nfe: int) -> float:
        jax.clear_caches()
        return seconds(lambda: compiled(nfe))

    def held(nfe: int) -> float:
        of = compiled(nfe).memory_analysis()
        sizes = of.argument_size_in_bytes, of.output_size_in_bytes, of.temp_size_in_bytes
        return sum(sizes) / 1e6

    def peak(nfe: int) -> float:
        return fresh(__file__, "--peak", str(nfe), "--batch", str(options.batch))["MB"]

    over = f"1000 NFE / 10 NFE, batch {options.batch}"
    compiling(10)
    many, few = interleaved(options.repeats, lambda: compiling(1000), lambda: compiling(10))
    ratio(f"trace, lower, compile, {over}", many, few, 1.1)
    ratio(f"memory of the program, {over}", [held(1000)], [held(10)], 1.05, "MB")
    many, few = interleaved(options.repeats, lambda: peak(1000), lambda: peak(10))
    ratio(f"peak memory of a process, {over}", many, few, 1.05, "MB")


if __name__ == "__main__":
    main()
