"""Checkpoints as ours, and as diffusers'."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import jax.numpy as jnp
import tyro

from skipjax.weights import converting, lora


@dataclass
class Convert:
    """Turn a released file of weights, or what diffusers wrote, into a checkpoint's folder, with
    its card and checksums; or any checkpoint into a folder as diffusers writes it."""

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A .pt, .ckpt, .safetensors or .pkl, a folder that diffusers wrote, or a name of the Hugging
    Face hub; for --to diffusers also a checkpoint's folder."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to make."""
    card: str | None = None
    """Card that describes the file, a name or a .json. Default: found by the file's name."""
    key: str | None = None
    """Where in the file the state dict lies, such as ema; default: as `skipjax.load` finds it."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """To store the weights in."""
    revision: str | None = None
    """Branch, tag or commit of a name of the hub. Default: main."""
    variant: str | None = None
    """Of weights that diffusers wrote, such as fp16."""
    to: Literal["skipjax", "diffusers"] = "skipjax"
    """What to write."""
    lora: tuple[str, ...] = ()
    """Files of LoRAs to merge, each with its scale: PATH:0.8."""
    tokenizer: Path | None = None
    """Folder of the vocabulary of a single file, of a tokenizer or of a pipeline."""
    prediction: Literal["eps", "v"] | None = None
    """What the network of a single file predicts. Default: what the file says, or seems to."""

    def __call__(self) -> None:
        """Converts, and says what came of it."""
        card = converting.convert(
            self.file,
            self.out,
            self.card,
            jnp.dtype(self.dtype),
            self.key,
            self.revision,
            self.variant,
            self.to,
            loras=dict(map(lora.parse, self.lora)) or None,
            tokenizer=self.tokenizer,
            prediction=self.prediction,
        )
        size = sum(path.stat().st_size for path in self.out.rglob("*") if path.is_file())
        print(
            f"{card['name']}: {card['parameters']:,} parameters, {self.dtype}, "
            f"{size / 1e9:.2f} GB. Saved: {self.out}"
        )
