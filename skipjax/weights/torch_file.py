"""PyTorch's checkpoints, read without torch and without running anything that they contain.

A .pt or .pth file is a zip archive of a pickle, data.pkl, and of one record of bytes for each
storage that the pickle's tensors are views of. No opcode but those of plain data is obeyed.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from skipjax.weights import pickle_machine, torch_tensors, zip_records
from skipjax.weights.pickle_machine import shown
from skipjax.weights.torch_tensors import Tensor as Tensor
from skipjax.weights.zip_records import Record

_MAX_PICKLE = 2**25
_AGAIN = "save it again with a recent torch: torch.save(torch.load(path, weights_only=True), path)"


def read(path: str | os.PathLike[str]) -> Any:
    """What torch.save wrote to a file, with tensors that are read once they are asked for.

    Args:
        path: A .pt or .pth file, of torch 1.6 or later.

    Returns:
        Dicts, lists, tuples, numbers, strings and None as they were saved, dtypes as NumPy's,
        and a `Tensor` for each tensor or parameter.

    Raises:
        ValueError: If it is another file, is damaged, or holds anything else.
        OSError: If it cannot be opened.
    """
    path = Path(path)
    _check_kind(path)
    records = zip_records.records(path)
    root = _root(path, records)
    byteorder = "little"
    if record := records.get(f"{root}/byteorder"):
        content = _content(record, 16)
        if content not in (b"little", b"big"):
            raise ValueError(f"{path}: the byte order is {content!r}, neither little nor big")
        byteorder = content.decode()
    pickle = _content(records[f"{root}/data.pkl"], _MAX_PICKLE)
    load = torch_tensors.loader(records, root, byteorder)
    try:
        return pickle_machine.run(pickle, torch_tensors.GLOBALS, load, (Tensor, np.dtype))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def state_dict(path: str | os.PathLike[str], key: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file by name; `np.asarray` reads each.

    Args:
        path: A .pt or .pth file, of torch 1.6 or later.
        key: Where the file holds several, e.g. "state_dict" or "ema": which of them.

    Returns:
        Tensors by name. Numbers, strings and whatever else holds no tensor is left out.

    Raises:
        ValueError: As `read` does; and if the file holds no flat dict of tensors there, with the
            keys under which there is one.
        OSError: If it cannot be opened.
    """
    content = read(path)
    if type(content) is not dict:
        kind = type(content).__name__
        raise ValueError(f"{path}: holds an object of type {kind}; wanted is a dict of tensors")
    dicts = {k: v for k, v in content.items() if type(v) is dict and _tensors(v)}
    choice = ", ".join(f"{shown(k)} ({len(_tensors(v))})" for k, v in list(dicts.items())[:8])
    if key is not None:
        if key not in dicts:
            raise ValueError(
                f"{path}: no tensors under the key {shown(key)}; there are some under: "
                f"{choice or 'none'}"
            )
        content = dicts[key]
    elif dicts and not _tensors(content):
        raise ValueError(
            f"{path}: the tensors are one level down; give as the key one of these (with so "
            f"many tensors): {choice}"
        )
    tensors = _tensors(content)
    if not tensors:
        raise ValueError(f"{path}: holds no tensors, nor dicts of them, but wanted is a dict")
    for name, value in content.items():
        if (name in tensors and type(name) is not str) or (
            name not in tensors and _holds_tensor(value)
        ):
            raise ValueError(
                f"{path}: among the tensors is {shown(name)}, a {type(value).__name__}: "
                "wanted are strings as names, and tensors right under them"
            )
    return tensors


def _tensors(content: dict[Any, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in content.items() if type(value) is Tensor}


def _holds_tensor(value: Any) -> bool:
    if type(value) is dict:
        value = tuple(value.values())
    if type(value) in (list, tuple):
        return any(_holds_tensor(part) for part in value)
    return type(value) is Tensor


def _content(record: Record, limit: int) -> bytes:
    if record.size > limit:
        raise ValueError(
            f"{record.path}: {record.name!r} has {record.size} bytes; accepted are {limit}: "
            "save only the state dict, with torch.save(model.state_dict(), path)"
        )
    return record.read().tobytes()


def _root(path: Path, records: dict[str, Record]) -> str:
    """Folder within the archive that holds all of it."""
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(
            f"{path}: is a zip archive with {len(pickles)} data.pkl in place of one, which is not "
            "how torch.save writes: give the .pt or .pth file itself"
        )
    root = pickles[0].partition("/")[0]
    if f"{root}/constants.pkl" in records or any(n.startswith(f"{root}/code/") for n in records):
        raise ValueError(
            f"{path}: is a TorchScript archive, which holds code; save its tensors alone: "
            "torch.save(torch.jit.load(path).state_dict(), path)"
        )
    return root


def _check_kind(path: Path) -> None:
    """Refuses what is not a zip archive, in words for what it seems to be."""
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"PK\3\4"):
        return
    if not head:
        problem = "is empty: download or copy it again"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        problem = "is a web page, so the download failed: download it again"
    elif head.startswith(b"version https://git-lfs"):
        problem = "is a pointer of Git LFS in place of the file: run git lfs pull"
    elif head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        problem = "is a safetensors file; wanted is a .pt or .pth that torch.save wrote"
    elif head[257:262] == b"ustar" or (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5"):
        problem = f"is of torch before 1.6, or a bare pickle; {_AGAIN}"
    else:
        problem = f"begins with {head[:8]!r} and is no zip archive, so torch.save did not write it"
    raise ValueError(f"{path}: {problem}")
