"""OpenAI's ADM checkpoints: guided-diffusion's parameter names and layouts, and Flax's.

Convolutions are OIHW there and HWIO here, linear layers and 1-D convolutions OI(1) and IO; group
norms and embeddings have one layout.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from skipjax.models import ClassifierConfig, UNetConfig, param_shapes

_CONV_1D = ("qkv", "proj_out", "qkv_proj", "c_proj")
_PLACES = 20  # of those that do not fit, how many an error names


def to_params(
    state_dict: Mapping[str, Any],
    config: UNetConfig | ClassifierConfig,
    convert: Callable[[tuple[str, ...], np.ndarray], Any] | None = None,
) -> dict[str, Any]:
    """Turns guided-diffusion's state dict into the params of `skipjax.models.network(config)`.

    All names and shapes are checked before any value is read. Values are then read one at a time,
    in the order of the state dict, so a lazy one needs memory for a single array beyond the
    result.

    Args:
        state_dict: Arrays by name, e.g. "input_blocks.1.0.in_layers.2.weight" [O, I, 3, 3]: all
            that has a `shape` and becomes an array by `numpy.asarray`.
        config: The architecture that the names belong to.
        convert: Called with its path in the result, e.g. ("out_2", "bias"), and each array as
            soon as it is laid out for Flax, e.g. to cast and to place it; what it returns
            becomes the leaf. Arrays may be views with any strides.

    Returns:
        Nested dict of what `convert` gives; without it, of NumPy arrays of the dtypes that came
        in.

    Raises:
        ValueError: If a name is missing or unexpected, or a shape another one; says which, and
            what seems to be the matter.
    """
    shapes: Any = traverse_util.flatten_dict(param_shapes(config))
    expected = {name(path): (path, leaf.shape) for path, leaf in shapes.items()}
    faults = [f"missing: {key}" for key in expected if key not in state_dict]
    faults += [f"unexpected: {key}" for key in state_dict if key not in expected]
    for key, (path, shape) in expected.items():
        wanted = _torch_shape(path, shape)
        if key in state_dict and (got := np.shape(state_dict[key])) != wanted:
            faults.append(f"shape of {key}: {tuple(got)}, expected {wanted}")
    if faults:
        raise ValueError(_explanation(faults, _diagnosis(state_dict, config)))

    def leaf(key):
        path, shape = expected[key]
        array = _from_torch(path[-1], np.asarray(state_dict[key]), shape)
        return array if convert is None else convert(path, array)

    tree: Any = traverse_util.unflatten_dict({expected[key][0]: leaf(key) for key in state_dict})
    return tree


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


def name(path: tuple[str, ...]) -> str:
    """guided-diffusion's name of the parameter at a path of the Flax tree."""
    *modules, leaf = path
    leaf = leaf if leaf in ("bias", "positional_embedding") else "weight"
    return ".".join([re.sub(r"_(?=\d)", ".", module) for module in modules] + [leaf])


def _torch_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    if path[-1] != "kernel":
        return shape
    if len(shape) == 4:
        return (shape[3], shape[2], *shape[:2])
    return shape[::-1] + (1,) * (path[-2] in _CONV_1D)


def _from_torch(leaf: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if leaf != "kernel":
        return value
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.reshape(shape[::-1]).T


def _to_torch(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.T[:, :, None] if path[-2] in _CONV_1D else value.T


def _explanation(faults: list[str], diagnosis: list[str]) -> str:
    places = "1 place" if len(faults) == 1 else f"{len(faults)} places"
    summary = f"the state dict does not fit the architecture in {places}"
    if not diagnosis:
        summary += "; check the config (widths, attention, classes) against the checkpoint's flags"
    lines = [*diagnosis, f"{summary}:", *(f"  {fault}" for fault in faults[:_PLACES])]
    if len(faults) > _PLACES:
        lines.append(f"  ... and {len(faults) - _PLACES} more")
    return "\n".join(lines)


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
