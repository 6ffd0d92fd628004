"""Networks small enough to compile in a second, whose output depends on every weight."""

from pathlib import Path

import jax
import numpy as np

from skipjax import Classifier, Pretrained, Process
from skipjax.conditioners import Labels
from skipjax.models import ClassifierConfig, UNetConfig, param_shapes
from skipjax.process import Times, as_schedule
from skipjax.weights import adm, folders, parts

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


def pretrained(num_classes: int | None = 3, **known) -> Pretrained:
    """Random weights; those that training starts from zero are not zero here.

    Args:
        num_classes: Labels of the network.
        known: What else `model` takes.
    """
    return model(config(num_classes), **known)


def upsampler(**known) -> Pretrained:
    """A network for 16x16 pictures that enlarges those of `pretrained`."""
    unet = config(image_size=16, low_res_channels=3)
    return model(unet, "tiny_upsampler", **{"low_res": 8} | known)


def model(
    unet: UNetConfig,
    name: str = "tiny",
    params: dict | None = None,
    *,
    schedule="linear",
    T: int = 1000,
    prediction: str = "eps",
    variance: str = "small",
    rescale_timesteps: bool = False,
    class_names: tuple[str, ...] | None = None,
    null_label: int | None = None,
    low_res: int | None = None,
) -> Pretrained:
    """A U-Net with what is known of it; random weights by default."""
    process = Process(
        as_schedule(schedule, T),
        prediction,
        Times(1000 / T) if rescale_timesteps else Times(),
        variance,
    )
    classes = (unet.num_classes or 0) - (null_label is not None)
    if class_names is None:
        class_names = NAMES if classes == len(NAMES) else ()
    conditioner = adm.conditioner_of(unet, class_names, null_label, low_res)
    weights = filled(unet) if params is None else params
    return Pretrained(weights, unet, process, conditioner, name=name)


def classifier(**changes) -> Classifier:
    """A classifier of the pictures of `pretrained`."""
    defaults = {"out_channels": 3, "pool": "attention", "num_head_channels": 32}
    net = ClassifierConfig(**(_ENCODER | defaults | changes))
    process = Process(as_schedule("linear"))
    return Classifier(filled(net), net, process, Labels(net.out_channels), "tiny_classifier")


def filled(net: UNetConfig | ClassifierConfig) -> dict:
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        spread = np.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.1
        values = rng.normal(path[-1].key == "scale", spread, leaf.shape)
        return values.astype(np.float16).astype(np.float32)

    return jax.tree.map_with_path(fill, param_shapes(net))


def card(params: Pretrained) -> dict:
    """What `folders.save` is told of it."""
    return parts.describe(params)


def save(folder: Path, num_classes: int | None = 3, dtype=np.float16, **changes) -> Path:
    """A checkpoint's folder with it, or with a network of a `config` that is changed."""
    params = model(config(num_classes, **changes))
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
