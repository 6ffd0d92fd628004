"""Which files of a diffusers folder hold what: told by their names, on a disk or on the hub."""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
AVERAGE = "unet_ema"  # of train_unconditional's checkpoint-N
NETWORKS = (AVERAGE, "unet", "transformer")
STEM, FORMATS = "diffusion_pytorch_model", ("safetensors", "bin")
DECODERS = ("vae", "vqvae", "movq")


class Weights(NamedTuple):
    """The files of a component's weights.

    Attributes:
        files: One, or the shards, by their names in the folder that was asked for.
        index_file: What says which tensor lies in which shard; None where there is but one file.
        plain: Whether they are the plain files where a variant was asked for.
    """

    files: tuple[str, ...]
    index_file: str | None = None
    plain: bool = False


def listing(folder: Path) -> set[str]:
    """The names of a folder's files that may matter, with those in its components' folders."""
    found = set()
    for inner in (".", "scheduler", *NETWORKS):
        place = folder / inner
        if place.is_dir():
            names = (path.name for path in place.iterdir() if path.is_file())
            found |= {name if inner == "." else f"{inner}/{name}" for name in names}
    return found


def is_pipeline(names: Collection[str]) -> bool:
    """Whether files of these names are a pipeline's, or a component's."""
    return any(name in names for name in (INDEX, CONFIG, *(f"{n}/{CONFIG}" for n in NETWORKS)))


def network(names: Collection[str], components: Mapping[str, Any] | None) -> str:
    """Where the network lies among files of these names: "unet/", or "" where it lies flat.

    Args:
        names: Of all files.
        components: What model_index.json says; None where there is none.

    Raises:
        ValueError: If there is none.
    """
    candidates: tuple[str, ...] = NETWORKS
    if components is not None:
        candidates = tuple(n for n in NETWORKS if class_of(components, n) is not None)
    for name in candidates:
        if f"{name}/{CONFIG}" in names:
            return f"{name}/"
    if candidates and CONFIG in names:
        return ""
    if components is None:
        raise ValueError(f"there is neither {INDEX} nor {CONFIG} in it")
    if candidates:
        raise ValueError(f"{candidates[0]}/{CONFIG} is missing")
    there = ", ".join(n for n in components if class_of(components, n) is not None)
    raise ValueError(
        f"it is a {components.get('_class_name')} of {there or 'nothing'}: a pipeline with a unet "
        "or a transformer is wanted"
    )


def class_of(components: Mapping[str, Any], name: str) -> str | None:
    """The class of a component in model_index.json; None if it has none."""
    match components.get(name):
        case [_, str(cls)]:
            return cls.removeprefix("Flax")
    return None


def scheduler(names: Collection[str]) -> str | None:
    """The file of the scheduler's config, if there is one."""
    return next((n for n in (f"scheduler/{SCHEDULER}", SCHEDULER) if n in names), None)


def weights(names: Collection[str], folder: str, variant: str | None = None) -> Weights:
    """The files of a component's weights: those of a variant, else the plain ones, safetensors
    before torch's.

    Args:
        names: Of all files.
        folder: Of the component, such as "unet/".
        variant: Such as "fp16".

    Raises:
        ValueError: If there are none that are read, or shards without their index; says what there
            is.
    """
    there = {name.removeprefix(folder) for name in names if name.startswith(folder)}
    for kind in ([] if variant is None else [variant]) + [""]:
        for suffix in FORMATS:
            found = _of_kind(there, kind, suffix)
            if found is not None:
                plain = bool(variant) and not kind
                index = None if found.index_file is None else folder + found.index_file
                return Weights(tuple(folder + file for file in found.files), index, plain)
    others = sorted({m[1] for name in there if (m := re.match(rf"{STEM}\.([\w-]+)\.\w+$", name))})
    wanted = " or ".join(f"{folder}{STEM}.{suffix}" for suffix in FORMATS)
    hint = ""
    if others:
        hint = f"; there is a variant: load(..., variant={others[0]!r}) or --variant {others[0]}"
    elif foreign := sorted(n for n in there if n.endswith((".msgpack", ".onnx", ".h5", ".gguf"))):
        hint = f"; {foreign[0]} is of another library"
    raise ValueError(f"its weights are missing, {wanted}{hint}")


def _of_kind(there: Collection[str], kind: str, suffix: str) -> Weights | None:
    """One file, or shards, of a variant ("" for none) in one format."""
    dotted = f".{kind}" if kind else ""
    single = f"{STEM}{dotted}.{suffix}"
    indices = [f"{STEM}.{suffix}.index{dotted}.json", f"{single}.index.json"]
    mark = re.escape(dotted)
    shard = re.compile(rf"{STEM}{mark}-\d+-of-\d+\.{suffix}|{STEM}-\d+-of-\d+{mark}\.{suffix}")
    shards = tuple(sorted(name for name in there if shard.fullmatch(name)))
    index = next((name for name in indices if name in there), None)
    if index is not None and (shards or single not in there):
        return Weights(shards, index)
    if single in there:
        return Weights((single,))
    if shards:
        raise ValueError(f"{shards[0]} is one of several files, and their index is missing")
    return None


def read(path: Path) -> dict[str, Any]:
    """The object in a file of JSON.

    Raises:
        ValueError: If it is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}: it must be an object")
    return found


def shards(path: Path) -> dict[str, str]:
    """Of each tensor, the file that it lies in: what an index says.

    Raises:
        ValueError: If it says something else, names a file that is not beside it, or none.
    """
    found = read(path).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path} has no weight_map: it is not the index of several files")
    for name in found.values():
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*", name):
            raise ValueError(f"{path} names {name!r}: it must be a file beside it")
    missing = [
        name for name in dict.fromkeys(found.values()) if not (path.parent / name).is_file()
    ]
    if missing:
        raise ValueError(
            f"{path} names {', '.join(missing)}, missing beside it: fetch all of them"
        )
    return found
