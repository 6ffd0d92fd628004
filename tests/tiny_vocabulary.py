"""A tokenizer's files as CLIP's are, with a handful of merges instead of its 48,894."""

import json
from pathlib import Path
from typing import Any

START, END = "<|startoftext|>", "<|endoftext|>"
# What makes words of letters, in order: "fox", "snow", "the" and others, and a few parts of words.
MERGES = ["t h", "th e</w>", "f o", "fo x</w>", "s n", "o w</w>", "sn ow</w>", "i n</w>"]
MERGES += ["b l", "bl u", "r r", "blu rr", "blurr y</w>", "c a", "ca t</w>", "e r</w>", "i n"]
MERGES += ["o f</w>", "w ow</w>", "d o", "do g</w>", "r e", "re d</w>", "v e", "ve r", "ver y</w>"]
MERGES += ["p h", "ph o", "pho t", "phot o</w>"]
POSITIONS = 77


def alphabet() -> list[str]:
    """The characters that stand for the 256 bytes: the printable ones for themselves, then the
    others from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def vocabulary() -> dict[str, int]:
    """Ids of the tokens, in CLIP's order: letters, letters that end a word, merges, the two that
    are no words.
    """
    letters = alphabet()
    words = [merge.replace(" ", "") for merge in MERGES]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *words, START, END]
    return {token: i for i, token in enumerate(tokens)}


SIZE = len(vocabulary())


def write(folder: Path, pad: str | None = END, **config: Any) -> Path:
    """The files of a tokenizer that pads with a token.

    Args:
        folder: Of the tokenizer, made where it is not there.
        pad: What special_tokens_map.json says; tokenizer_config.json has <|endoftext|> anyway, as
            that of SD 2 has. None for no special_tokens_map.json.
        config: Of tokenizer_config.json besides.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = {"bos_token": START, "eos_token": END, "unk_token": END}
    known = told | {"pad_token": END, "model_max_length": POSITIONS, "do_lower_case": True}
    known["tokenizer_class"] = "CLIPTokenizer"
    contents = {
        "vocab.json": json.dumps(vocabulary(), ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *MERGES, ""]),
        "tokenizer_config.json": json.dumps(known | config),
    }
    if pad is not None:
        flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        special = {task: {"content": token} | flags for task, token in told.items()}
        contents["special_tokens_map.json"] = json.dumps(special | {"pad_token": pad})
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder
