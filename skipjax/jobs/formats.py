"""What a shard holds, and its files: .npz, and webdataset's .tar of PNGs."""

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from skipjax.codecs.images import check_png

BROKEN = (zipfile.BadZipFile, tarfile.TarError)


class Pictures(NamedTuple):
    """What a shard holds.

    Attributes:
        ids: int64 [n], increasing.
        images: uint8 [n, H, W, C], or of another rank.
        labels: int32 [n], or None.
        captions: What they show, texts [n], or None.
    """

    ids: np.ndarray
    images: np.ndarray
    labels: np.ndarray | None
    captions: np.ndarray | None = None

    def take(self, chosen: Any) -> "Pictures":
        """Some of the pictures."""
        some: Any = [None if array is None else array[chosen] for array in self]
        return Pictures(*some)


def encode(pictures: Pictures, format: str) -> bytes:
    """The file of a shard: the same bytes for the same pictures."""
    return _to_npz(pictures) if format == "npz" else _to_tar(pictures)


def decode(content: bytes, format: str) -> Pictures:
    """The pictures in the file of a shard.

    Raises:
        ValueError: If it is no such file.
    """
    try:
        return _of_npz(content) if format == "npz" else _of_tar(content)
    except (ValueError, KeyError, OSError, EOFError, *BROKEN) as error:
        raise ValueError(f"no pictures can be read from it ({error})") from None


def png(image: np.ndarray, about: Mapping[str, Any] | None = None) -> bytes:
    """A picture, uint8 [H, W, C] with C 1 or 3, as PNG.

    Args:
        image: The picture.
        about: What to say of it in the file, as `chunk` has it; default: nothing.

    Raises:
        ValueError: If it has another shape.
    """
    check_png(image.shape)
    content = io.BytesIO()
    pixels = Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])
    pixels.save(content, "PNG", pnginfo=None if about is None else chunk(about))
    return content.getvalue()


def chunk(about: Mapping[str, Any]) -> PngInfo:
    """The text "skipjax" of a PNG, in JSON, which says how it was drawn."""
    info = PngInfo()
    info.add_text("skipjax", json.dumps(about, ensure_ascii=False))
    return info


@contextmanager
def array_file(archive: zipfile.ZipFile, name: str, like: np.ndarray, num: int) -> Iterator[Any]:
    """An array of an .npz, to be written row by row.

    Args:
        archive: The .npz.
        name: Of the array.
        like: An array of its dtype and of the shape of its rows, [..., *shape].
        num: How many rows it will have.
    """
    header = np.lib.format.header_data_from_array_1_0(like) | {"shape": (num, *like.shape[1:])}
    # A ZipInfo of its own has a fixed date: the same arrays make the same bytes.
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        yield file


def _to_npz(pictures: Pictures) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in pictures._asdict().items():
            if array is not None:
                with array_file(archive, name, array, len(array)) as file:
                    file.write(np.ascontiguousarray(array).data)
    return content.getvalue()


def _of_npz(content: bytes) -> Pictures:
    with np.load(io.BytesIO(content)) as arrays:
        there = (arrays[name] if name in arrays else None for name in ("labels", "captions"))
        return Pictures(arrays["ids"], arrays["images"], *there)


def _to_tar(pictures: Pictures) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for i, id in enumerate(pictures.ids):
            parts = {"png": png(pictures.images[i])}
            if pictures.labels is not None:
                parts["cls"] = str(pictures.labels[i]).encode()
            if pictures.captions is not None:
                parts["txt"] = str(pictures.captions[i]).encode()
            for extension, part in parts.items():
                member = tarfile.TarInfo(f"{id:010d}.{extension}")
                member.size = len(part)
                tar.addfile(member, io.BytesIO(part))
    return content.getvalue()


def _of_tar(content: bytes) -> Pictures:
    images, labels, captions = {}, {}, {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            stem, _, extension = member.name.partition(".")
            part: Any = tar.extractfile(member)
            if extension == "png":
                pixels = np.asarray(Image.open(part))
                images[int(stem)] = pixels if pixels.ndim == 3 else pixels[..., None]
            elif extension == "txt":
                captions[int(stem)] = part.read().decode()
            else:
                labels[int(stem)] = int(part.read())
    ids = sorted(images)
    stacked = np.stack([images[id] for id in ids]) if ids else np.zeros((0, 0, 0, 0), np.uint8)
    known = np.array([labels[id] for id in ids], np.int32) if labels else None
    texts = np.array([captions[id] for id in ids], str) if captions else None
    return Pictures(np.array(ids, int), stacked, known, texts)
