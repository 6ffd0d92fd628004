"""Prompts from a file: a line each, or the rows of a table."""

import csv
import io
import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

FILES = (".txt", ".csv", ".jsonl")
COLUMNS = ("prompt", "negative")


class Prompts(NamedTuple):
    """What a file asks for.

    Attributes:
        prompts: In the order of the file.
        negatives: As many, "" where a row has none; None where no row has one.
    """

    prompts: tuple[str, ...]
    negatives: tuple[str, ...] | None = None


def is_file(text: str) -> bool:
    """Whether a text names a file of prompts, and is none itself."""
    return text.endswith(FILES) and "\n" not in text


def read(path: str | Path) -> Prompts:
    """The prompts of a file, in UTF-8: a .txt with one on each line; a .csv with a column
    "prompt", and one "negative" if need be; or a .jsonl of objects with these keys, or of texts.
    Other columns are not used, which is said.

    Raises:
        ValueError: If it cannot be read, is in another encoding, or has an empty line, a row
            without a prompt, or none; with the number of the line.
    """
    path = Path(path)
    text = _text(path)
    rows = {".csv": _csv, ".jsonl": _jsonl}.get(path.suffix, _lines)
    prompts, negatives, unused = [], [], {}
    for line, row in rows(path, text):
        for name, value in row.items():
            if name not in COLUMNS:
                unused[name] = None
            elif not isinstance(value, str) and not (name == "negative" and value is None):
                raise _wrong(path, line, f"has {value!r} as {name}: it must be a text")
        if not (prompt := row.get("prompt", "")).strip():
            raise _wrong(path, line, "has no prompt: fill it in, or delete the line")
        negative = row.get("negative") or ""
        if _broken(prompt + negative):
            raise _wrong(path, line, "has half a character (a lone surrogate): write it whole")
        prompts.append(prompt)
        negatives.append(negative)
    if not prompts:
        raise ValueError(f"prompts: {path} is empty: write a prompt on each line")
    if unused:
        warnings.warn(f"{path}: of it, {', '.join(map(str, unused))} is not used", stacklevel=2)
    return Prompts(tuple(prompts), tuple(negatives) if any(negatives) else None)


def _text(path: Path) -> str:
    """The content of a file in UTF-8, without the mark that some programs begin it with."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"prompts: {path} cannot be read ({error.strerror})") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _wrong(path, 1, "begins as UTF-16 does: save the file as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise _wrong(path, line, f"is not UTF-8 (byte 0x{byte:02x}): save it as UTF-8") from None


def _lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1] if not lines[-1] else lines, 1):
        line = line.removesuffix("\r")
        if not line.strip():
            raise _wrong(path, number, "is empty: write a prompt on each line")
        yield number, {"prompt": line}


def _jsonl(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path, text):
        try:
            row = json.loads(line["prompt"])
        except ValueError as error:
            raise _wrong(path, number, f"is no JSON ({error})") from None
        row = {"prompt": row} if isinstance(row, str) else row
        if not isinstance(row, dict) or "prompt" not in row:
            raise _wrong(path, number, 'is no object with a "prompt", nor a text')
        yield number, row


def _csv(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if "prompt" not in header:
            raise _wrong(
                path, 1, f"names the columns {', '.join(header) or '(none)'}: one must be prompt"
            )
        for row in reader:
            if not row:
                raise _wrong(path, reader.line_num, "is empty: delete it")
            if len(row) != len(header):
                raise _wrong(
                    path,
                    reader.line_num,
                    f"has {len(row)} cells for {len(header)} columns: put texts with commas in "
                    "quotes",
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise _wrong(path, reader.line_num, f"is no CSV ({error})") from None


def _wrong(path: Path, line: int, what: str) -> ValueError:
    return ValueError(f"prompts: line {line} of {path} {what}")


def _broken(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def of_command(given: Iterable[str]) -> Prompts:
    """Prompts that were typed: each itself, or a file of them."""
    prompts, negatives = [], []
    for text in given:
        found = read(text) if is_file(text) else Prompts((text,))
        prompts += found.prompts
        negatives += found.negatives or [""] * len(found.prompts)
    return Prompts(tuple(prompts), tuple(negatives) if any(negatives) else None)
