"""The forward pass of diffusers' networks over diffusers' own.

On a CPU, in float32, with the same random weights: skipjax over the better of torch's eager mode
and torch.compile (channels_last, inference_mode, one thread per core), run in turn; medians. Aim:
at most 0.85, both for a call alone, for which the system gives XLA its memory anew, and for one in
a loop, as samplers make it. The largest difference of the outputs beside it, over the largest
output. Aim: at most 5e-5.

Needs torch and diffusers: pip install torch==2.13.0 && pip install -e '.[oracle]'

    python tests/benchmarks/diffusers_forward.py [--cards ddpm-cifar10-32] [--repeats 7]
"""

import argparse
import os
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

# OpenMP's threads are not to spin on the cores while those of JAX compute.
os.environ |= {"KMP_BLOCKTIME": "0", "OMP_WAIT_POLICY": "PASSIVE"}

import jax
import jax.numpy as jnp
import numpy as np
from measuring import interleaved, line, ratio, seconds

from skipjax.weights import cards, registry

try:
    import diffusers
    import torch
except ImportError as error:
    sys.exit(f"{error}: pip install torch==2.13.0 && pip install -e '.[oracle]'")

CLASSES = {"unet2d": diffusers.UNet2DModel}  # by the kind of network on a card
CALLS = 5  # inside the loop


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="diffusers' networks over diffusers' own.")
    parser.add_argument("--cards", nargs="+", default=["ddpm-cifar10-32"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7, help="rounds")
    options = parser.parse_args()
    for name in options.cards:
        measure(name, options.batch, options.repeats)


def measure(name: str, batch: int, repeats: int) -> None:
    """The network of a card."""
    card = cards.named(name)
    config: Any = cards.model(card).network
    network = theirs(card["network"])
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    params = jax.tree.map(jnp.asarray, registry.FILES[type(config)](state, config))
    x = np.random.default_rng(1).normal(size=(batch, *config.shape)).astype(np.float32)
    t = np.full(batch, 417.0, np.float32)

    ours = jax.jit(config.apply).lower(params, x, t).compile()
    loop = jax.jit(lambda *inputs: in_a_loop(config, *inputs)).lower(params, x, t).compile()
    network = network.to(memory_format=torch.channels_last)
    inputs = torch.tensor(np.moveaxis(x, -1, 1)), torch.tensor(t)
    inputs = inputs[0].to(memory_format=torch.channels_last), inputs[1]
    compiled = torch.compile(network)
    cases: dict[str, Callable[[], Any]] = {
        "skipjax": lambda: ours(params, x, t).block_until_ready(),
        "loop": lambda: loop(params, x, t).block_until_ready(),
        "eager": lambda: forward(network, inputs),
        "compile": lambda: forward(compiled, inputs),
    }
    outputs = {case: run() for case, run in cases.items()}
    rounds = interleaved(repeats, *(lambda run=run: seconds(run) for run in cases.values()))
    measured = dict(zip(cases, rounds, strict=True))

    mode = min(("eager", "compile"), key=lambda mode: median(measured[mode]))
    over = f"{name}, batch {batch}: skipjax"
    each = [total / CALLS for total in measured["loop"]]
    ratio(f"{over} alone / torch ({mode})", measured["skipjax"], measured[mode], 0.85)
    ratio(f"{over} in a loop / torch ({mode})", each, measured[mode], 0.85)
    reference = np.moveaxis(outputs["eager"].numpy(), 1, -1)
    error = np.abs(np.asarray(outputs["skipjax"]) - reference).max() / np.abs(reference).max()
    title = f"{name}, batch {batch}: largest difference of the outputs / 5e-5"
    line(title, error / 5e-5, 1.0, f"{error:.1e} of the largest output")


def theirs(fields: dict[str, Any]) -> Any:
    """diffusers' network with random weights."""
    fields = dict(fields)
    network = CLASSES[fields.pop("kind")](**fields).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for param in network.parameters():
            scale = param[0].numel() ** -0.5 if param.ndim > 1 else 0.2
            param.copy_(scale * torch.randn(param.shape, generator=random))
    return network


def forward(network: Any, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """torch's forward pass, [B, C, H, W]."""
    with torch.inference_mode():
        return network(*inputs, return_dict=False)[0]


def in_a_loop(config: Any, params: Any, x: jax.Array, t: jax.Array) -> jax.Array:
    """Several calls, each of what the one before gave."""

    def step(x, _):
        return 0.1 * config.apply(params, x, t), None

    return jax.lax.scan(step, x, None, CALLS)[0]


if __name__ == "__main__":
    main()
