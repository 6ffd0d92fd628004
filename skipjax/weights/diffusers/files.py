"""Which files of a diffusers folder hold what: told by their names, on a disk or on the hub."""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
AVERAGE = "unet_ema"  # of train_unconditional's checkpoint-N
NETWORKS = (AVERAGE, "unet", "transformer")
CODECS, UNREAD = ("vae",), ("vqvae", "movq")
ENCODERS = ("text_encoder", "text_encoder_2")
TOKENIZERS = ("tokenizer", "tokenizer_2")
COMPONENTS = (*NETWORKS, *CODECS, *ENCODERS)  # those with a config and weights
# How files of weights are called: diffusers' own, and transformers'; the first that there is.
STEM = "diffusion_pytorch_model"
KINDS = ((STEM, "safetensors"), ("model", "safetensors"), (STEM, "bin"), ("pytorch_model", "bin"))
VOCABULARY = ("vocab.json", "merges.txt", "tokenizer.json")
OF_TOKENIZERS = (*VOCABULARY, "tokenizer_config.json", "special_tokens_map.json")
OF_TOKENIZERS += ("added_tokens.json",)


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
    for inner in (".", "scheduler", *COMPONENTS, *TOKENIZERS):
        place = folder / inner
        if place.is_dir():
            names = (path.name for path in place.iterdir() if path.is_file())
            found |= {name if inner == "." else f"{inner}/{name}" for name in names}
    return found


def is_pipeline(names: Collection[str]) -> bool:
    """Whether files of these names are a pipeline's, or a component's."""
    return any(name in names for name in (INDEX, CONFIG, *(f"{n}/{CONFIG}" for n in NETWORKS)))


def components(names: Collection[str], index: Mapping[str, Any] | None) -> dict[str, str]:
    """Where components lie among files of these names: "unet/", or "" where one lies flat.

    Args:
        names: Of all files.
        index: What model_index.json says; None where there is none.

    Returns:
        By component, the network first; of a component's own folder {"": ""}.

    Raises:
        ValueError: If there is no network.
    """
    candidates: tuple[str, ...] = NETWORKS
    if index is not None:
        candidates = tuple(n for n in NETWORKS if class_of(index, n) is not None)
    found = next((name for name in candidates if f"{name}/{CONFIG}" in names), None)
    if found is not None:
        others = (n for n in (*CODECS, *ENCODERS) if index is not None and class_of(index, n))
        return {found: f"{found}/"} | {n: f"{n}/" for n in others if f"{n}/{CONFIG}" in names}
    if candidates and CONFIG in names:
        return {candidates[0] if index is not None else "": ""}
    if index is None:
        raise ValueError(f"there is neither {INDEX} nor {CONFIG} in it")
    if candidates:
        raise ValueError(f"{candidates[0]}/{CONFIG} is missing")
    there = ", ".join(n for n in index if class_of(index, n) is not None)
    raise ValueError(
        f"it is a {index.get('_class_name')} of {there or 'nothing'}: a pipeline with a unet "
        "or a transformer is wanted"
    )


def absent(names: Collection[str], index: Mapping[str, Any] | None) -> list[str]:
    """The components that a model_index.json names and of which nothing is there."""
    if index is None:
        return []
    parts = [n for n in (*CODECS, *ENCODERS) if class_of(index, n)]
    tokenizers = [n for n in TOKENIZERS if class_of(index, n)]
    return [name for name in parts if f"{name}/{CONFIG}" not in names] + [
        name for name in tokenizers if not vocabulary(names, f"{name}/")
    ]


def vocabulary(names: Collection[str], folder: str) -> tuple[str, ...]:
    """The files of a tokenizer in a folder, such as "tokenizer/"; none where it holds none."""
    there = tuple(folder + name for name in OF_TOKENIZERS if folder + name in names)
    pair = all(folder + name in names for name in VOCABULARY[:2])
    return there if pair or folder + VOCABULARY[2] in names else ()


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
    for mark in ([] if variant is None else [variant]) + [""]:
        for stem, suffix in KINDS:
            found = _of_kind(there, mark, stem, suffix)
            if found is not None:
                plain = bool(variant) and not mark
                index = None if found.index_file is None else folder + found.index_file
                return Weights(tuple(folder + file for file in found.files), index, plain)
    stems = "|".join({stem for stem, _ in KINDS})
    marked = (re.match(rf"(?:{stems})\.([\w-]+)\.(?:safetensors|bin)$", name) for name in there)
    others = sorted({found[1] for found in marked if found})
    ours = KINDS[1::2] if folder.rstrip("/") in ENCODERS else KINDS[::2]
    wanted = " or ".join(f"{folder}{stem}.{suffix}" for stem, suffix in ours)
    hint = ""
    if others:
        hint = f"; there is a variant: load(..., variant={others[0]!r}) or --variant {others[0]}"
    elif foreign := sorted(n for n in there if n.endswith((".msgpack", ".onnx", ".h5", ".gguf"))):
        hint = f"; {foreign[0]} is of another library"
    raise ValueError(f"its weights are missing, {wanted}{hint}")


def _of_kind(there: Collection[str], mark: str, stem: str, suffix: str) -> Weights | None:
    """One file, or shards, of a variant ("" for none) in one format."""
    dotted = f".{mark}" if mark else ""
    single = f"{stem}{dotted}.{suffix}"
    indices = [f"{stem}.{suffix}.index{dotted}.json", f"{single}.index.json"]
    mark = re.escape(dotted)
    shard = re.compile(rf"{stem}{mark}-\d+-of-\d+\.{suffix}|{stem}-\d+-of-\d+{mark}\.{suffix}")
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
