"""A finished job in the form that others read, a shard at a time."""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from skipjax.codecs.images import check_png
from skipjax.files import pending, pending_folder
from skipjax.jobs import record, storage
from skipjax.jobs.formats import Pictures, array_file, png
from skipjax.jobs.storage import Folder

Format = Literal["npz", "png"]
PER_FOLDER = 1000  # PNGs to a folder


class Exported(NamedTuple):
    """What was written, and how many pictures are in it."""

    path: Path
    pictures: int


def export(
    job: str | Path,
    form: Format = "npz",
    out: Path | None = None,
    *,
    flat: bool = False,
    on_shard: Callable[[int], object] = lambda pictures: None,
) -> Exported:
    """Puts the pictures of a finished job together.

    Args:
        job: Folder of the job, or a URL that fsspec knows.
        form: "npz" is what ADM's evaluator reads: arr_0, the pictures, uint8 NHWC by id, and
            arr_1, their classes if they have any; and captions, if they were told prompts. "png"
            is a folder of pictures, named by id, a thousand to a folder in it; each says in a text
            "skipjax", JSON, what it was drawn of.
        out: What to write. Default: samples_NxHxWxC.npz, or png, where the job is.
        flat: Whether all PNGs lie in one folder, as the tools that compute FID expect.
        on_shard: Told how many pictures were put there.

    Raises:
        ValueError: If a shard is missing or damaged, there is no job, the pictures cannot be PNGs,
            or nothing can be written to `out`.
    """
    if flat and form != "png":
        raise ValueError(f"flat is for png, a folder of pictures, and the form is {form}")
    store = storage.store(job)
    shards = record.shards(store)
    layout = shards.layout
    wrong = shards.faults(range(layout.count))
    if wrong:
        first = min(wrong)
        raise ValueError(
            f"{store} is not finished: {layout.name(first)} {wrong[first]}"
            + (f", and so for {len(wrong) - 1} more" if len(wrong) > 1 else "")
            + "; run the job again"
        )

    def parts() -> Iterator[Pictures]:
        for shard in range(layout.count):
            yield shards.pictures(shard)

    sidecars = filter(None, map(shards.sidecar, range(layout.count)))
    num = sum(sidecar.count for sidecar in sidecars)
    like = next((some for some in parts() if len(some.ids)), None)
    if like is None:
        raise ValueError(f"{store} has no picture that is finite: there is nothing to export")
    if form == "png":
        check_png(like.images.shape[1:])
    path = out
    if path is None:
        if not isinstance(store, Folder):
            raise ValueError(f"{store} is no local folder: say with out where to export to")
        shape = "x".join(map(str, (num, *like.images.shape[1:])))
        path = store.path / (f"samples_{shape}.npz" if form == "npz" else "png")
    if form == "npz":
        _to_npz(path, num, like, parts(), on_shard)
    else:
        _to_pngs(path, layout.num, parts(), flat, on_shard, record.about(store))
    return Exported(path, num)


def _to_npz(
    out: Path,
    num: int,
    like: Pictures,
    parts: Iterator[Pictures],
    on_shard: Callable[[int], object],
) -> None:
    labels, captions = [], []
    with pending(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with array_file(archive, "arr_0", like.images, num) as file:
            for pictures in parts:
                if len(pictures.ids):
                    file.write(np.ascontiguousarray(pictures.images).data)
                    labels.append(pictures.labels)
                    captions.append(pictures.captions)
                on_shard(len(pictures.ids))
        if like.labels is not None:
            with array_file(archive, "arr_1", like.labels, num) as file:
                file.write(np.concatenate(labels).data)
        if like.captions is not None:
            texts = np.concatenate(captions)
            with array_file(archive, "captions", texts, num) as file:
                file.write(texts.data)


def _to_pngs(
    out: Path,
    num: int,
    parts: Iterator[Pictures],
    flat: bool,
    on_shard: Callable[[int], object],
    about: Mapping[str, Any],
) -> None:
    digits = max(6, len(str(num - 1)))
    with pending_folder(out) as temporary:
        for pictures in parts:
            for i, id in enumerate(pictures.ids.tolist()):
                within = "" if flat else f"{id // PER_FOLDER:0{digits - 3}d}"
                (temporary / within).mkdir(exist_ok=True)
                own: dict[str, Any] = {"id": id}
                if pictures.labels is not None:
                    own["label"] = int(pictures.labels[i])
                if pictures.captions is not None:
                    own["prompt"] = str(pictures.captions[i])
                content = png(pictures.images[i], {**own, **about})
                (temporary / within / f"{id:0{digits}d}.png").write_bytes(content)
            on_shard(len(pictures.ids))
