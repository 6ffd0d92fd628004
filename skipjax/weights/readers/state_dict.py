"""The state dict of a file that somebody else wrote, whatever its name: tensors by name."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from skipjax.weights.readers import edm_pickle, safetensors_file, torch_file
from skipjax.weights.readers.torch_pickle import ALONE, Unknown, shown
from skipjax.weights.readers.torch_tensors import Tensor

# What DataParallel, torch.compile, Lightning and others put before every name.
_PREFIXES = re.compile(r"(module\.|_orig_mod\.|model\.)*")
_OPTIMIZER = {"state", "param_groups"}
_MAX_DEPTH, _MAX_KEY, _MAX_SHOWN = 4, 100, 8

Content = dict[Any, Any]


def read(path: str | os.PathLike[str], key: str | None = None) -> dict[str, Any]:
    """The tensors of a file by name; `np.asarray` reads each.

    The content decides what kind of file it is. Prefixes that all names share ("module.",
    "_orig_mod.", "model.", several of them too) are taken off.

    Args:
        path: A .safetensors, a .pt, .pth or .ckpt that torch.save wrote, or a .pkl of EDM's.
        key: Where the state dict to take lies in the file, e.g. "ema", or "a.b" for "b" in "a".
            Default: of a .pkl "ema"; of others the file itself, or the only state dict in it that
            is not an optimiser's, or the one whose key says "ema" beside others with the same
            names. Where a key was chosen so, a UserWarning says which.

    Returns:
        Tensors with a `shape`, by name. Numbers, strings and all else is left out.

    Raises:
        ValueError: If it is another file, is damaged, or holds no state dict there, or several
            of which none is the obvious one; says under which keys.
        OSError: If it cannot be opened.
    """
    return _unprefixed(_tensors_of(Path(path), key))


def read_shards(folder: Path, files: Mapping[str, str]) -> dict[str, Any]:
    """The tensors of a state dict that lies in several files, by name.

    Args:
        folder: Of the files.
        files: Of each tensor, the name of its file: an index's `weight_map`.

    Raises:
        ValueError: If a file is damaged, or lacks a tensor that should be in it.
        OSError: If one cannot be opened.
    """
    found = {}
    for file in dict.fromkeys(files.values()):
        there = _tensors_of(folder / file, None)
        wanted = [name for name, where in files.items() if where == file]
        if lacking := [name for name in wanted if name not in there]:
            raise ValueError(f"{folder / file} lacks {_listed(lacking)}, which its index promises")
        found |= {name: there[name] for name in wanted}
    return _unprefixed(found)


def about(path: Path) -> dict[str, Any]:
    """What a file says beside its tensors: a .safetensors its metadata, texts by name; a dict that
    torch.save wrote its numbers and texts.

    Raises:
        ValueError: If it is another file, or is damaged.
        OSError: If it cannot be opened.
    """
    reader = _reader(path)
    if reader is safetensors_file.state_dict:
        return dict(safetensors_file.metadata(path))
    content = reader(path)
    some = content.items() if type(content) is dict else ()
    return {k: v for k, v in some if type(k) is str and isinstance(v, (int, float, str))}


def _tensors_of(path: Path, key: str | None) -> dict[str, Any]:
    """The tensors of a file, by the names that they have there."""
    try:
        reader = _reader(path)
        content = reader(path)
        if reader is edm_pickle.state_dicts and key is None and edm_pickle.EMA in content:
            key = edm_pickle.EMA
        if reader is not safetensors_file.state_dict:
            content = _plain(_choice(path, content, key))
        elif key is not None:
            raise ValueError(f"a .safetensors holds one state dict: leave out key={shown(key)}")
        return content
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def _reader(path: Path) -> Callable[[Path], Any]:
    """What reads a file, by how it begins; what nothing reads is refused for what it seems."""
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if torch_file.is_zip(head):
        return torch_file.read_zip
    if torch_file.is_legacy(head):
        return torch_file.read_legacy
    if edm_pickle.is_one(path):
        return edm_pickle.state_dicts
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return safetensors_file.state_dict
    if not head:
        problem = "is empty: download or copy it again"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        problem = "is a web page, so the download failed: download it again"
    elif head.startswith(b"version https://git-lfs"):
        problem = "is a pointer of Git LFS in place of the file: run git lfs pull"
    elif head[257:262] == b"ustar" or (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5"):
        problem = torch_file.BARE
    else:
        problem = f"begins with {head[:8]!r}: it is no .safetensors, nor did torch.save write it"
    raise ValueError(problem)


def _choice(path: Path, content: Any, key: str | None) -> Content:
    """The state dict under a key, or the one that is meant where none is given."""
    if type(content) is Unknown:
        raise ValueError(f"holds a whole {shown(content.name)}: save its state dict, with {ALONE}")
    if type(content) is not dict:
        kind = type(content).__name__
        raise ValueError(f"holds a {kind}; wanted is a dict of tensors: save it with {ALONE}")
    if content.keys() >= _OPTIMIZER:
        raise ValueError(
            "holds the state of an optimiser (state, param_groups), no weights: take the file "
            "of the network that was saved beside it, such as ema*.pt or model*.pt"
        )
    found = {".".join(map(str, keys)): d for keys, d in _state_dicts(content, (), Counter())}
    if key is not None:
        if key not in found:
            there = f"there are some under {_listed(found)}" if any(found) else "leave it out"
            raise ValueError(f"no tensors under the key {shown(key)}; {there}")
        return found[key]
    if not found:
        raise ValueError(
            "holds no tensors, nor dicts of them but an optimiser's; keys are " + _listed(content)
        )
    taken = next(iter(found)) if len(found) == 1 else _average(found)
    if taken is None:
        raise ValueError(
            "holds several state dicts; say which, with load(..., key=...) or --key: "
            + _listed(found)
        )
    if taken:
        others = [name for name in found if name != taken]
        beside = f"; load(..., key=...) or --key takes {_listed(others)}" if others else ""
        warnings.warn(f"{path}: took the weights under {shown(taken)}{beside}", stacklevel=3)
    return found[taken]


def _state_dicts(
    content: Content, keys: tuple[str | int, ...], seen: Counter[int]
) -> list[tuple[tuple[str | int, ...], Content]]:
    """Dicts of tensors by their keys: this one, or those in it if one of them has more."""
    inner = []
    for key, value in content.items():
        # One part may be there a million times, or hold itself.
        if type(value) is not dict or seen[id(value)] == _MAX_SHOWN or len(keys) == _MAX_DEPTH:
            continue
        seen[id(value)] += 1
        # Long keys, repeated in all those below, would take more memory than the file.
        if not value.keys() >= _OPTIMIZER and len(str(key)) <= _MAX_KEY:
            inner += _state_dicts(value, (*keys, key), seen)
    own = len(_tensors(content))
    if own and all(own >= len(_tensors(below)) for _, below in inner):
        return [(keys, content)]
    return inner


def _tensors(content: Content) -> dict[str, Tensor]:
    return {k: v for k, v in content.items() if type(k) is str and type(v) is Tensor}


def _plain(content: Content) -> dict[str, Tensor]:
    for name, value in content.items():
        if type(value) is Unknown and value.name.startswith("torch._"):
            raise ValueError(
                f"{shown(name)} is made by {shown(value.name)}, as tensors are that are "
                "quantised, sparse or of a subclass: save plain ones"
            )
    return _tensors(content)


def _average(found: Mapping[str, Content]) -> str | None:
    """The key that says "ema", if one does and the others hold the same network."""
    averages = [key for key in found if "ema" in key.lower().replace(".", "_").split("_")]
    if len(averages) != 1:
        return None
    names = _unprefixed(_tensors(found[averages[0]])).keys()
    same = all(names <= _unprefixed(_tensors(other)).keys() for other in found.values())
    return averages[0] if same else None


def _unprefixed(tensors: Mapping[str, Any]) -> dict[str, Any]:
    before = [found[0] for name in tensors if (found := _PREFIXES.match(name))]
    shared = os.path.commonprefix(before).rpartition(".")
    start = len(shared[0] + shared[1])
    return {name[start:]: tensor for name, tensor in tensors.items()}


def _listed(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return ", ".join(map(shown, names[:_MAX_SHOWN])) + more or "none"
