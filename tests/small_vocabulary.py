"""A vocabulary of CLIP's kind, small: all bytes, and a few words that are merged to one token."""

import json
from pathlib import Path

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = (
    "a the of in photo fox cat dog snow wow blurry red painting very detailed landscape".split()
)


def symbols() -> list[str]:
    """What each byte looks like: itself where it can be seen, in OpenAI's order."""
    ranges = (("!", "~"), ("¡", "¬"), ("®", "ÿ"))
    seen = [byte for low, high in ranges for byte in range(ord(low), ord(high) + 1)]
    return [chr(byte) for byte in seen] + [chr(256 + i) for i in range(256 - len(seen))]


def merges() -> list[tuple[str, str]]:
    """Pairs that become one, such that each of the words becomes a token."""
    found = {}
    for word in WORDS:
        *letters, last = word
        begun = letters[0] if letters else ""
        for letter in letters[1:]:
            found[begun, letter] = None
            begun += letter
        if begun:
            found[begun, last + "</w>"] = None
    return [*found]


def vocabulary() -> dict[str, int]:
    """Numbers of the tokens: bytes, bytes that end a word, what is merged, beginning and end."""
    singles = symbols()
    ends = [symbol + "</w>" for symbol in singles]
    tokens = [*singles, *ends, *map("".join, merges()), START, END]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def write(folder: Path, pad: str | None = None, **config) -> Path:
    """The files of a tokenizer, as Stable Diffusion's folders have them.

    Args:
        folder: To write to.
        pad: What special_tokens_map.json calls the token that pads, where there is such a file:
            "!" in Stable Diffusion 2.
        config: Of tokenizer_config.json besides.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ends = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    files = {
        "vocab.json": vocabulary(),
        "tokenizer_config.json": ends | {"model_max_length": 77} | config,
    }
    if pad is not None:
        flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        special = {task: {"content": token} | flags for task, token in ends.items()}
        files["special_tokens_map.json"] = special | {"pad_token": pad}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *map(" ".join, merges())]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
