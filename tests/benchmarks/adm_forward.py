"""The forward pass of ADM's U-Nets over PyTorch's.

On a CPU: the 64x64 model in float32, batch 1 and 4, skipjax over the better of torch's eager mode
and torch.compile (channels_last, inference_mode, one thread per core), with the same weights, run
in turn; medians. Aim: at most 0.85. The largest difference of the outputs beside it, over the
largest output. Aim: at most 1e-5. In bfloat16, over torch's float32 (aim 0.4) and over torch's
bfloat16 (aim 1); both are aims for CPUs with AMX only, and have none elsewhere.

On a GPU: the 256x256 model in bfloat16, batch 32. The operations that XLA counts, per second, are
to be at least half of what a large product of bfloat16 matrices reaches in the same run: the
reverse of that ratio has the aim of at most 2. Also over torch.compile in bfloat16, where torch
sees the GPU.

Needs torch and azula: pip install torch==2.13.0 && pip install -e '.[oracle]'

    python tests/benchmarks/adm_forward.py [--batches 1 4] [--repeats 7]
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

# OpenMP's threads are not to spin on the cores while those of JAX compute.
os.environ |= {"KMP_BLOCKTIME": "0", "OMP_WAIT_POLICY": "PASSIVE"}

import jax
import jax.numpy as jnp
import numpy as np
from measuring import interleaved, line, ratio, seconds

import skipjax
from skipjax.weights import adm as released
from skipjax.weights import cards

try:
    import azula.plugins.adm as azula
    import torch
except ImportError as error:
    sys.exit(f"{error}: pip install torch==2.13.0 && pip install -e '.[oracle]'")

SIDE = 16384  # of the matrices that say what a GPU can do


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="ADM's forward pass over PyTorch's.")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="on a CPU")
    parser.add_argument("--repeats", type=int, default=7, help="rounds")
    options = parser.parse_args()
    if jax.default_backend() == "gpu":
        on_gpu(options.repeats)
        return
    for batch in options.batches:
        on_cpu(batch, options.repeats)


def on_cpu(batch: int, repeats: int) -> None:
    """The 64x64 model in float32 and in bfloat16."""
    amx = "amx_bf16" in Path("/proc/cpuinfo").read_text()
    name, (config, params, network) = "64x64", build("64x64_diffusion")
    cases = {}
    for dtype in ("float32", "bfloat16"):
        cases["skipjax", dtype] = ours(config, params, batch, dtype)
        eager = theirs(network, config, batch, dtype)
        cases["eager", dtype] = eager
        cases["compile", dtype] = theirs(torch.compile(network), config, batch, dtype)
    outputs = {case: run() for case, run in cases.items()}
    measured = dict(zip(cases, interleaved(repeats, *timed(cases)), strict=True))

    def best(dtype: str) -> tuple[str, list[float]]:
        times = {mode: measured[mode, dtype] for mode in ("eager", "compile")}
        mode = min(times, key=lambda mode: median(times[mode]))
        return f"torch {dtype} ({mode})", times[mode]

    def compare(dtype: str, under: str, limit: float | None) -> None:
        what, times = best(under)
        title = f"{name}, batch {batch}: skipjax {dtype} / {what}"
        ratio(title, measured["skipjax", dtype], times, limit)

    compare("float32", "float32", 0.85)
    reference = outputs["eager", "float32"].numpy()
    difference = np.moveaxis(np.asarray(outputs["skipjax", "float32"]), -1, 1) - reference
    error = np.abs(difference).max() / np.abs(reference).max()
    title = f"{name}, batch {batch}: largest difference of the outputs / 1e-5"
    line(title, error / 1e-5, 1.0, f"{error:.1e} of the largest output")
    print(f"This CPU has {'' if amx else 'no '}AMX.")
    compare("bfloat16", "float32", 0.4 if amx else None)
    compare("bfloat16", "bfloat16", 1.0 if amx else None)


def on_gpu(repeats: int, batch: int = 32) -> None:
    """The 256x256 model in bfloat16."""
    config, params, network = build("256x256_diffusion")
    forward = ours(config, params, batch, "bfloat16")
    matrices = jnp.ones((2, SIDE, SIDE), jnp.bfloat16)
    product = jax.jit(lambda a: a[0] @ a[1])
    cases = {"network": forward, "product": lambda: product(matrices).block_until_ready()}
    if torch.cuda.is_available():
        network = torch.compile(network.cuda())
        cases["torch"] = theirs(network, config, batch, "bfloat16", "cuda")
    for run in cases.values():
        run()
    measured = dict(zip(cases, interleaved(repeats, *timed(cases)), strict=True))
    # Before XLA puts in cuDNN's calls, of which it does not know the operations.
    counted = lowered(config, params, batch, "bfloat16")[0].cost_analysis()["flops"]
    per_second = [counted / s for s in measured["network"]]
    title = f"256x256, batch {batch}: FLOP/s of a large product / of the network"
    top = [2 * SIDE**3 / s / 1e12 for s in measured["product"]]
    ratio(title, top, [each / 1e12 for each in per_second], 2.0, "TFLOP/s")
    if "torch" in measured:
        title = f"256x256, batch {batch}: skipjax bfloat16 / torch.compile bfloat16"
        ratio(title, measured["network"], measured["torch"], 1.0)


def build(name: str) -> tuple[Any, Any, Any]:
    """A config, params of random numbers, and azula's network with the same."""
    config = cards.model(cards.named(name)).network
    arguments = asdict(config)
    for ours in ("low_res_channels", "concat_channels"):
        arguments.pop(ours)
    network = azula.unet.UNetModel(**arguments).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for param in network.parameters():
            scale = param[0].numel() ** -0.5 if param.ndim > 1 else 0.2
            param.copy_(scale * torch.randn(param.shape, generator=random))
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    params = jax.tree.map(jnp.asarray, released.to_params(state, config))
    return config, params, network.to(memory_format=torch.channels_last)


