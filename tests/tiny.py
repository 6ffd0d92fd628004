"""Networks small enough to compile in a second, whose output depends on every weight."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from skipjax import Classifier, ClassifierSpec, Pretrained, Spec
from skipjax.models import ClassifierConfig, UNetConfig, param_shapes
from skipjax.weights import folders

NAMES = ("cat", "cow", "dog")
_ENCODER = {
    "image_size": 8,
    "in_channels": 3,
    "model_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": (),
    "channel_mult": (1,),
    "use_scale_shift_norm": True,  # one channel a group: what is added, the norm takes out
}


def config(num_classes: int | None = 3, **changes) -> UNetConfig:
    """8x8 RGB with learned variance."""
    return UNetConfig(**(_ENCODER | {"out_channels": 6, "num_classes": num_classes} | changes))


def pretrained(num_classes: int | None = 3, **spec) -> Pretrained:
    """Random weights; those that training starts from zero are not zero here."""
    return _pretrained("tiny", config(num_classes), **spec)


def upsampler(**spec) -> Pretrained:
    """A network for 16x16 pictures that enlarges those of `pretrained`."""
    unet = config(image_size=16, low_res_channels=3)
    return _pretrained("tiny_upsampler", unet, **{"low_res": 8} | spec)


def classifier(**changes) -> Classifier:
    """A classifier of the pictures of `pretrained`."""
    defaults = {"out_channels": 3, "pool": "attention", "num_head_channels": 32}
    net = ClassifierConfig(**(_ENCODER | defaults | changes))
    return Classifier(_filled(net), ClassifierSpec("tiny_classifier", net))


def _pretrained(name: str, unet: UNetConfig, **spec) -> Pretrained:
    plain = Spec(name, unet, **spec)
    names = NAMES if plain.classes == len(NAMES) else ()
    return Pretrained(_filled(unet), dataclasses.replace(plain, class_names=names))


def _filled(net: UNetConfig | ClassifierConfig) -> dict:
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        spread = np.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.1
        values = rng.normal(path[-1].key == "scale", spread, leaf.shape)
        return values.astype(np.float16).astype(np.float32)

    return jax.tree.map_with_path(fill, param_shapes(net))


def card(params: Pretrained) -> dict:
    """What `folders.save` is told of it."""
    spec = params.spec
    return {
        "name": spec.name,
        "unet": vars(spec.unet),
        "T": spec.T,
        "class_names": spec.class_names,
    }


def save(folder: Path, num_classes: int | None = 3, dtype=np.float16, **changes) -> Path:
    """A checkpoint's folder with it, or with a network of a `config` that is changed."""
    params = _pretrained("tiny", config(num_classes, **changes))
    folder.mkdir(exist_ok=True)
    folders.save(folder, params.params, card(params), dtype)
    return folder


def flip_a_bit(folder: Path) -> Path:
    """Damages the largest file of a checkpoint in its middle, and says which that is."""
    files = (path for path in (folder / "params").rglob("*") if path.is_file())
    path = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path
