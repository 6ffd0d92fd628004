"""The networks of Stable Diffusion 1.5 over diffusers' and transformers' own.

On a CPU, in float32, with the same random weights: the U-Net at 64 x 64 latents, batch 2; the
decoder, 512 x 512 pixels, batch 1; the text encoder, batch 2. skipjax over the best that torch
does (eager or compiled, channels_last or not, inference_mode, one thread per core), run in turn;
medians. Aims: at most 0.9, 0.9 and 1. The largest difference of the outputs beside it, over the
largest output, and that of the encoder of pictures, once. Aim: at most 5e-5.

The U-Net takes some 16 s a call on two cores: all of it half an hour.

Needs torch, diffusers and transformers: pip install torch==2.13.0 && pip install -e '.[oracle]'

    python tests/benchmarks/stable_diffusion_forward.py [--parts unet vae text] [--repeats 5]
"""

import argparse
import copy
import os
import sys
from collections.abc import Callable
from itertools import product
from statistics import median
from typing import Any

# OpenMP's threads are not to spin on the cores while those of JAX compute.
os.environ |= {"KMP_BLOCKTIME": "0", "OMP_WAIT_POLICY": "PASSIVE"}

import jax
import jax.numpy as jnp
import numpy as np
from measuring import interleaved, line, ratio, seconds
from stable_diffusion_parts import PARTS, Part, part

from skipjax.codecs import AutoencoderKL

try:
    import diffusers
    import torch
    import transformers
except ImportError as error:
    sys.exit(f"{error}: pip install torch==2.13.0 && pip install -e '.[oracle]'")

LIBRARIES = {"diffusers": diffusers, "transformers": transformers}
LIMITS = {"unet": 0.9, "vae": 0.9, "text": 1.0}
Inputs = dict[str, np.ndarray]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Stable Diffusion's networks over torch's.")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--modes", nargs="+", default=["eager", "compile"], help="of torch")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--tiny", action="store_true", help="to try it out")
    options = parser.parse_args()
    for name in options.parts:
        measure(name, options.modes, options.repeats, options.tiny)


def measure(name: str, modes: list[str], repeats: int, tiny: bool) -> None:
    """One of the parts."""
    about = part(name, tiny)
    network = theirs(about)
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    params = jax.tree.map(jnp.asarray, about.to_params(state, about.config))
    inputs = inputs_of(name, about)
    forward = our_forward(name, about.config)
    compiled = jax.jit(forward).lower(params, inputs).compile()
    placed = jax.device_put(inputs)
    cases: dict[str, Callable[[], Any]] = {
        "skipjax": lambda: jax.block_until_ready(compiled(params, placed))
    }
    networks = {"contiguous": network}
    if name != "text":  # which has no convolutions
        last = copy.deepcopy(network).to(memory_format=torch.channels_last)
        networks["channels_last"] = last
    for mode, layout in product(modes, networks):
        cases[f"{mode}, {layout}"] = their_forward(name, networks[layout], inputs, mode)
    outputs = {case: run() for case, run in cases.items()}
    rounds = interleaved(repeats, *(lambda run=run: seconds(run) for run in cases.values()))
    measured = dict(zip(cases, rounds, strict=True))

    best = min([*cases][1:], key=lambda case: median(measured[case]))
    title = f"{about.cls}: skipjax / torch ({best})"
    ratio(title, measured["skipjax"], measured[best], LIMITS[name])
    compare(about.cls, outputs["skipjax"], outputs[[*cases][1]])
    if name == "vae":
        encoder(about, network, params, inputs["z"].shape)


def theirs(about: Part) -> Any:
    """Their network with random weights."""
    cls = getattr(LIBRARIES[about.library], about.cls)
    if about.library == "transformers":
        network = cls(transformers.CLIPTextConfig(**about.fields))
    else:
        network = cls(**about.fields)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, param in network.named_parameters():
            value = torch.randn(param.shape, generator=random)
            if param.ndim > 1 and "embedding.weight" not in name:
                value /= param[0].numel() ** 0.5
            elif param.ndim == 1:
                value = 0.2 * value + (1.0 if name.endswith("weight") else 0.0)
            param.copy_(value)
    return network.eval()


