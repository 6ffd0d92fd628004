"""EDM's and EDM2's tensors as params: their names and layouts, and Flax's."""

from collections.abc import Callable, Mapping
from math import sqrt
from typing import Any

import numpy as np

from skipjax.models import EdmConfig, MagnitudeUNetConfig, param_shapes
from skipjax.weights import layout
from skipjax.weights.layout import Convert


def to_params(
    state_dict: Mapping[str, Any], config: EdmConfig, convert: Convert | None = None
) -> dict[str, Any]:
    """Turns EDM's or EDM2's state dict into the params of a network.

    Buffers that follow from the config are checked and left out, and so is what only training
    needs. EDM2's weights are normalised here, once and for all, with their gains in them.

    Args:
        state_dict: Arrays by name, e.g. "model.enc.32x32_conv.weight", "model." or not.
        config: The architecture that the names belong to.
        convert: As in `layout.to_params`.

    Raises:
        ValueError: If a name is missing or unexpected, or a shape another one.
    """
    shapes = param_shapes(config)
    if isinstance(config, MagnitudeUNetConfig):
        tensors = _without(state_dict, "unet.", lambda name: name.startswith("logvar_"))
        return layout.to_params(_normalised(tensors), shapes, name, convert)
    filters = {k: v for k, v in state_dict.items() if k.endswith(".resample_filter")}
    for key, tensor in filters.items():
        _check_filter(key, tensor, config)
    tensors = _without(state_dict, "model.", lambda name: name == "u" or name in filters)
    return layout.to_params(tensors, shapes, name, convert)


def name(path: tuple[str, ...]) -> str:
    """EDM's name of the parameter at a path of the Flax tree, without "model." or "unet."."""
    *modules, leaf = path
    leaf = "weight" if leaf in ("kernel", "scale") else leaf
    first = modules[0]
    for side in ("enc_", "dec_"):
        first = first.replace(side, f"{side[:-1]}.", 1) if first.startswith(side) else first
    return ".".join([first, *modules[1:], leaf])


def _without(
    state_dict: Mapping[str, Any], prefix: str, unused: Callable[[str], bool]
) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in state_dict.items() if not unused(k)}


def _check_filter(key: str, tensor: Any, config: EdmConfig) -> None:
    """Refuses another resampling filter than the config's."""
    taps = np.asarray(getattr(config, "resample_filter", (1, 1)), np.float64)
    ours = np.outer(taps, taps)[None, None] / taps.sum() ** 2
    if np.shape(tensor) != ours.shape or not np.allclose(np.asarray(tensor), ours, atol=1e-3):
        raise ValueError(f"{key} is another filter than the config's resample_filter, {taps}")


def _normalised(tensors: dict[str, Any]) -> dict[str, Any]:
    """EDM2's weights as they are multiplied with, in place of weights and gains."""
    gains = {k: tensors.pop(k) for k in list(tensors) if k.rpartition(".")[2].endswith("_gain")}
    found = {}
    for key, tensor in tensors.items():
        if not key.endswith(".weight"):
            found[key] = tensor
            continue
        gain = {"emb_linear": "emb_gain", "out_conv": "out_gain"}.get(key.split(".")[-2])
        if gain is None:
            found[key] = _Normalised(tensor, None)
            continue
        gain = ".".join([*key.split(".")[:-2], gain])
        if gain not in gains:
            raise ValueError(f"the state dict does not fit the architecture: missing: {gain}")
        found[key] = _Normalised(tensor, gains.pop(gain))
    return found | gains  # of which `layout.to_params` says that they are unexpected


class _Normalised:
    """A weight that is read when it is asked for: w gain / ((1e-4 + rms(w)) sqrt(fan_in)), output
    by output.

    Source: arXiv:2312.02696, equation 47 and section 2.3.
    """

    def __init__(self, tensor: Any, gain: Any):
        self._tensor, self._gain = tensor, gain

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self._tensor)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        w = np.asarray(self._tensor).astype(np.float32)
        each = w.reshape(len(w), -1)
        rms = np.sqrt(np.mean(np.square(each), axis=1)).reshape(-1, *(1,) * (w.ndim - 1))
        gain = 1.0 if self._gain is None else float(np.asarray(self._gain))
        w *= np.float32(gain / sqrt(each.shape[1])) / (np.float32(1e-4) + rms)
        return w if dtype is None else w.astype(dtype)
