"""Files of LoRAs: pairs of matrices by the names of the modules that they change."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skipjax.weights.readers import state_dict

# Files with their scales, or files whose scale is 1.
Loras = Mapping[str | Path, float] | Sequence[str | Path]

FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
FILES += ("pytorch_lora_weights.bin", "adapter_model.bin")
# Ends of names: kohya's, diffusers' and peft's; what is before them is the module.
_ENDS = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_A.default_0.weight": "down",
    ".lora_B.default_0.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".alpha": "alpha",
}
REFUSED = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "a Tucker decomposition (LoCon's lora_mid)",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "oft_": "OFT",
    ".on_input": "IA3",
    "glora": "GLoRA",
    "lora_embedding_": "a LoRA of an embedding",
}
_HEADER = "lora_adapter_metadata"  # of diffusers, in a .safetensors


@dataclass(frozen=True)
class Pair:
    """What changes one module: up down scale.

    Attributes:
        down: [r, in], or of a convolution [r, in, h, w].
        up: [out, r], or [out, r, 1, 1].
        scale: alpha / rank, and as much of it as was asked for.
        key: Of `down` in the file, for errors.
    """

    down: Any
    up: Any
    scale: float
    key: str


@dataclass(frozen=True)
class Adapter:
    """A file of a LoRA.

    Attributes:
        path: The file.
        pairs: By the names that it has for modules.
    """

    path: Path
    pairs: dict[str, Pair]


def parse(said: str) -> tuple[str, float]:
    """What a command is told of a LoRA, "PATH" or "PATH:0.8": the path and the scale.

    Raises:
        ValueError: If the scale is no finite number.
    """
    path, colon, scale = said.rpartition(":")
    if not colon or Path(said).exists():
        return said, 1.0
    try:
        return path, _finite(said, float(scale))
    except ValueError:
        raise ValueError(
            f"LoRA is {said!r}: after the colon there must be a scale, such as {path}:0.8"
        ) from None


def read(loras: Loras | None) -> list[Adapter]:
    """What LoRAs change, of which no matrix is read yet.

    Args:
        loras: Files, or folders of them, with their scales; or without, each of scale 1.

    Raises:
        ValueError: If one cannot be read, is of a kind that is not merged, or lacks something.
    """
    if isinstance(loras, (str, Path)):
        raise ValueError(f"loras is {str(loras)!r}: it must be a list of files, or {{file: 0.8}}")
    if loras is None:
        return []
    scales = dict(loras) if isinstance(loras, Mapping) else dict.fromkeys(loras, 1.0)
    return [_adapter(Path(path), _finite(str(path), scale)) for path, scale in scales.items()]


def _adapter(path: Path, scale: float) -> Adapter:
    folder = path
    if path.is_dir():
        found = next((path / name for name in FILES if (path / name).is_file()), None)
        if found is None:
            raise ValueError(f"{path} holds no LoRA: it needs one of {', '.join(FILES)}")
        path = found
    if not path.is_file():
        raise ValueError(f"{path} is no file of a LoRA: it is not there")
    try:
        tensors = state_dict.read(path)
        config = _config(folder / "adapter_config.json", state_dict.about(path))
        return Adapter(path, _pairs(tensors, config, scale))
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def _pairs(tensors: Mapping[str, Any], config: Mapping[str, Any], scale: float) -> dict[str, Pair]:
    found: dict[str, dict[str, tuple[str, Any]]] = {}
    for key, tensor in tensors.items():
        for mark, kind in REFUSED.items():
            if mark in key:
                raise ValueError(f"it holds {key}: it is of {kind}, which is not merged")
        end = next((end for end in _ENDS if key.endswith(end)), None)
        if end is None:
            raise ValueError(
                f"it holds {key}, which is of no LoRA: known are names that end in "
                f"{', '.join([*_ENDS][:6])}, ..."
            )
        module = key.removesuffix(end) + ("_lora" if end.startswith("_") else "")
        found.setdefault(module, {})[_ENDS[end]] = key, tensor
    if not found:
        raise ValueError("it holds no LoRA")
    return {module: _pair(module, one, config, scale) for module, one in found.items()}


def _pair(
    module: str, one: Mapping[str, tuple[str, Any]], config: Mapping[str, Any], scale: float
) -> Pair:
    """The matrices of a module, with all that multiplies them."""
    if lacking := {"down", "up"} - one.keys():
        there = ", ".join(key for key, _ in one.values())
        raise ValueError(f"it holds {there} without its other matrix ({', '.join(lacking)})")
    (key, down), (_, up) = one["down"], one["up"]
    rank = np.shape(down)[0]
    if np.ndim(down) not in (2, 4) or np.ndim(up) not in (2, 4) or np.shape(up)[1] != rank:
        raise ValueError(
            f"{key} is {np.shape(down)} and its other matrix {np.shape(up)}: they must be "
            "[r, in] and [out, r]"
        )
    if "alpha" in one:
        alpha = float(np.asarray(one["alpha"][1], np.float32).reshape(()))
    else:
        alpha = _alpha(module, config, rank)
    divisor = math.sqrt(rank) if config.get("use_rslora") else rank
    return Pair(down, up, scale * alpha / divisor, key)


def _alpha(module: str, config: Mapping[str, Any], rank: int) -> float:
    """What a file's config says of alpha; the rank where it says nothing."""
    component, _, rest = module.partition(".")
    for prefix in ("", f"{component}."):
        own = config.get(f"{prefix}alpha_pattern") or {}
        for pattern, alpha in own.items():
            if re.search(rf"(^|\.){pattern}$", rest or module):
                return float(alpha)
        if isinstance(alpha := config.get(f"{prefix}lora_alpha"), (int, float)):
            return float(alpha)
    return float(rank)


def _config(path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """peft's adapter_config.json, or what diffusers writes of it into a file's header."""
    said = path.read_text(encoding="utf-8") if path.is_file() else about.get(_HEADER)
    try:
        found = json.loads(said) if said else {}
    except ValueError as error:
        raise ValueError(f"what it says of its alpha is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError("what it says of its alpha is no object of JSON")
    if found.get("use_dora") or any(found.get(f"{n}.use_dora") for n in ("unet", "text_encoder")):
        raise ValueError("it is of DoRA, which is not merged")
    return found


def _finite(what: str, scale: Any) -> float:
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise ValueError(f"the scale of {what} is {scale!r}: it must be a finite number")
    return float(scale)
