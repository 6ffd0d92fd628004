"""Released networks at full size: a .pt that torch wrote, loaded without it.

Writes random weights under the names and shapes of a released checkpoint with torch, loads the
file in a fresh process with `skipjax.load` and in another with `torch.load`, and prints seconds
and the peak of memory while loading. Aim: at most 1.3 times the parameters plus the largest
tensor, for float32 and for bfloat16. Then the forward pass of both on the same inputs. Aim: a
largest difference of at most 1e-4 of the largest output.

Needs torch and azula: pip install torch==2.13.0 && pip install -e '.[oracle]'

    python tests/benchmarks/full_size.py [--models 64x64_diffusion 256x256_diffusion]
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from measuring import fresh, line, peak_memory, ratio

import skipjax
from skipjax.weights import cards

GB = 1e9


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Released networks at full size.")
    parser.add_argument("--models", nargs="+", default=["64x64_diffusion", "256x256_diffusion"])
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes per case")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(load(*options.child)))
        return
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            measure(name, Path(folder) / f"{name}.pt", options.repeats)


def measure(name: str, path: Path, repeats: int) -> None:
    """One network: written, loaded, and compared."""
    network, largest = write(name, path)
    size = cards.named(name)["parameters"]
    for dtype, width in (("float32", 4), ("bfloat16", 2)):
        runs = [fresh(__file__, "--child", "skipjax", str(path), dtype) for _ in range(repeats)]
        path.with_name(path.name + ".sha256").unlink(missing_ok=True)
        allowed = 1.3 * width * size + largest
        worst = max(run["peak"] for run in runs)
        detail = f"{worst / GB:.2f} GB, of {width * size / GB:.2f} GB of parameters"
        line(f"{name} to {dtype}: peak memory / allowed", worst / allowed, 1.0, detail)
        if dtype == "float32":
            theirs = [
                fresh(__file__, "--child", "torch", str(path), dtype) for _ in range(repeats)
            ]
            first, *again = ([run["seconds"] for run in r] for r in (runs, theirs))
            ratio(f"{name}: seconds of skipjax.load / torch.load", first, again[0], None)
    compare(name, path, network)


def load(reader: str, path: str, dtype: str) -> dict[str, float]:
    """Seconds and bytes that loading takes in this process, beyond what was there before."""
    if reader == "torch":
        import torch

        began, before = time.perf_counter(), peak_memory()
        torch.load(path, weights_only=True)
    else:
        import jax

        jax.numpy.zeros(1).block_until_ready()
        began, before = time.perf_counter(), peak_memory()
        jax.block_until_ready(skipjax.load(path, dtype=dtype))
    return {"seconds": time.perf_counter() - began, "peak": peak_memory() - before}


def write(name: str, path: Path):
    """azula's network with random weights, saved by torch; and the bytes of its largest tensor."""
    try:
        import azula.plugins.adm as adm
        import torch
    except ImportError as error:
        sys.exit(f"{error}: pip install torch==2.13.0 && pip install -e '.[oracle]'")
    arguments = asdict(cards.model(cards.named(name)).network)
    for ours in ("low_res_channels", "concat_channels"):
        arguments.pop(ours)
    network = adm.unet.UNetModel(**arguments).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, param in network.named_parameters():
            value = torch.randn(param.shape, generator=random)
            if param.ndim > 1 and key != "label_emb.weight":
                value /= param[0].numel() ** 0.5
            elif param.ndim == 1:
                value = 0.2 * value + (1.0 if key.endswith("weight") else 0.0)
            param.copy_(value)
    torch.save(network.state_dict(), path)
    return network, max(param.nbytes for param in network.parameters())


def compare(name: str, path: Path, network) -> None:
    """Both networks on the same inputs."""
    import jax
    import torch

    params = skipjax.load(path)
    side, random = params.shape[0], np.random.default_rng(1)
    x = random.normal(size=(1, 3, side, side)).astype(np.float32)
    t, y = np.float32([417.0]), np.array([207])
    with torch.inference_mode():
        theirs = network(torch.tensor(x), torch.tensor(t), torch.tensor(y)).numpy()
    net = skipjax.models.network(params.network)
    apply = jax.jit(lambda params, x, t, y: net.apply({"params": params}, x, t, y))
    ours = np.moveaxis(np.asarray(apply(params.params, np.moveaxis(x, 1, -1), t, y)), -1, 1)
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    line(
        f"{name}: forward, largest difference to azula's / 1e-4",
        error / 1e-4,
        1.0,
        f"{error:.1e} of the largest output, {np.abs(theirs).max():.1f}",
    )


if __name__ == "__main__":
    main()
