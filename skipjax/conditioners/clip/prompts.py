"""From a prompt to chunks of tokens, as the web UI of AUTOMATIC1111 reads them where it is asked
for: brackets that weight, and as many chunks as a prompt needs.

    (x)      x counts 1.1 times as much; ((x)) 1.21 times
    [x]      1 / 1.1 times
    (x:1.3)  1.3 times
    \\( \\)    brackets that are meant as such, as \\[ and \\]
    BREAK    the rest of the chunk is left empty
"""

import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from skipjax.conditioners.clip.tokenizer import Tokenizer

ROUND, SQUARE = 1.1, 1 / 1.1  # what a bracket multiplies by
NEAR = 20  # tokens from a chunk's end, where it rather ends behind a comma
_MARKS = re.compile(
    r"\\(?P<escaped>[()\[\]\\])?|:\s*(?P<weight>[+-]?[.\d]+)\s*\)|(?P<bracket>[()\[\]])"
    r"|(?P<text>[^\\()\[\]:]+|:)"
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


class Piece(NamedTuple):
    """Part of a prompt.

    Attributes:
        text: As it stands there, without brackets.
        weight: How much it counts.
        section: How many times BREAK stands before it.
    """

    text: str
    weight: float = 1.0
    section: int = 0


class Chunk(NamedTuple):
    """What a text encoder is told at a time: tokens, with beginning, end and padding, and how much
    each counts.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]


def as_prompts(name: str, given: Any, num: int) -> list[str]:
    """A prompt for each of `num` samples.

    Raises:
        ValueError: If there is none, one is no text, or they are not as many as the samples.
    """
    if given is None:
        raise ValueError(f"the network draws what it is told in words: give a {name}")
    if isinstance(given, np.ndarray):
        given = given.tolist()
    several = [given] * num if isinstance(given, str) else given
    if not isinstance(several, Sequence) or not all(isinstance(one, str) for one in several):
        raise ValueError(f"{name} is {given!r}: it must be a text, or a list of texts")
    if len(several) != num:
        raise ValueError(
            f"{name} has {len(several)} entries for {num} samples: give one for all, or as many"
        )
    for one in several:
        try:
            one.encode()
        except UnicodeEncodeError:  # of bytes on a command line that are not UTF-8
            raise ValueError(f"{name} is {one!r}, of which not all is Unicode") from None
    return [*several]


def parse(prompt: str) -> tuple[Piece, ...]:
    """The pieces of a prompt with brackets. One that is not closed lasts to the end, and one that
    closes nothing is text.

    Raises:
        ValueError: For a weight that is no number.
    """
    pieces: list[Piece] = []
    section = 0
    open_: dict[str, list[int]] = {"(": [], "[": []}  # where brackets begin

    def close(bracket: str, weight: float) -> None:
        first = open_[bracket].pop()
        pieces[first:] = [p._replace(weight=p.weight * weight) for p in pieces[first:]]

    for mark in _MARKS.finditer(prompt):
        text, weight, bracket = mark[0], mark["weight"], mark["bracket"]
        if text[0] == "\\":
            pieces.append(Piece(mark["escaped"] or "", section=section))
        elif bracket in open_:
            open_[bracket].append(len(pieces))
        elif weight is not None and open_["("]:
            close("(", _number(weight, prompt))
        elif bracket == ")" and open_["("]:
            close("(", ROUND)
        elif bracket == "]" and open_["["]:
            close("[", SQUARE)
        else:
            for i, part in enumerate(_BREAK.split(text)):
                section += i > 0
                pieces.append(Piece(part, section=section))
    for bracket, weight in (("(", ROUND), ("[", SQUARE)):
        while open_[bracket]:
            close(bracket, weight)
    runs = groupby(pieces, key=lambda piece: piece[1:])
    return tuple(Piece("".join(p.text for p in run), *same) for same, run in runs)


@lru_cache(maxsize=4096)
def chunks_of(
    tokenizer: Tokenizer, prompt: str, length: int, weighted: bool = False, long: bool = False
) -> tuple[Chunk, ...]:
    """A prompt as chunks of tokens: one, or as many as it needs.

    Args:
        tokenizer: Of the text encoder.
        prompt: In words.
        length: Tokens of a chunk, beginning and end included.
        weighted: Whether brackets weight.
        long: Whether there may be several chunks, and BREAK begins one; what one chunk does not
            hold is cut off otherwise, with a warning.

    Raises:
        ValueError: For a weight that is no number, or a BREAK among weights where there may be no
            second chunk.
    """
    sections, room = _sections(prompt, weighted, long), length - 2
    if not long:
        tokens = _tokens(tokenizer, sections[0])
        if len(tokens) > room:
            warnings.warn(_cut_off(sections[0], tokens, room), stacklevel=2)
        return (_framed(tokenizer, tokens[:room], length),)
    found: list[Chunk] = []
    for i, section in enumerate(sections):
        tokens = _tokens(tokenizer, section)
        if not tokens and (i < len(sections) - 1 or not found):
            found.append(empty(tokenizer, length))
        while tokens:
            end = _end_of_chunk(tokenizer, tokens, room)
            found.append(_framed(tokenizer, tokens[:end], length))
            tokens = tokens[end:]
    return tuple(found)


def empty(tokenizer: Tokenizer, length: int) -> Chunk:
    """The chunk of no words: those of shorter prompts are followed by it."""
    return _framed(tokenizer, [], length)


class _Token(NamedTuple):
    number: int
    weight: float
    piece: int  # which of a section's it comes from
    start: int  # and where in it


def _sections(prompt: str, weighted: bool, long: bool) -> list[list[Piece]]:
    """A prompt's pieces, apart where BREAK stands; at least one section."""
    if weighted:
        pieces = parse(prompt)
    else:
        parts = _BREAK.split(prompt) if long else [prompt]
        pieces = tuple(Piece(part, section=i) for i, part in enumerate(parts))
    number = 1 + max((piece.section for piece in pieces), default=0)
    if number > 1 and not long:
        raise ValueError(
            f"the prompt {_short(prompt)} holds BREAK, which begins a further chunk of tokens: "
            "ask for long_prompts too, or write it small"
        )
    return [[piece for piece in pieces if piece.section == i] for i in range(number)]


def _tokens(tokenizer: Tokenizer, section: Sequence[Piece]) -> list[_Token]:
    found = []
    for i, piece in enumerate(section):
        for number, start in zip(*tokenizer.split(piece.text), strict=True):
            found.append(_Token(number, piece.weight, i, start))
    return found


def _end_of_chunk(tokenizer: Tokenizer, tokens: Sequence[_Token], room: int) -> int:
    """How many tokens go into the next chunk: as many as there is room for, or up to a comma
    shortly before that, so that no phrase is torn.
    """
    comma = tokenizer.numbers.get(",</w>")
    if len(tokens) <= room or tokens[room].number == comma:
        return room
    near = (i for i in range(room - 1, max(room - NEAR, 0) - 1, -1) if tokens[i].number == comma)
    return next(near, room - 1) + 1


def _framed(tokenizer: Tokenizer, tokens: Sequence[_Token], length: int) -> Chunk:
    """A chunk of tokens between beginning and end, padded."""
    start, end, pad = tokenizer.frame
    rest = length - 2 - len(tokens)
    ids = (start, *(token.number for token in tokens), end, *[pad] * rest)
    return Chunk(ids, (1.0, *(token.weight for token in tokens), 1.0, *[1.0] * rest))


def _cut_off(section: Sequence[Piece], tokens: Sequence[_Token], room: int) -> str:
    _, _, piece, start = tokens[room]
    rest = section[piece].text[start:] + "".join(later.text for later in section[piece + 1 :])
    whole = "".join(piece.text for piece in section)
    return (
        f"the prompt {_short(whole)} has {len(tokens)} tokens, of which {room} are read: {rest!r} "
        "is cut off. long_prompts reads them all"
    )


def _number(weight: str, prompt: str) -> float:
    try:
        return float(weight)
    except ValueError:
        raise ValueError(
            f"the prompt {_short(prompt)} holds the weight {weight!r}, which is no number"
        ) from None


def _short(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 60 else f"{prompt[:57]}...")
