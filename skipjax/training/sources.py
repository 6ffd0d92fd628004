"""Where pictures come from: a folder, an .npz, or a data set that is made here."""

import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from skipjax.training import digits, emoji
from skipjax.training.pictures import SHOWN, Pictures

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MODES = {"RGB": 3, "L": 1}
Size = int | Sequence[int] | None  # a side, or height and width, in pixels
Classes = Literal["folders", "names"]


class Files:
    """Pictures in files, decoded when they are asked for.

    Attributes:
        shape: (N, H, W, C).
    """

    def __init__(self, paths: list[Path], size: tuple[int, int], mode: str):
        self._paths, self._size, self._mode = paths, size, mode
        self.shape = (len(paths), *size, MODES[mode])

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        return np.stack([self._decode(self._paths[i]) for i in index])

    def _decode(self, path: Path) -> np.ndarray:
        try:
            with Image.open(path) as picture:
                picture = _eight_bits(ImageOps.exif_transpose(picture), path)
                if "A" in picture.getbands() or "transparency" in picture.info:
                    white = Image.new("RGBA", picture.size, "white")
                    picture = Image.alpha_composite(white, picture.convert("RGBA"))
                picture = picture.convert(self._mode)
                height, width = self._size
                if picture.size != (width, height):
                    # The middle of these proportions, made smaller or larger.
                    size = width, height
                    picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
                return np.asarray(picture).reshape(self.shape[1:])
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{path} cannot be read as a picture ({error})") from None


def _eight_bits(picture: Image.Image, path: Path) -> Image.Image:
    """A picture of 8 bits: grey ones of 16 are divided by 257, which maps 65535 to 255."""
    if picture.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        deep = np.asarray(picture).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError(f"{path} holds numbers of more than 16 bits: make it 8 or 16")
        return Image.fromarray(np.round(deep / 257).astype(np.uint8))
    if picture.mode == "F":
        raise ValueError(f"{path} holds numbers that are no whole ones: make it 8 or 16 bits")
    return picture


def read(
    data: str, size: Size = None, mode: str | None = None, classes: Classes = "folders"
) -> Pictures:
    """The pictures that a word or a path names.

    Args:
        data: "emoji" (needs two Debian packages), "digits" (needs scikit-learn), a folder, or an
            .npz with arr_0 (uint8 [N, H, W, C]) and, for labels, arr_1 (whole numbers [N]), as
            ADM's code and `skipjax export` write it.
        size: Side, or height and width, in pixels: pictures in a folder are cut to the middle of
            these proportions and scaled to it. Default: 32 for emoji; otherwise they must all be
            of one size.
        mode: "RGB" or "L", which pictures in a folder are turned into; default: they must all be
            of one mode. What is transparent is put on white; grey of 16 bits becomes 8.
        classes: Of pictures in a folder: "folders" of it, or what stands before the first "_" of
            their "names", as ADM has it.

    Raises:
        ValueError: If there is nothing of the name, no picture, pictures of mixed size or mode,
            or labels that are no whole numbers.
    """
    if mode is not None and mode not in MODES:
        raise ValueError(f"mode is {mode!r}: it must be one of {', '.join(MODES)}")
    if data == "emoji":
        height, width = _sides(size) or (32, 32)
        if height != width:
            raise ValueError(f"size is {size}, and emoji are square: give one side")
        return emoji.render(height)
    if data == "digits":
        return _sized(digits.read(), _sides(size))
    path = Path(data)
    if path.is_dir():
        return folder(path, size, mode, classes)
    if path.suffix == ".npz" and path.is_file():
        return _sized(_npz(path), _sides(size))
    raise ValueError(
        f"data is {data!r}: it must be emoji, digits, a folder with pictures, or an .npz that is "
        "there"
    )