def inputs_of(name: str, about: Part) -> Inputs:
    """What the network is called with, channels last."""
    rng, fields = np.random.default_rng(1), about.fields
    if name == "text":
        return {"ids": rng.integers(0, fields["vocab_size"], (2, 77)).astype(np.int32)}
    if name == "vae":
        side = fields["sample_size"] // 8
        return {"z": rng.normal(size=(1, side, side, 4)).astype(np.float32)}
    side, width = fields["sample_size"], fields["cross_attention_dim"]
    found = {"x": rng.normal(size=(2, side, side, 4)), "t": np.full(2, 417.0)}
    found["text"] = rng.normal(size=(2, 77, width))
    return {key: value.astype(np.float32) for key, value in found.items()}


def our_forward(name: str, config: Any) -> Callable[[Any, Inputs], jax.Array]:
    """The forward pass of params and inputs."""
    if name == "text":
        return lambda params, inputs: config.apply(params, inputs["ids"]).normed
    if name == "vae":
        return lambda params, inputs: AutoencoderKL(params, config).decode(inputs["z"])
    return lambda params, inputs: config.apply(
        params, inputs["x"], inputs["t"], {"text": inputs["text"]}
    )


def their_forward(name: str, network: Any, inputs: Inputs, mode: str) -> Callable[[], np.ndarray]:
    """The same of theirs; what it gives is channels last. Inputs are laid out as its weights."""
    call = network.decode if name == "vae" else network
    call = torch.compile(call) if mode == "compile" else call
    if name == "text":
        arguments: Any = (torch.tensor(inputs["ids"]).long(),)
    elif name == "vae":
        scaled = inputs["z"] / network.config.scaling_factor
        arguments = (images(scaled, network),)
    else:
        arguments = images(inputs["x"], network), torch.tensor(inputs["t"])
        arguments += (torch.tensor(inputs["text"]),)

    def forward() -> np.ndarray:
        with torch.inference_mode():
            out = call(*arguments, return_dict=False)[0].numpy()
        return out if name == "text" else np.moveaxis(out, 1, -1)

    return forward


def images(x: np.ndarray, network: Any) -> torch.Tensor:
    """What a network of pictures takes, in the layout of its weights."""
    weights = [param for param in network.parameters() if param.ndim == 4 and param.shape[1] > 1]
    last = any(not param.is_contiguous() for param in weights)
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.tensor(np.moveaxis(x, -1, 1)).contiguous(memory_format=layout)


def encoder(about: Part, network: Any, params: Any, shape: tuple[int, ...]) -> None:
    """The way into latents, once."""
    size = 8 * shape[1]
    x = np.random.default_rng(2).uniform(-1, 1, (1, size, size, 3)).astype(np.float32)
    codec = AutoencoderKL(params, about.config)
    with torch.inference_mode():
        posterior = network.encode(images(x, network)).latent_dist
    mean, logvar = jax.jit(codec.encode_moments)(x)
    compare(f"{about.cls}, mean of the latents", mean, np.moveaxis(posterior.mean.numpy(), 1, -1))
    reference = np.moveaxis(posterior.logvar.numpy(), 1, -1)
    compare(f"{about.cls}, log variance of the latents", logvar, reference)


def compare(what: str, ours: Any, reference: np.ndarray) -> None:
    """Prints the largest difference."""
    error = np.abs(np.asarray(ours) - reference).max() / np.abs(reference).max()
    title = f"{what}: largest difference / 5e-5"
    line(title, error / 5e-5, 1.0, f"{error:.1e} of the largest output")


if __name__ == "__main__":
    main()
