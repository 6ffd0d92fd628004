"""Decoding by diffusers' autoencoders over diffusers' own, at full size and with random weights.

On a CPU, in float32: skipjax over the best of torch's eager mode (channels_last or not) and
torch.compile (inference_mode, one thread per core), run in turn; medians. Aim: at most 0.9. The
largest difference of the pictures beside it, over the largest number. Aim: at most 5e-5.

Then, each in a process of its own, the most memory that is held while one picture is decoded, over
the bytes of all float32 weights, of which the decoder's are six tenths; and what `memory` says.

Needs torch and diffusers: pip install torch==2.13.0 && pip install -e '.[oracle]'

    python tests/benchmarks/autoencoder_decode.py [--kinds AutoencoderKL] [--size 512]
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

# OpenMP's threads are not to spin on the cores while those of JAX compute.
os.environ |= {"KMP_BLOCKTIME": "0", "OMP_WAIT_POLICY": "PASSIVE"}

import jax
import jax.numpy as jnp
import numpy as np
from measuring import fresh, interleaved, line, peak_memory, ratio, seconds

from skipjax.models import param_shapes
from skipjax.weights import autoencoder

# Of Stable Diffusion, in all of its versions; TAESD is the class's default.
FIELDS: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {
        "down_block_types": 4 * ["DownEncoderBlock2D"],
        "up_block_types": 4 * ["UpDecoderBlock2D"],
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
    },
    "AutoencoderTiny": {},
}
MB = 2**20


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Decoding over diffusers' own.")
    parser.add_argument("--kinds", nargs="+", choices=list(FIELDS), default=list(FIELDS))
    parser.add_argument("--size", type=int, default=512, help="side of the picture in pixels")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--peak", help="of one dtype, as JSON; what the processes are started as")
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak(options.kinds[0], options.size, options.peak)))
        return
    for kind in options.kinds:
        measure(kind, options.size, options.repeats)
        for dtype in ("float32", "bfloat16"):
            arguments = "--kinds", kind, "--size", str(options.size), "--peak", dtype
            found = fresh(__file__, *arguments)
            detail = ", ".join(f"{name} {value / MB:.0f} MB" for name, value in found.items())
            over = found["most held"] / found["weights"]
            line(f"{kind}, {options.size}: memory in {dtype} / weights", over, None, detail)


def measure(kind: str, size: int, repeats: int) -> None:
    """Seconds of one picture, and what comes out."""
    torch, network = theirs(kind)
    config = autoencoder.config_of(FIELDS[kind] | {"_class_name": kind})
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    params = jax.tree.map(jnp.asarray, autoencoder.to_params(state, config))
    codec: Any = autoencoder.codec(config, params)
    side = size // config.factor
    z = np.random.default_rng(1).normal(size=(1, side, side, config.latent_channels))
    z = z.astype(np.float32)
    given = torch.tensor(np.moveaxis(np.asarray(config.unscaled(z)), -1, 1))
    last = given.to(memory_format=torch.channels_last)

    def decode(network: Any, z: Any) -> Any:
        with torch.inference_mode():
            return network.decode(z, return_dict=False)[0]

    plain = decode(network, given)
    network = network.to(memory_format=torch.channels_last)
    compiled = torch.compile(network.decode)

    def run_compiled() -> Any:
        with torch.inference_mode():
            return compiled(last, return_dict=False)[0]

    _, other = theirs(kind)
    cases: dict[str, Callable[[], Any]] = {
        "skipjax": lambda: codec.decode(z).block_until_ready(),
        "eager": lambda: decode(other, given),
        "eager, channels_last": lambda: decode(network, last),
        "compile": run_compiled,
    }
    outputs = {case: run() for case, run in cases.items()}
    rounds = interleaved(repeats, *(lambda run=run: seconds(run) for run in cases.values()))
    measured = dict(zip(cases, rounds, strict=True))
    mode = min(list(cases)[1:], key=lambda mode: median(measured[mode]))
    name = f"{kind}, {size} x {size}"
    ratio(f"{name}: skipjax / torch ({mode})", measured["skipjax"], measured[mode], 0.9)
    reference = np.moveaxis(plain.numpy(), 1, -1)
    error = np.abs(np.asarray(outputs["skipjax"]) - reference).max() / np.abs(reference).max()
    title = f"{name}: largest difference / 5e-5"
    line(title, error / 5e-5, 1.0, f"{error:.1e} of the largest number")


def theirs(kind: str) -> tuple[Any, Any]:
    """torch, and diffusers' network with random weights."""
    try:
        import diffusers
        import torch
    except ImportError as error:
        sys.exit(f"{error}: pip install torch==2.13.0 && pip install -e '.[oracle]'")
    network = getattr(diffusers, kind)(**FIELDS[kind]).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, param in network.named_parameters():
            value = torch.randn(param.shape, generator=random)
            if param.ndim > 1:
                param.copy_(value * param[0].numel() ** -0.5)
            else:
                param.copy_(0.2 * value + (1.0 if name.endswith("weight") else 0.0))
    return torch, network


def peak(kind: str, size: int, dtype: str) -> dict[str, float]:
    """Bytes held at most while a picture is decoded, after the program is compiled."""
    config = autoencoder.config_of(FIELDS[kind] | {"_class_name": kind})
    shapes = param_shapes(config)
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01, dtype), shapes)
    codec: Any = type(autoencoder.codec(config))(params, config, dtype=dtype)
    side = size // config.factor
    z = jnp.ones((1, side, side, config.latent_channels))
    said = codec.memory(z.shape)
    codec.decode(z).block_until_ready()
    Path("/proc/self/clear_refs").write_text("5")  # the most held so far is forgotten
    before = peak_memory()
    codec.decode(z).block_until_ready()
    weights = 4 * sum(leaf.size for leaf in jax.tree.leaves(shapes))
    most = peak_memory()
    return {"most held": most, "before": before, "memory() says": said, "weights": weights}


if __name__ == "__main__":
    main()
