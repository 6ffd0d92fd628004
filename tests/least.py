"""The least network that can be trained and sampled with: it compiles in no time.

It has params of a U-Net, and uses few of them: layers that see one pixel, the label and the time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import reference
import tiny

from skipjax import Pretrained
from skipjax.models import UNetConfig
from skipjax.weights import folders, registry

WIDTH = 32


@dataclass(frozen=True)
class LeastConfig(UNetConfig):
    """What takes the place of a U-Net's config."""

    def module(self, dtype: Any = None, remat: bool = False) -> Any:
        return Least(self)


@dataclass(frozen=True)
class Least:
    """What takes the place of its Flax module."""

    config: LeastConfig

    def init(self, key, *_):
        config = self.config
        shapes = {
            ("input_blocks_0_0", "kernel"): (3, 3, config.in_channels, WIDTH),
            ("input_blocks_0_0", "bias"): (WIDTH,),
            ("out_2", "kernel"): (3, 3, WIDTH, config.out_channels),
        }
        if config.num_classes is not None:
            shapes["label_emb", "embedding"] = (config.num_classes, WIDTH)
        sizes = np.cumsum([np.prod(shape) for shape in shapes.values()])
        drawn = jnp.split(jax.random.uniform(key, (sizes[-1],), minval=-0.5, maxval=0.5), sizes)
        params: dict = {}
        for ((layer, name), shape), values in zip(shapes.items(), drawn, strict=False):
            params.setdefault(layer, {})[name] = values.reshape(shape)
        return {"params": params}

    def apply(self, variables, x, t, y=None, *_, **__):
        params = variables["params"]
        inside, outside = params["input_blocks_0_0"], params["out_2"]
        h = x @ inside["kernel"][1, 1] + inside["bias"][None, None, None]
        h += (t / 1000)[:, None, None, None]
        if y is not None:
            h += params["label_emb"]["embedding"][y][:, None, None, :WIDTH]
        return jnp.tanh(h) @ outside["kernel"][1, 1]


registry.register("least", LeastConfig)


def config(num_classes: int | None = 3, **changes) -> LeastConfig:
    """8x8 RGB with learned variance."""
    return LeastConfig(**vars(tiny.config(num_classes, num_res_blocks=0, **changes)))


def pretrained(num_classes: int | None = 3, **known) -> Pretrained:
    """8x8 RGB with learned variance, and random weights."""
    least = config(num_classes)
    params = reference.random_params(least)
    params["out_2"]["kernel"] *= 3  # what it says of the noise is then about as large
    return tiny.model(least, "least", params, **known)


def save(folder: Path) -> Path:
    """A checkpoint's folder with it."""
    params = pretrained()
    folder.mkdir(exist_ok=True)
    folders.save(folder, params.params, tiny.card(params), np.float32)
    return folder


def command(arguments: list, devices: int, cache: str) -> None:
    """`skipjax ARGUMENTS` in a process of its own, where whatever trains trains the least network.

    Args:
        arguments: Of the command.
        devices: Virtual devices that it computes on.
        cache: Folder of compiled programs.
    """
    from skipjax import cli
    from skipjax.cli import train

    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    train.UNetConfig = LeastConfig
    cli.main(list(map(str, arguments)))