def arrays(config, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """x [B, 3, H, W], t and y."""
    random, side = np.random.default_rng(1), config.image_size
    x = random.normal(size=(batch, config.in_channels, side, side)).astype(np.float32)
    y = None if config.num_classes is None else random.integers(config.num_classes, size=batch)
    return x, np.full(batch, 417.0, np.float32), y


def lowered(config, params, batch: int, dtype: str) -> tuple[Any, Any]:
    """skipjax's forward pass, its params in `dtype`; and what to call it with once compiled."""
    net = skipjax.models.network(config, dtype)
    x, t, y = arrays(config, batch)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    inputs = jax.tree.map(jnp.asarray, (params, np.moveaxis(x, 1, -1), t, y))
    apply = jax.jit(lambda params, x, t, y: net.apply({"params": params}, x, t, y))
    return apply.lower(*inputs), inputs


def ours(config, params, batch: int, dtype: str) -> Callable[[], jax.Array]:
    """A call of skipjax's forward pass, [B, H, W, C]."""
    apply, inputs = lowered(config, params, batch, dtype)
    compiled = apply.compile()
    return lambda: compiled(*inputs).block_until_ready()


def theirs(
    network, config, batch: int, dtype: str, device: str = "cpu"
) -> Callable[[], torch.Tensor]:
    """A call of torch's forward pass, [B, C, H, W], under autocast where `dtype` is bfloat16."""
    inputs = [None if a is None else torch.tensor(a, device=device) for a in arrays(config, batch)]
    inputs[0] = inputs[0].to(memory_format=torch.channels_last)

    def run() -> torch.Tensor:
        half = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")
        with torch.inference_mode(), half:
            out = network(*inputs)
        if device == "cuda":
            torch.cuda.synchronize()
        return out

    return run


def timed(cases: dict[Any, Callable[[], Any]]) -> list[Callable[[], float]]:
    """Each of the cases as a measurement of its seconds."""
    return [lambda run=run: seconds(run) for run in cases.values()]


if __name__ == "__main__":
    main()
