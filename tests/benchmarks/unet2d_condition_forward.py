"""The forward pass of Stable Diffusion's U-Nets over diffusers' own.

On a CPU, in float32, with the same random weights at full size: skipjax over the best of torch's
eager mode with and without channels_last (inference_mode, one thread per core), run in turn;
medians. Aim: at most 0.9, both for a call alone, for which the system gives XLA its memory anew,
and for one in a loop, as samplers make it. The largest difference of the outputs beside it, over
the largest output. Aim: at most 5e-5.

Needs torch and diffusers: pip install torch==2.13.0 && pip install -e '.[oracle]'; and 12 GB of
memory for SD 1.5.

    python tests/benchmarks/unet2d_condition_forward.py [--network sd15] [--side 64] [--batch 2]
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
from measuring import interleaved, line, peak_memory, ratio, seconds

from skipjax.models import UNet2DConditionConfig
from skipjax.weights import unet2d_condition

try:
    import diffusers
    import torch
except ImportError as error:
    sys.exit(f"{error}: pip install torch==2.13.0 && pip install -e '.[oracle]'")

SIZES = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768},
    "sd2": {
        "sample_size": 64,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": SIZES
    | {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", *2 * ("CrossAttnDownBlock2D",)),
        "up_block_types": (*2 * ("CrossAttnUpBlock2D",), "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
    },
}
CALLS = 3  # inside the loop


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Stable Diffusion's U-Nets over diffusers'.")
    parser.add_argument("--network", choices=list(NETWORKS), default="sd15")
    parser.add_argument("--side", type=int, default=64, help="of the latents")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    options = parser.parse_args()
    network = theirs(NETWORKS[options.network])
    config = unet2d_condition.config_of(dict(network.config))
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    params = jax.tree.map(jnp.array, unet2d_condition.to_params(state, config))
    arrays = inputs(config, options.side, options.batch)

    ours = jax.jit(config.apply).lower(params, *arrays).compile()
    loop = jax.jit(lambda *given: in_a_loop(config, *given)).lower(params, *arrays).compile()
    plain, last = in_torch(network, *arrays, False), in_torch(network, *arrays, True)
    cases: dict[str, Callable[[], Any]] = {
        "skipjax": lambda: ours(params, *arrays).block_until_ready(),
        "loop": lambda: loop(params, *arrays).block_until_ready(),
        "contiguous": plain,
        "channels_last": last,
    }
    outputs = {case: run() for case, run in cases.items()}  # which warms them up
    rounds = interleaved(
        options.repeats, *(lambda run=run: seconds(run) for run in cases.values())
    )
    measured = dict(zip(cases, rounds, strict=True))

    mode = min(("contiguous", "channels_last"), key=lambda mode: median(measured[mode]))
    over = f"{options.network}, {options.side} x {options.side}, batch {options.batch}: skipjax"
    each = [total / CALLS for total in measured["loop"]]
    ratio(f"{over} alone / torch ({mode})", measured["skipjax"], measured[mode], 0.9)
    ratio(f"{over} in a loop / torch ({mode})", each, measured[mode], 0.9)
    reference = np.moveaxis(outputs["contiguous"].numpy(), 1, -1)
    error = np.abs(np.asarray(outputs["skipjax"]) - reference).max() / np.abs(reference).max()
    title = f"{over}: largest difference of the outputs / 5e-5"
    line(title, error / 5e-5, 1.0, f"{error:.1e} of the largest output")
    memory = ours.memory_analysis().temp_size_in_bytes
    line(f"{over}: memory beside the params", memory / 1e9, None, "of XLA's plan", " GB")
    line("peak of this process, torch included", peak_memory() / 1e9, None, "resident", " GB")


def inputs(config: UNet2DConditionConfig, side: int, batch: int) -> tuple[Any, ...]:
    """x, t and the condition."""
    random = np.random.default_rng(1)
    x = random.normal(size=(batch, side, side, config.shape[-1])).astype(np.float32)
    condition = {"text": random.normal(size=(batch, 77, config.text_channels))}
    if "pooled" in config.takes:
        condition["pooled"] = random.normal(size=(batch, 1280))
        pixels = 8 * side
        condition["time_ids"] = np.tile([pixels, pixels, 0, 0, pixels, pixels], (batch, 1))
    condition = {key: value.astype(np.float32) for key, value in condition.items()}
    return x, np.full(batch, 417.0, np.float32), condition


def theirs(fields: dict[str, Any]) -> Any:
    """diffusers' network with random weights."""
    network = diffusers.UNet2DConditionModel(**fields).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, param in network.named_parameters():
            value = torch.randn(param.shape, generator=random)
            one = 1.0 if name.endswith("weight") else 0.0
            param.copy_(value * param[0].numel() ** -0.5 if param.ndim > 1 else one + 0.2 * value)
    return network


def in_torch(
    network: Any, x: np.ndarray, t: np.ndarray, condition: dict[str, np.ndarray], last: bool
) -> Callable[[], torch.Tensor]:
    """A call of torch's forward pass, [B, C, H, W]; weights are in one layout at a time."""
    layout = torch.channels_last if last else torch.contiguous_format
    given = torch.tensor(np.moveaxis(x, -1, 1)).to(memory_format=layout)
    told = {key: torch.tensor(value) for key, value in condition.items()}
    added = {"text_embeds": told.get("pooled"), "time_ids": told.get("time_ids")}
    network = network.to(memory_format=layout) if not last else copy_of(network, layout)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return network(given, torch.tensor(t), told["text"], added_cond_kwargs=added).sample

    return run


def copy_of(network: Any, layout: Any) -> Any:
    """The network in another memory format."""
    other = type(network).from_config(network.config).eval()
    other.load_state_dict(network.state_dict())
    return other.to(memory_format=layout)


def in_a_loop(
    config: UNet2DConditionConfig,
    params: Any,
    x: jax.Array,
    t: jax.Array,
    condition: dict[str, jax.Array],
) -> jax.Array:
    """Several calls, each of what the one before gave."""

    def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return 0.1 * config.apply(params, x, t, condition), None

    return jax.lax.scan(step, x, None, CALLS)[0]


if __name__ == "__main__":
    main()
