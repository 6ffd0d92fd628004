"""Networks small enough to compile in a second, whose output depends on every weight."""

from pathlib import Path

import jax
import numpy as np

from skipjax import Pretrained, Spec
from skipjax.models import UNetConfig, param_shapes
from skipjax.weights import cards

NAMES = ("cat", "cow", "dog")


def config(num_classes: int | None = 3) -> UNetConfig:
    """8x8 RGB with learned variance."""
    return UNetConfig(
        image_size=8,
        in_channels=3,
        model_channels=32,
        out_channels=6,
        num_res_blocks=1,
        attention_resolutions=(),
        channel_mult=(1,),
        num_classes=num_classes,
        use_scale_shift_norm=True,  # one channel a group: what is added, the norm takes out
    )


def pretrained(num_classes: int | None = 3) -> Pretrained:
    """Random weights; those that training starts from zero are not zero here."""
    unet, rng = config(num_classes), np.random.default_rng(0)

    def fill(path, leaf):
        spread = np.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.1
        values = rng.normal(path[-1].key == "scale", spread, leaf.shape)
        return values.astype(np.float16).astype(np.float32)

    names = NAMES if num_classes == len(NAMES) else ()
    params = jax.tree.map_with_path(fill, param_shapes(unet))
    return Pretrained(params, Spec("tiny", unet, class_names=names))


def card(params: Pretrained) -> dict:
    """What `cards.save` is told of it."""
    spec = params.spec
    return {
        "name": spec.name,
        "unet": vars(spec.unet),
        "T": spec.T,
        "class_names": spec.class_names,
    }


def save(folder: Path, num_classes: int | None = 3, dtype=np.float16) -> Path:
    """A checkpoint's folder with it."""
    params = pretrained(num_classes)
    folder.mkdir(exist_ok=True)
    cards.save(folder, params.params, card(params), dtype)
    return folder


def flip_a_bit(folder: Path) -> Path:
    """Damages the largest file of a checkpoint in its middle, and says which that is."""
    files = (path for path in (folder / "params").rglob("*") if path.is_file())
    path = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path