def folder(
    path: Path, size: Size = None, mode: str | None = None, classes: Classes = "folders"
) -> Pictures:
    """Pictures of a folder; arguments and errors are those of `read`."""
    if classes not in ("folders", "names"):
        raise ValueError(f"classes is {classes!r}: it must be folders or names")
    files = sorted(
        Path(at) / name
        for at, _, names in os.walk(path, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES
    )
    if not files:
        raise ValueError(f"{path} holds no picture: none of {', '.join(SUFFIXES)} is in it")
    if classes == "names":
        owners = [file.name.split("_")[0] if "_" in file.name else "" for file in files]
    else:
        owners = [file.relative_to(path).parts[0] if file.parent != path else "" for file in files]
    found = sorted(set(owners))
    if "" in found and (len(found) > 1 or classes == "names"):
        if classes == "names":
            nameless = next(file for file, owner in zip(files, owners, strict=True) if not owner)
            raise ValueError(
                f"{nameless} names no class: with classes='names' each name is CLASS_REST"
            )
        raise ValueError(
            f"{path} holds {owners.count('')} pictures beside the folders "
            f"{', '.join(found[1 : 1 + SHOWN])}: put all of them into folders, one for each "
            "class, or none"
        )
    sides, mode = _common(files, _sides(size), mode)
    names = tuple(f"{file.relative_to(path)} {file.stat().st_size}" for file in files)
    if found == [""]:
        return Pictures(Files(files, sides, mode), None, names)
    labels = np.array([found.index(owner) for owner in owners], np.int32)
    return Pictures(Files(files, sides, mode), labels, names, tuple(found))


def _sides(size: Size) -> tuple[int, int] | None:
    """Height and width."""
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) == 1:
        sides *= 2
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"size is {size}: it must be a side, or height and width, in pixels")
    return sides


def _common(
    files: list[Path], size: tuple[int, int] | None, mode: str | None
) -> tuple[tuple[int, int], str]:
    """Size and mode that all pictures have, or that were asked for."""
    sizes: Counter[tuple[int, int]] = Counter()
    modes: Counter[str] = Counter()
    for file in files:
        try:
            with Image.open(file) as picture:
                sizes[picture.size] += 1
                modes["L" if picture.mode.startswith("I;16") else picture.mode] += 1
        except (OSError, UnidentifiedImageError):
            raise ValueError(f"{file} cannot be read as a picture") from None
    if size is None:
        if len(sizes) > 1:
            shown = ", ".join(f"{n} of {w} x {h}" for (w, h), n in sizes.most_common(SHOWN))
            raise ValueError(
                f"pictures are not of one size ({shown}"
                f"{', ...' if len(sizes) > SHOWN else ''}): say which size to scale them to"
            )
        width, height = next(iter(sizes))
        size = height, width
    if mode is None:
        if len(modes) > 1 or next(iter(modes)) not in MODES:
            shown = ", ".join(f"{n} {mode}" for mode, n in modes.most_common(SHOWN))
            raise ValueError(
                f"pictures are of mode {shown}: say RGB or L, which to turn all of them into"
            )
        mode = next(iter(modes))
    return size, mode


def _npz(path: Path) -> Pictures:
    try:
        with np.load(path) as arrays:
            images = arrays["arr_0"]
            labels = arrays["arr_1"] if "arr_1" in arrays else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no .npz with pictures in arr_0 ({error})") from None
    if labels is not None:
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"arr_1 of {path} is {labels.dtype}: labels are whole numbers")
        labels = labels.astype(np.int32)
    classes = () if labels is None or not labels.size else range(int(labels.max()) + 1)
    return Pictures(images, labels, (), tuple(map(str, classes)))


def _sized(pictures: Pictures, size: tuple[int, int] | None) -> Pictures:
    if size is not None and pictures.images.shape[1:3] != size:
        raise ValueError(
            f"size is {size}, and the pictures are {pictures.images.shape[1:3]}: only those of a "
            "folder are scaled"
        )
    return pictures
