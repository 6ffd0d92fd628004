"""Where pictures come from: a folder, an .npz, or a data set that is made here."""

import os
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from skipjax.training import digits, emoji
from skipjax.training.pictures import Pictures

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MODES = {"RGB": 3, "L": 1}
_SHOWN = 3  # of the files or sizes that an error names


class Files:
    """Pictures in files, decoded when they are asked for.

    Attributes:
        shape: (N, H, W, C).
    """

    def __init__(self, paths: list[Path], size: int, mode: str):
        self._paths, self._size, self._mode = paths, size, mode
        self.shape = (len(paths), size, size, MODES[mode])

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        return np.stack([self._decode(self._paths[i]) for i in index])

    def _decode(self, path: Path) -> np.ndarray:
        try:
            with Image.open(path) as picture:
                picture = ImageOps.exif_transpose(picture)
                if "A" in picture.getbands() or "transparency" in picture.info:
                    white = Image.new("RGBA", picture.size, "white")
                    picture = Image.alpha_composite(white, picture.convert("RGBA"))
                picture = picture.convert(self._mode)
                if picture.size != (self._size, self._size):
                    # The middle square, made smaller or larger.
                    square = (self._size, self._size)
                    picture = ImageOps.fit(picture, square, Image.Resampling.LANCZOS)
                return np.asarray(picture).reshape(self.shape[1:])
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{path} cannot be read as a picture ({error})") from None


def read(data: str, size: int | None = None, mode: str | None = None) -> Pictures:
    """The pictures that a word or a path names.

    Args:
        data: "emoji" (needs two Debian packages), "digits" (needs scikit-learn), a folder, or an
            .npz with arr_0 (uint8 [N, H, W, C]) and, for labels, arr_1 (whole numbers [N]), as
            ADM's code and `skipjax export` write it.
        size: Side in pixels: of emoji 32 unless told; pictures in a folder are cut to their
            middle square and scaled to it. Unless told they must all be squares of one size.
        mode: "RGB" or "L", which pictures in a folder are turned into; unless told they must all
            be of one mode. What is transparent is put on white.

    Raises:
        ValueError: If there is nothing of the name, no picture, pictures of mixed size or mode,
            or labels that are no whole numbers.
    """
    if mode is not None and mode not in MODES:
        raise ValueError(f"mode is {mode!r}: it must be one of {', '.join(MODES)}")
    if data == "emoji":
        return emoji.render(size or 32)
    if data == "digits":
        return _sized(digits.read(), size)
    path = Path(data)
    if path.is_dir():
        return folder(path, size, mode)
    if path.suffix == ".npz" and path.is_file():
        return _sized(_npz(path), size)
    raise ValueError(
        f"data is {data!r}: it must be emoji, digits, a folder with pictures, or an .npz that is "
        "there"
    )


def folder(path: Path, size: int | None = None, mode: str | None = None) -> Pictures:
    """Pictures of a folder; where they lie in folders of it, each of those is a class."""
    files = sorted(
        Path(at) / name
        for at, _, names in os.walk(path, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES
    )
    if not files:
        raise ValueError(f"{path} holds no picture: none of {', '.join(SUFFIXES)} is in it")
    owners = [file.relative_to(path).parts[0] if file.parent != path else "" for file in files]
    classes = sorted(set(owners))
    if "" in classes and len(classes) > 1:
        raise ValueError(
            f"{path} holds {owners.count('')} pictures beside the folders "
            f"{', '.join(classes[1 : 1 + _SHOWN])}: put all of them into folders, one for each "
            "class, or none"
        )
    size, mode = _common(files, size, mode)
    names = tuple(f"{file.relative_to(path)} {file.stat().st_size}" for file in files)
    if classes == [""]:
        return Pictures(Files(files, size, mode), None, names)
    labels = np.array([classes.index(owner) for owner in owners], np.int32)
    return Pictures(Files(files, size, mode), labels, names, tuple(classes))


def _common(files: list[Path], size: int | None, mode: str | None) -> tuple[int, str]:
    """Size and mode that all pictures have, or that were asked for."""
    sizes: Counter[tuple[int, int]] = Counter()
    modes: Counter[str] = Counter()
    for file in files:
        try:
            with Image.open(file) as picture:
                sizes[picture.size] += 1
                modes[picture.mode] += 1
        except (OSError, UnidentifiedImageError):
            raise ValueError(f"{file} cannot be read as a picture") from None
    if size is None:
        if len(sizes) > 1 or len({*next(iter(sizes))}) > 1:
            shown = ", ".join(f"{n} of {w} x {h}" for (w, h), n in sizes.most_common(_SHOWN))
            raise ValueError(
                f"pictures are not squares of one size ({shown}"
                f"{', ...' if len(sizes) > _SHOWN else ''}): say which size to scale them to"
            )
        size = next(iter(sizes))[0]
    if mode is None:
        if len(modes) > 1 or next(iter(modes)) not in MODES:
            shown = ", ".join(f"{n} {mode}" for mode, n in modes.most_common(_SHOWN))
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


def _sized(pictures: Pictures, size: int | None) -> Pictures:
    if size is not None and pictures.images.shape[1:3] != (size, size):
        raise ValueError(
            f"size is {size}, and the pictures are {pictures.images.shape[1:3]}: only those of a "
            "folder are scaled"
        )
    return pictures
