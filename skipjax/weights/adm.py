"""OpenAI's ADM checkpoints: guided-diffusion's parameter names and layouts, and Flax's.

Convolutions are OIHW there and HWIO here, linear layers and 1-D convolutions OI(1) and IO; group
norms and embeddings have one layout. Files of openai/consistency_models have the same names, and
in attention 2-D convolutions, OI(1)(1), whose q, k and v are always in the new order.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from skipjax import conditioners
from skipjax.conditioners import Conditioner, Labels, Pictures
from skipjax.models import ClassifierConfig, UNetConfig, param_shapes
from skipjax.pretrained import Classifier, Pretrained
from skipjax.process import Process, as_schedule
from skipjax.weights import layout
from skipjax.weights.layout import Convert, Path, Shape

_CONV_1D = ("qkv", "proj_out", "qkv_proj", "c_proj")
_QKV = "middle_block.1.qkv.weight"


def to_params(
    state_dict: Mapping[str, Any],
    config: UNetConfig | ClassifierConfig,
    convert: Convert | None = None,
) -> dict[str, Any]:
    """Turns guided-diffusion's state dict into the params of `skipjax.models.network(config)`.

    Args:
        state_dict: Arrays by name, e.g. "input_blocks.1.0.in_layers.2.weight" [O, I, 3, 3], as
            `layout.to_params` takes them.
        config: The architecture that the names belong to.
        convert: As in `layout.to_params`.

    Returns:
        Nested dict of what `convert` gives; without it, of NumPy arrays of the dtypes that came
        in.

    Raises:
        ValueError: If a name is missing or unexpected, or a shape another one; says which, and
            what seems to be the matter.
    """
    return layout.to_params(
        state_dict,
        param_shapes(config),
        name,
        convert,
        accepted=lambda path, shape: _torch_shapes(path, shape, config.use_new_attention_order),
        diagnosis=lambda: _diagnosis(state_dict, config),
    )


def state_dict(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Turns params into guided-diffusion's state dict: what `to_params` does, undone.

    Args:
        params: Nested dict of arrays, of a `UNet` or a `Classifier`.

    Returns:
        NumPy arrays by name, in guided-diffusion's layouts and the dtypes that came in; views
        where they can be.
    """
    flat: Any = traverse_util.flatten_dict(params)
    return {name(path): _to_torch(path, np.asarray(leaf)) for path, leaf in flat.items()}


def model(config: UNetConfig | ClassifierConfig, name: str) -> Pretrained | Classifier:
    """What an architecture is taken to be, where nothing else is known: trained as ADM's are, with
    the linear schedule, T = 1000, to predict eps; without params.
    """
    process = Process(as_schedule("linear"))
    if isinstance(config, ClassifierConfig):
        return Classifier(None, config, process, Labels(config.out_channels), name)
    if config.out_channels == 2 * config.shape[-1]:
        process = process.replace(variance="learned_range")
    return Pretrained(None, config, process, conditioner_of(config), name=name)


def conditioner_of(
    config: UNetConfig,
    class_names: Sequence[str] = (),
    null_label: int | None = None,
    low_res: int | tuple[int, int] | None = None,
) -> Conditioner | None:
    """What conditions a U-Net, by its architecture and what else is known.

    Args:
        config: The architecture.
        class_names: Names of its classes.
        null_label: The label that stands for no class.
        low_res: Side, or height and width, of the pictures that it enlarges; default: any.
    """
    parts: list[Conditioner] = []
    if config.num_classes is not None:
        parts.append(Labels(config.num_classes, tuple(class_names), null_label))
    elif class_names or null_label is not None:
        raise ValueError("class_names or null_label is given, and the network takes no labels")
    if config.low_res_channels:
        h, w = (low_res, low_res) if low_res is None or isinstance(low_res, int) else low_res
        parts.append(Pictures("low_res", (h, w, config.low_res_channels)))
    if config.concat_channels:
        parts.append(Pictures("concat", (*config.size, config.concat_channels)))
    return conditioners.join(parts)


