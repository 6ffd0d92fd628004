"""The files of CLIP's tokenizers, as the versions of transformers have written them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VOCABULARY, MERGES, WHOLE = "vocab.json", "merges.txt", "tokenizer.json"
CONFIG, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_END = "<|endoftext|>"
# transformers' names of the tokens that have a task, in the order that it adds them in; and ours.
_TASKS = {"bos_token": "start", "eos_token": "end", "unk_token": "unknown", "pad_token": "pad"}
_DEFAULTS = {"bos_token": "<|startoftext|>"} | dict.fromkeys([*_TASKS][1:], _END)
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
_LONGEST = 10**6  # "no limit" is 10^30 in tokenizer_config.json


def read(folder: Path) -> dict[str, Any]:
    """The fields of a `Tokenizer`; `added` as dicts.

    Raises:
        ValueError: If a file is missing or cannot be read; says which.
    """
    whole = _json(folder / WHOLE)
    if whole is not None:
        vocabulary, merges = _of_whole(folder / WHOLE, whole)
    else:
        vocabulary, merges = _json(folder / VOCABULARY), _merges(folder / MERGES)
        if vocabulary is None or merges is None:
            raise ValueError(
                f"{folder} holds no tokenizer: it needs {WHOLE}, or {VOCABULARY} and {MERGES}"
            )
    if not all(isinstance(number, int) for number in vocabulary.values()):
        raise ValueError(f"{folder} holds a vocabulary whose tokens are not numbered")
    config = _json(folder / CONFIG) or {}
    tasks = _DEFAULTS | {k: v for k, v in config.items() if k in _TASKS and v}
    # What newer versions say of tokens is complete; else what the older files say wins.
    added = {int(i): _token(token) for i, token in config.get("added_tokens_decoder", {}).items()}
    if not added:
        tasks |= {k: v for k, v in (_json(folder / SPECIAL) or {}).items() if k in _TASKS and v}
        special = {_token(token)["content"] for token in tasks.values()}
        for name, i in (_json(folder / ADDED) or {}).items():
            added[i] = _token(name, special=name in special)
        for token in (whole or {}).get("added_tokens", ()):
            added[token["id"]] = _token(token)
    # Of one token with two tasks the last counts: one that only pads is found as it is written.
    known = {one["content"]: one for one in (_token(t, special=True) for t in tasks.values())}
    known |= {token["content"]: token for _, token in sorted(added.items())}
    length = config.get("model_max_length")
    named = {_TASKS[task]: _token(token)["content"] for task, token in tasks.items()}
    return named | {
        "vocabulary": vocabulary,
        "merges": merges,
        "added": [*known.values()],
        "length": length if isinstance(length, int) and length <= _LONGEST else None,
    }


def write(folder: Path, tokenizer: Any) -> None:
    """Writes the files of a `Tokenizer`, of which `read` makes the same."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = {task: getattr(tokenizer, name) for task, name in _TASKS.items()}
    added = {tokenizer.numbers[token.content]: token._asdict() for token in tokenizer.added}
    config: dict[str, Any] = {"tokenizer_class": "CLIPTokenizer"} | tasks
    if tokenizer.length is not None:
        config["model_max_length"] = tokenizer.length
    config["added_tokens_decoder"] = {str(i): token for i, token in sorted(added.items())}
    for name, content in (
        (VOCABULARY, dict(tokenizer.vocabulary)),
        (CONFIG, config),
        (SPECIAL, tasks),
    ):
        text = json.dumps(content, ensure_ascii=False, indent=None if name == VOCABULARY else 1)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *map(" ".join, tokenizer.merges)]
    (folder / MERGES).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _json(path: Path) -> Any:
    """What a file holds, an object; None where there is no file.

    Raises:
        ValueError: If it cannot be read, or holds something else.
    """
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}: it must be an object")
    return found


def _merges(path: Path) -> list[tuple[str, str]] | None:
    if not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    return [_pair(path, line) for line in lines if line and not line.startswith("#version")]


def _pair(path: Path, merge: Any) -> tuple[str, str]:
    """The two tokens of a merge: "a b", or a list of them."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2:
        raise ValueError(f"{path} holds the merge {merge!r}: it must be of two tokens")
    return parts[0], parts[1]


def _of_whole(path: Path, whole: Mapping[str, Any]) -> tuple[dict[str, int], Any]:
    """The vocabulary and the merges of a tokenizer.json."""
    model = whole.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(vocabulary, dict) or "merges" not in model:
        kind = model.get("type") if isinstance(model, dict) else None
        raise ValueError(f"{path} is no tokenizer of CLIP's: its model is {kind or 'missing'}")
    return vocabulary, [_pair(path, merge) for merge in model["merges"]]


def _token(token: Any, special: bool = False) -> dict[str, Any]:
    """A token as a `tokenizer.Added` has it. Where nothing else is said, it is looked for in lower
    case if it is not special.
    """
    told = {"content": token} if isinstance(token, str) else token
    if not isinstance(told, Mapping) or not isinstance(told.get("content"), str):
        raise ValueError(f"{token!r} is no token: it must be a text, or an object with a content")
    flags = {flag: bool(told[flag]) for flag in _FLAGS if flag in told}
    special = special or flags.get("special", False)
    return {"content": told["content"], "normalized": not special} | flags | {"special": special}
