"""OpenAI's ADM checkpoints: guided-diffusion's parameter names and layouts, turned into Flax's."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from skipjax.models import UNetConfig, param_shapes


def to_params(state_dict: Mapping[str, np.ndarray], config: UNetConfig) -> dict[str, Any]:
    """Turns guided-diffusion's state dict into the params of `skipjax.models.UNet(config)`.

    Convolutions go from OIHW to HWIO, linear layers and 1-D convolutions from OI(1) to IO; group
    norms and embeddings keep their layout. Values and dtypes are kept.

    Args:
        state_dict: Arrays by name, e.g. "input_blocks.1.0.in_layers.2.weight" [O, I, 3, 3].
        config: The architecture that the names belong to.

    Returns:
        Nested dict of NumPy arrays.

    Raises:
        ValueError: With every name that is missing, unexpected or of another shape.
    """
    shapes: Any = traverse_util.flatten_dict(param_shapes(config))
    expected = {name(path): (path, leaf.shape) for path, leaf in shapes.items()}
    faults = [f"missing: {key}" for key in expected if key not in state_dict]
    faults += [f"unexpected: {key}" for key in state_dict if key not in expected]
    params = {}
    for key, (path, shape) in expected.items():
        if key not in state_dict:
            continue
        value = np.asarray(state_dict[key])
        if value.shape not in _torch_shapes(path, shape):
            wanted = " or ".join(map(str, _torch_shapes(path, shape)))
            faults.append(f"shape of {key}: {value.shape}, expected {wanted}")
            continue
        params[path] = _from_torch(path[-1], value, shape)
    if faults:
        raise ValueError(
            f"the state dict does not fit the architecture in {len(faults)} places; "
            "check the config (widths, attention, classes) against the checkpoint's flags:\n  "
            + "\n  ".join(faults)
        )
    tree: Any = traverse_util.unflatten_dict(params)
    return tree


def name(path: tuple[str, ...]) -> str:
    """guided-diffusion's name of the parameter at a path of the Flax tree."""
    *modules, leaf = path
    leaf = leaf if leaf == "bias" else "weight"
    return ".".join([re.sub(r"_(?=\d)", ".", module) for module in modules] + [leaf])


def _torch_shapes(path: tuple[str, ...], shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes that guided-diffusion may give the parameter, the usual one first."""
    if path[-1] != "kernel":
        return [shape]
    if len(shape) == 4:
        return [(shape[3], shape[2], *shape[:2])]
    # Linear, or the 1-D convolution of attention.
    linear = shape[::-1]
    return [(*linear, 1)] if path[-2] in ("qkv", "proj_out") else [linear]


def _from_torch(leaf: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if leaf != "kernel":
        return value
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.reshape(shape[::-1]).T
