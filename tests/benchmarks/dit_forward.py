"""DiT's forward pass over PyTorch's.

DiT-S/2 on latents of 32 x 32 x 4 in float32, batch 8: skipjax over the best of a torch
transcription with scaled_dot_product_attention and diffusers' DiTTransformer2DModel, each eager
and by torch.compile (inference_mode, one thread per core), run in turn; medians. Aim: at most
0.85. The largest difference to the transcription's outputs beside it, over the largest output.
Aim: at most 1e-5.

Needs torch and diffusers: pip install torch==2.13.0 && pip install -e '.[oracle]'

    python tests/benchmarks/dit_forward.py [--size S/2] [--batch 8] [--repeats 9]
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

# OpenMP's threads are not to spin on the cores while those of JAX compute.
os.environ |= {"KMP_BLOCKTIME": "0", "OMP_WAIT_POLICY": "PASSIVE"}
sys.path.append(str(Path(__file__).parents[1]))

import jax
import numpy as np
from measuring import interleaved, line, ratio, seconds

from skipjax.models import DiTConfig
from skipjax.weights import dit

try:
    import diffusers
    import torch
    from dit_torch import DiT, at_random
except ImportError as error:
    sys.exit(f"{error}: pip install torch==2.13.0 && pip install -e '.[oracle]'")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="DiT's forward pass over PyTorch's.")
    parser.add_argument("--size", default="S/2", help="of the paper's: S/2 .. XL/8")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9, help="rounds")
    options = parser.parse_args()
    config = DiTConfig.named(options.size, 32)
    network = at_random(DiT(config))
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    arrays = inputs(config, options.batch)
    networks = {"transcription": network, "diffusers": of_diffusers(config)}
    cases: dict[str, Callable[[], Any]] = {"skipjax": ours(config, state, arrays)}
    for name, theirs in networks.items():
        cases[name] = in_torch(theirs, name, arrays)
        cases[f"{name}, compiled"] = in_torch(torch.compile(theirs), name, arrays)
    outputs = {name: run() for name, run in cases.items()}  # which warms them up
    timed = [lambda run=run: seconds(run) for run in cases.values()]
    measured = dict(zip(cases, interleaved(options.repeats, *timed), strict=True))

    title = f"DiT-{options.size}, batch {options.batch}"
    own = measured.pop("skipjax")
    for name, times in measured.items():
        print(f"{name}: {median(times):.3f} s")
    best = min(measured, key=lambda name: median(measured[name]))
    ratio(f"{title}: skipjax / {best}", own, measured[best], 0.85)
    theirs = outputs["transcription"].numpy()
    difference = np.moveaxis(np.asarray(outputs["skipjax"]), -1, 1) - theirs
    error = np.abs(difference).max() / np.abs(theirs).max()
    detail = f"{error:.1e} of the largest output"
    line(f"{title}: largest difference of the outputs / 1e-5", error / 1e-5, 1.0, detail)


def inputs(config: DiTConfig, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [B, C, H, W], t and y."""
    random = np.random.default_rng(1)
    x = random.normal(size=(batch, config.in_channels, *config.size)).astype(np.float32)
    return x, np.full(batch, 417.0, np.float32), random.integers(1000, size=batch)


def of_diffusers(config: DiTConfig) -> Any:
    """diffusers' network of the same size."""
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.hidden_size // config.num_heads,
        num_layers=config.depth,
        patch_size=config.patch_size,
        out_channels=config.out_channels,
    )
    return at_random(network)


def ours(config: DiTConfig, state: dict[str, np.ndarray], arrays: Any) -> Callable[[], jax.Array]:
    """A call of skipjax's forward pass, [B, H, W, C]."""
    x, t, y = arrays
    given = jax.device_put((dit.to_params(state, config), np.moveaxis(x, 1, -1), t, y))
    apply = jax.jit(lambda params, x, t, y: config.apply(params, x, t, {"label": y}))
    compiled = apply.lower(*given).compile()
    return lambda: compiled(*given).block_until_ready()


def in_torch(network: Any, name: str, arrays: Any) -> Callable[[], torch.Tensor]:
    """A call of torch's forward pass, [B, C, H, W]."""
    x, t, y = map(torch.tensor, arrays)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            if name == "diffusers":
                return network(x, timestep=t, class_labels=y).sample
            return network(x, t, y)

    return run


if __name__ == "__main__":
    main()
