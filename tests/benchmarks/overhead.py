"""What sampling costs beyond its network calls.

Whole `skipjax.sample`, checks and transfers included, over as many bare calls of the jitted
network: emoji32, the same batch, params, x, t and y on the device already, calls dispatched one
after another and waited for once, at the end. One device. Both are warmed up, then run in turn;
medians. Aim: at most 1.03.

Also `sample(..., progress=True)` over `sample(...)`. Aim: at most 1.03.

    python tests/benchmarks/overhead.py [--batch 16] [--skip 20] [--repeats 7]
"""

import argparse
import contextlib
import io

import jax
import jax.numpy as jnp
from measuring import interleaved, ratio, seconds

import skipjax


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="What sampling costs beyond its network calls.")
    parser.add_argument("--batch", type=int, default=16, help="pictures at a time")
    parser.add_argument("--skip", type=int, default=20, help="of 1000 times, 20 leaves 50 calls")
    parser.add_argument("--repeats", type=int, default=7, help="rounds")
    options = parser.parse_args()

    params, key, first = skipjax.load("emoji32"), jax.random.key(0), jax.local_devices()[:1]
    nfe = skipjax.plans.skipped(params.schedule, options.skip).nfe
    net = skipjax.models.UNet(params.network)
    network = jax.jit(lambda params, x, t, y: net.apply({"params": params}, x, t, y))
    x = jax.random.normal(key, (options.batch, *params.shape))
    t, y = jnp.full(options.batch, 500.0), jnp.zeros(options.batch, jnp.int32)

    def sample(progress: bool = False) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            skipjax.sample(
                params,
                key,
                skip=options.skip,
                num=options.batch,
                devices=first,
                progress=progress,
            ).block_until_ready()

    def calls() -> None:
        for _ in range(nfe):
            out = network(params.params, x, t, y)
        out.block_until_ready()

    cases = (sample, calls, lambda: sample(progress=True))
    for case in cases:
        case()
    whole, bare, shown = interleaved(options.repeats, *(lambda c=c: seconds(c) for c in cases))
    at = f"{nfe} NFE, batch {options.batch}"
    ratio(f"sample at {at} / {nfe} network calls", whole, bare, 1.03)
    ratio(f"sample at {at}, progress shown / not", shown, whole, 1.03)


if __name__ == "__main__":
    main()
