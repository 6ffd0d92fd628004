"""Steps of training over a plain step of optax, and over PyTorch's.

`fit` as it is used (pictures read by grain, a moving average, the log, no checkpoint in the part
that is measured), over the least that could be written: gradient and Adam, compiled, on a batch
that is on the device already. Aim: at most 1 / 0.95 of the time. Then over the same U-Net in torch
(azula's copy of ADM's), eager, same batch, float32, one thread per core, if torch is there. Aim:
at most 1. Rounds in turn; medians.

    python tests/benchmarks/training.py [--batch 32] [--steps 10] [--repeats 5]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

# OpenMP's threads are not to spin on the cores while those of JAX compute.
os.environ |= {"KMP_BLOCKTIME": "0", "OMP_WAIT_POLICY": "PASSIVE"}

import jax
import jax.numpy as jnp
import numpy as np
import optax
from measuring import interleaved, ratio, seconds

from skipjax.models import UNetConfig, example, network
from skipjax.training import fit as fits
from skipjax.training import losses
from skipjax.training.pictures import Pictures
from skipjax.training.run import Run

UNET = UNetConfig(
    image_size=32,
    in_channels=3,
    model_channels=64,
    out_channels=3,
    num_res_blocks=1,
    attention_resolutions=(4,),
    channel_mult=(1, 2, 2),
    num_classes=9,
    num_head_channels=32,
    use_scale_shift_norm=True,
    resblock_updown=True,
)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Training over a plain step, and over PyTorch's.")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help="of a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--dtype", default="float32", help="what networks compute in")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1000, 32, 32, 3), np.uint8)
    pictures = Pictures(images, rng.integers(0, 9, 1000).astype(np.int32))
    cases = {
        "skipjax": ours(pictures, options),
        "plain": plain(pictures, options),
        "torch": theirs(pictures, options),
    }
    cases = {name: case for name, case in cases.items() if case is not None}
    for case in cases.values():
        case()
    measured = dict(zip(cases, interleaved(options.repeats, *cases.values()), strict=True))
    what = f"batch {options.batch}, {options.dtype}, {options.steps} steps: skipjax"
    ratio(f"{what} / a plain step", measured["skipjax"], measured["plain"], 1 / 0.95)
    if "torch" in measured:
        ratio(f"{what} / torch", measured["skipjax"], measured["torch"], 1.0)


def ours(pictures: Pictures, options: Any) -> Callable[[], float]:
    """Seconds of some steps of `fit`, from the end of one on: starting and compiling left out."""
    first, many = 3, options.steps
    run = Run(network=UNET, steps=first + many, batch=options.batch, dtype=options.dtype)

    def timed() -> float:
        ends = []

        class Bar(fits.tqdm):
            def update(self, n=1):
                ends.append(time.perf_counter())
                return super().update(n)

        before, fits.tqdm = fits.tqdm, Bar
        try:
            with tempfile.TemporaryDirectory() as folder:
                jax.block_until_ready(fits.fit(run, pictures, folder, progress=False))
        finally:
            fits.tqdm = before
        return ends[first + many - 1] - ends[first - 1]

    return timed


def plain(pictures: Pictures, options: Any) -> Callable[[], float]:
    """Seconds of as many steps of Adam on one batch in memory."""
    net, tx = network(UNET, options.dtype), optax.adam(5e-4)
    chain = losses.chain(Run(network=UNET).process.schedule)
    params = jax.jit(net.init)(jax.random.key(0), *example(UNET))["params"]
    x_0 = jnp.asarray(pictures.images[: options.batch], jnp.float32) / 127.5 - 1
    y = jnp.asarray(pictures.labels[: options.batch])

    @jax.jit
    def step(params, state, key):
        time, noise = jax.random.split(key)
        t = jax.random.randint(time, (len(x_0),), 0, 1000)
        eps = jax.random.normal(noise, x_0.shape)
        x_t = losses.diffuse(chain, x_0, t, eps)

        def loss(params):
            said = net.apply({"params": params}, x_t, t.astype(jnp.float32), y)
            return jnp.square(said - eps).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    def some() -> None:
        now, state = params, tx.init(params)
        for i in range(options.steps):
            now, state = step(now, state, jax.random.key(i))
            jax.block_until_ready(now)

    return lambda: seconds(some)


def theirs(pictures: Pictures, options: Any) -> Callable[[], float] | None:
    """Seconds of as many steps of torch's Adam; None without torch."""
    try:
        import azula.plugins.adm as azula
        import torch
    except ImportError as error:
        print(f"{error}: nothing is compared with torch")
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments = asdict(UNET)
    for ours in ("low_res_channels", "concat_channels"):
        arguments.pop(ours)
    net = azula.unet.UNetModel(**arguments).to(device, memory_format=torch.channels_last)
    adam = torch.optim.Adam(net.parameters(), 5e-4)
    chosen = pictures.images[: options.batch].astype(np.float32) / 127.5 - 1
    x_0 = torch.tensor(np.moveaxis(chosen, -1, 1), device=device)
    x_0 = x_0.to(memory_format=torch.channels_last)
    y = torch.tensor(pictures.labels[: options.batch], device=device, dtype=torch.long)
    process = Run(network=UNET).process.schedule
    alpha, sigma = (torch.tensor(a, device=device, dtype=torch.float32) for a in process)

    def some() -> None:
        for _ in range(options.steps):
            t = torch.randint(0, 1000, (len(x_0),), device=device)
            eps = torch.randn_like(x_0)
            x_t = alpha[t, None, None, None] * x_0 + sigma[t, None, None, None] * eps
            with torch.autocast(device, torch.bfloat16, enabled=options.dtype == "bfloat16"):
                loss = (net(x_t, t.float(), y).float() - eps).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return lambda: seconds(some)


if __name__ == "__main__":
    main()