def name(path: tuple[str, ...]) -> str:
    """guided-diffusion's name of the parameter at a path of the Flax tree."""
    *modules, leaf = path
    leaf = leaf if leaf in ("bias", "positional_embedding") else "weight"
    return ".".join([re.sub(r"_(?=\d)", ".", module) for module in modules] + [leaf])


def _torch_shapes(path: Path, shape: Shape, new_order: bool) -> tuple[Shape, ...]:
    plain = layout.accepted(path, shape)[0]
    if path[-1] != "kernel" or path[-2] not in _CONV_1D:
        return (plain,)
    return ((*plain, 1), (*plain, 1, 1)) if new_order else ((*plain, 1),)


def _to_torch(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.T[:, :, None] if path[-2] in _CONV_1D else value.T


def _diagnosis(state_dict: Mapping[str, Any], config: UNetConfig | ClassifierConfig) -> list[str]:
    """What is the matter with a state dict that does not fit, as far as it can be told."""
    if prefix := _prefix(state_dict):
        return [f"every name in the state dict begins with {prefix!r}: take that off the names"]
    if "time_embed.0.weight" not in state_dict:
        return []
    decoder = any(key.startswith("output_blocks.") for key in state_dict)
    of_classifier = not decoder and any(key.startswith("out.") for key in state_dict)
    if of_classifier and isinstance(config, UNetConfig):
        return ["the state dict is a classifier's, the config a U-Net's: give a ClassifierConfig"]
    if decoder and isinstance(config, ClassifierConfig):
        return ["the state dict is a U-Net's, the config a classifier's: give a UNetConfig"]

    found = []
    low_res = config.low_res_channels if isinstance(config, UNetConfig) else 0
    ours, theirs = config.in_channels + low_res, _size(state_dict, "input_blocks.0.0.weight", 1)
    if theirs not in (None, ours):
        reason = ""
        if theirs == 2 * ours and not low_res:
            reason = f": it is for super-resolution, with low_res_channels = {ours}"
        elif theirs == config.in_channels:
            reason = ": it is not for super-resolution, and has low_res_channels = 0"
        found.append(f"the file has {theirs} input channels, the config {ours}{reason}")
    if _size(state_dict, _QKV, 3) and not config.use_new_attention_order:
        found.append(
            "the file's attention is of 2-D convolutions, as that of consistency models, where q, "
            "k and v come before heads: it needs use_new_attention_order = True"
        )

    if isinstance(config, UNetConfig):
        ours, theirs = config.num_classes, _size(state_dict, "label_emb.weight", 0)
        if ours != theirs:
            found.append(f"the file has {theirs or 'no'} classes, the config num_classes = {ours}")
        return found
    attention = "out.2.positional_embedding" in state_dict
    if attention != (config.pool == "attention"):
        found.append(
            f"the file pools by {'attention' if attention else 'other means'}, "
            f"the config has pool = {config.pool!r}"
        )
    ends = (f"out.{end}.bias" for end in ("2.c_proj", "3", "2"))
    last = next((key for key in ends if key in state_dict), "")
    ours, theirs = config.out_channels, _size(state_dict, last, 0)
    if theirs not in (None, ours):
        found.append(f"the file has {theirs} classes, the config out_channels = {ours}")
    return found


def _prefix(state_dict: Mapping[str, Any]) -> str:
    """What stands before every name, such as the "module." of a network trained in parallel."""
    anchor = "time_embed.0.weight"
    prefix = next((key.removesuffix(anchor) for key in state_dict if key.endswith(anchor)), "")
    return prefix if all(key.startswith(prefix) for key in state_dict) else ""


def _size(state_dict: Mapping[str, Any], key: str, axis: int) -> int | None:
    shape = np.shape(state_dict[key]) if key in state_dict else ()
    return shape[axis] if axis < len(shape) else None
