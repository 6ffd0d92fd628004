"""LoRAs merged into the tensors of networks, each as it is read."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from skipjax.weights.components import Component
from skipjax.weights.lazy import Lazy
from skipjax.weights.lora import names
from skipjax.weights.lora.files import Adapter, Pair

SHOWN = 4  # names in an error


def merge(
    components: Mapping[str, Component], adapters: Iterable[Adapter]
) -> dict[str, Component]:
    """The components whose tensors have the changes of LoRAs in them.

    Args:
        components: By name, as `weights.components` has it.
        adapters: What changes them.

    Raises:
        ValueError: If one is for modules that are not there, or of another shape.
    """
    adapters = list(adapters)
    if not adapters:
        return dict(components)
    tensors = {name: component.tensors() for name, component in components.items()}
    table = names.table(tensors)
    changes: dict[str, dict[str, list[Pair]]] = {}
    for adapter in adapters:
        unknown = [module for module in adapter.pairs if module not in table]
        if unknown:
            more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
            raise ValueError(
                f"{adapter.path}: {len(unknown)} of its {len(adapter.pairs)} modules are not in "
                f"{', '.join(components)}: {', '.join(unknown[:SHOWN])}{more}. It is made for "
                "another network"
            )
        for module, pair in adapter.pairs.items():
            component, tensor = table[module]
            _check(adapter, pair, tensor, np.shape(tensors[component][tensor]))
            changes.setdefault(component, {}).setdefault(tensor, []).append(pair)

    def merged(name: str) -> dict[str, Any]:
        changed = {t: _changed(tensors[name][t], pairs) for t, pairs in changes[name].items()}
        return {tensor: changed.get(tensor, value) for tensor, value in tensors[name].items()}

    return {
        name: replace(component, tensors=partial(merged, name)) if name in changes else component
        for name, component in components.items()
    }


def _changed(tensor: Any, pairs: list[Pair]) -> Lazy:
    """W + sum of scale up down, float32 in the shape of W."""
    shape = tuple(np.shape(tensor))

    def compute() -> np.ndarray:
        changed = np.array(tensor, np.float32)
        for pair in pairs:
            up, down = (np.asarray(matrix, np.float32) for matrix in (pair.up, pair.down))
            product = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
            changed += np.float32(pair.scale) * product.reshape(shape)
        return changed

    return Lazy(shape, compute)


def _check(adapter: Adapter, pair: Pair, tensor: str, shape: tuple[int, ...]) -> None:
    """Refuses matrices whose product is not as large as what they change."""
    out, inner = np.shape(pair.up)[0], np.shape(pair.down)[1:]
    sides = np.prod(np.shape(pair.up)[2:], dtype=int)
    if sides == 1 and out == shape[0] and np.prod(inner) == np.prod(shape[1:]):
        return
    raise ValueError(
        f"{adapter.path}: {pair.key} is {np.shape(pair.down)}, for {tensor} of {shape}: it is "
        f"made for another network, where that has {int(np.prod(inner))} inputs and {out} outputs"
    )
