"""From torch's names and layouts of weights to Flax's: checked whole, then read one by one.

Convolutions are OIHW there and HWIO here, linear layers OI and IO; norms and embeddings have one
layout.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

Path = tuple[str, ...]
Shape = tuple[int, ...]
Convert = Callable[[Path, np.ndarray], Any]

_PLACES = 20  # of those that do not fit, how many an error names


def accepted(path: Path, shape: Shape) -> tuple[Shape, ...]:
    """Shapes in which torch may hold a parameter: a 1 x 1 convolution is a linear layer.

    Args:
        path: Of the parameter in the Flax tree.
        shape: There.
    """
    if path[-1] != "kernel":
        return (shape,)
    if len(shape) > 2:
        return ((*shape[:-3:-1], *shape[:-2]),)
    return tuple(shape[::-1] + (1,) * ones for ones in (0, 2, 1))


def to_params(
    state_dict: Mapping[str, Any],
    shapes: Any,
    name: Callable[[Path], str],
    convert: Convert | None = None,
    *,
    accepted: Callable[[Path, Shape], tuple[Shape, ...]] = accepted,
    diagnosis: Callable[[], list[str]] = list,
) -> dict[str, Any]:
    """Turns a state dict of torch's into params of Flax.

    All names and shapes are checked before any value is read. Values are then read one at a time,
    in the order of the state dict, so a lazy one needs memory for a single array beyond the
    result.

    Args:
        state_dict: Arrays by name: all that has a `shape` and becomes an array by `numpy.asarray`.
        shapes: Of the params, nested dict of all that has a `shape`.
        name: Of the parameter at a path of the tree, e.g. ("out_2", "bias"), in the state dict.
        convert: Called with its path and each array as soon as it is laid out for Flax, e.g. to
            cast and to place it; what it returns becomes the leaf. Arrays may be views with any
            strides.
        accepted: In which shapes torch may hold a parameter; values follow from the shape alone.
        diagnosis: What seems to be the matter where something does not fit, a line each.

    Returns:
        Nested dict of what `convert` gives; without it, of NumPy arrays of the dtypes that came
        in.

    Raises:
        ValueError: If a name is missing or unexpected, or a shape another one; says which, and
            what seems to be the matter.
    """
    flat: Any = traverse_util.flatten_dict(shapes)
    expected = {name(path): (path, leaf.shape) for path, leaf in flat.items()}
    faults = [f"missing: {key}" for key in expected if key not in state_dict]
    faults += [f"unexpected: {key}" for key in state_dict if key not in expected]
    for key, (path, shape) in expected.items():
        wanted = accepted(path, shape)
        if key in state_dict and (got := np.shape(state_dict[key])) not in wanted:
            faults.append(f"shape of {key}: {tuple(got)}, expected {wanted[0]}")
    if faults:
        raise ValueError(_explanation(faults, diagnosis()))

    def leaf(key: str) -> Any:
        path, shape = expected[key]
        array = _from_torch(path[-1], np.asarray(state_dict[key]), shape)
        return array if convert is None else convert(path, array)

    tree: Any = traverse_util.unflatten_dict({expected[key][0]: leaf(key) for key in state_dict})
    return tree


def _from_torch(leaf: str, value: np.ndarray, shape: Shape) -> np.ndarray:
    if leaf != "kernel":
        return value
    if len(shape) > 2:
        value = value.reshape(*value.shape, *(len(shape) - value.ndim) * (1,))
        return np.moveaxis(value, (1, 0), (-2, -1))
    return value.reshape(shape[::-1]).T


def to_torch(path: Path, value: np.ndarray) -> np.ndarray:
    """A parameter in torch's layout: the inverse of what `to_params` does with it.

    Args:
        path: Of the parameter in the Flax tree.
        value: As it is there.
    """
    if path[-1] != "kernel":
        return value
    return np.moveaxis(value, (-2, -1), (1, 0)) if value.ndim > 2 else value.T


def _explanation(faults: list[str], diagnosis: list[str]) -> str:
    places = "1 place" if len(faults) == 1 else f"{len(faults)} places"
    summary = f"the state dict does not fit the architecture in {places}"
    if not diagnosis:
        summary += "; check the config (widths, attention, classes) against the checkpoint's flags"
    lines = [*diagnosis, f"{summary}:", *(f"  {fault}" for fault in faults[:_PLACES])]
    if len(faults) > _PLACES:
        lines.append(f"  ... and {len(faults) - _PLACES} more")
    return "\n".join(lines)
