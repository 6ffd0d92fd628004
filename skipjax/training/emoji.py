"""The data set of the bundled checkpoint `emoji32`: Noto Color Emoji, one picture per emoji.

Sources: the font Noto Color Emoji (Google, OFL-1.1, colour bitmaps of 136 x 128 pixels) and
Unicode's `emoji-test.txt` (UTS #51), from the Debian packages fonts-noto-color-emoji and
unicode-data. With their versions in Debian 12 there are 1,870 pictures in 9 groups, such as
"Animals & Nature", and 99 subgroups, such as "animal-bird".
"""

import logging
import re
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from skipjax.training.pictures import Pictures

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
EMOJI_TEST = "/usr/share/unicode/emoji/emoji-test.txt"

_log = logging.getLogger(__name__)

_PIXELS = 109  # the only size the font's bitmaps come in; FreeType refuses all others
_GLYPH = (0, 0, 136, 128)  # left, top, right, bottom of every bitmap of the font
_SQUARE = (4, 0, 132, 128)  # the centred square of it; no emoji has ink to its left or right
_NO_SUCH_FLAG = "\U0001f1e6\U0001f1e6"  # AA is no country: the font draws its unknown flag
_GROUP = re.compile(r"# group: (.+)")
_SUBGROUP = re.compile(r"# subgroup: (.+)")
_ENTRY = re.compile(r"([0-9A-F ]+?)\s*; fully-qualified\s*# \S+ (?:E\d+\.\d+ )?(.+)")

Classes = Literal["group", "subgroup"]


class _Entry(NamedTuple):
    text: str
    group: str
    subgroup: str
    name: str


def render(
    size: int = 32,
    font: str | Path = FONT,
    emoji_test: str | Path = EMOJI_TEST,
    classes: Classes = "group",
) -> Pictures:
    """Draws every fully-qualified emoji without a skin tone, in the order of `emoji_test`.

    Each is the font's own bitmap on white, cut to its middle 128 x 128 pixels and scaled to
    `size` x `size`: all keep their relative scale, and at 32 most reach to a pixel of the edge.
    Emoji that the font lacks (it is older than the list) are left out, and their number goes to
    this module's logger at level INFO. Classes are Unicode's groups, or its subgroups.

    Raises FileNotFoundError where a file is missing, RuntimeError where Pillow cannot shape
    sequences (flags, families) into one glyph, ValueError where size is not in 1 .. 128,
    classes are something else or the font draws none of the emoji.
    """
    if not 1 <= size <= 128:
        raise ValueError(f"size must be in 1 .. 128, the font's resolution; got {size}")
    if classes not in get_args(Classes):
        raise ValueError(f"classes is {classes!r}: it must be one of group, subgroup")
    _require(font, "fonts-noto-color-emoji")
    _require(emoji_test, "unicode-data")
    if not features.check("raqm"):
        raise RuntimeError(
            "Pillow finds no raqm, without which flags and families fall apart into several "
            "glyphs: apt-get install libraqm0 libfribidi0"
        )
    face = ImageFont.truetype(str(font), _PIXELS, layout_engine=ImageFont.Layout.RAQM)
    entries = _entries(emoji_test)
    unknown_flag = _draw(face, _NO_SUCH_FLAG, size)
    images, drawn, left_out = [], [], []
    for entry in entries:
        image = _draw(face, entry.text, size)
        if image is None or (unknown_flag is not None and np.array_equal(image, unknown_flag)):
            left_out.append(entry.name)
            continue
        images.append(image)
        drawn.append(entry)
    names = tuple(entry.name for entry in drawn)
    _log.info("%d emoji drawn; %d not in the font: %s", len(names), len(left_out), left_out)
    if not images:
        raise ValueError(
            f"{font} draws none of the {len(entries)} emoji of {emoji_test} as one bitmap of "
            "136 x 128 pixels: it must be the bitmap (CBDT) build of Noto Color Emoji"
        )
    owners = [getattr(entry, classes) for entry in drawn]
    class_names = tuple(dict.fromkeys(owners))
    labels = np.array([class_names.index(owner) for owner in owners], np.int32)
    return Pictures(np.stack(images), labels, names, class_names)


def subgroups(emoji_test: str | Path = EMOJI_TEST) -> dict[str, tuple[str, ...]]:
    """The subgroups of each group, of those that `render` draws from, in the order of the file.

    Raises FileNotFoundError where it is missing.
    """
    _require(emoji_test, "unicode-data")
    found: dict[str, dict[str, None]] = {}
    for entry in _entries(emoji_test):
        found.setdefault(entry.group, {})[entry.subgroup] = None
    return {group: tuple(names) for group, names in found.items()}


def _require(path: str | Path, package: str) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not there: apt-get install {package} (Debian, Ubuntu)")


def _entries(emoji_test: str | Path) -> list[_Entry]:
    """Every fully-qualified emoji without a skin tone."""
    entries, group, subgroup = [], "", ""
    for line in Path(emoji_test).read_text(encoding="utf-8").splitlines():
        if match := _GROUP.fullmatch(line):
            group = match[1]
        elif match := _SUBGROUP.fullmatch(line):
            subgroup = match[1]
        elif match := _ENTRY.fullmatch(line):
            text = "".join(chr(int(code, 16)) for code in match[1].split())
            if not re.search("[\U0001f3fb-\U0001f3ff]", text):
                entries.append(_Entry(text, group, subgroup, match[2]))
    return entries


def _draw(face: ImageFont.FreeTypeFont, text: str, size: int) -> np.ndarray | None:
    """uint8 [size, size, 3], or None where the font has no one glyph for text."""
    # A glyph that is missing has an empty box; a sequence that is missing falls into several
    # glyphs and has a wider one.
    if face.getbbox(text) != _GLYPH:
        return None
    canvas = Image.new("RGB", _GLYPH[2:], "white")
    ImageDraw.Draw(canvas).text((0, 0), text, font=face, embedded_color=True)
    square = canvas.crop(_SQUARE)
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))
