"""What is there of a job, what is wrong with it, and mending what can be."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from skipjax.jobs import locks, manifest, record, shards, storage
from skipjax.jobs.locks import Owner
from skipjax.jobs.manifest import Manifest
from skipjax.jobs.shards import Layout
from skipjax.jobs.storage import Store, read

NOT_MADE = "is not made yet"
OURS = ("samples_", "png")  # exports may stand beside the shards


def faults(store: Store, layout: Layout, known: Manifest, some: Iterable[int]) -> dict[int, str]:
    """The shards that are not finished and whole, each with what is wrong with it.

    Every byte of them is read and compared with the sha256 in the manifest.
    """
    sizes = store.sizes(shards.FOLDER)
    with ThreadPoolExecutor(storage.READERS) as readers:
        some = list(some)
        found = readers.map(lambda shard: _fault(store, layout, known, shard, sizes), some)
        return {shard: fault for shard, fault in zip(some, found, strict=True) if fault}


def unmade(store: Store, layout: Layout, known: Manifest) -> list[int]:
    """The shards that are not finished, as far as names and sizes tell."""
    sizes = store.sizes(shards.FOLDER)
    return [
        shard
        for shard in range(layout.count)
        if sizes.get(layout.name(shard), -1) not in (row.bytes for row in known.of(shard))
    ]


def foreign(store: Store, layout: Layout) -> list[str]:
    """Files in a job's folder that are none of its own."""
    ours = set(layout.names())
    stray = (name for name in store.sizes(shards.FOLDER) if name not in ours)
    top = (name for name in store.sizes() if name != record.NAME and not name.startswith(OURS))
    return sorted([*top, *stray])


def mend(store: Store, job: str, ours: Owner) -> list[str]:
    """Clears up after workers that died: leases, what they left half-written, lines cut short.

    Args:
        store: Of the job.
        job: Its hash.
        ours: This process, which has written nothing yet.

    Returns:
        What was mended, a line each.
    """
    locks.end_leases_of_the_dead(store)
    folders = ("", shards.FOLDER, manifest.FOLDER, locks.FOLDER, locks.LEASES)
    swept = sum(store.sweep(folder, lambda: locks.tokens(store)) for folder in folders)
    said = [f"{swept} half-written files removed"] if swept else []
    living = locks.living(store)
    at_work = {name for name, owner in living.items() if owner.token != ours.token}
    for name in store.sizes(manifest.FOLDER):
        if Path(name).stem not in at_work and manifest.mend(store, name, job):
            said.append(f"{name}: lines that are cut, damaged or of another job are taken out")
    return said


class Verdict(NamedTuple):
    """What was found of a job.

    Attributes:
        faults: What is wrong with it, a line each.
        notes: What else is worth knowing.
        shards: How many it has.
        pictures: How many are there and whole.
    """

    faults: list[str]
    notes: list[str]
    shards: int
    pictures: int

    def __str__(self) -> str:
        whole = f"{self.pictures:,} pictures are there and whole, in {self.shards:,} shards"
        if not self.faults:
            return f"all is well: {whole}"
        return f"{len(self.faults):,} faults: run the job again to mend them; {whole}"


def verify(out: str | Path) -> Verdict:
    """Reads every byte of a job, and compares it with the sha256 and the ids that it should have.

    Args:
        out: Folder of the job, or a URL that fsspec knows.

    Raises:
        ValueError: If there is no job.
    """
    at = storage.store(out)
    found = record.found(at)
    layout, known = record.layout(found), Manifest(at, found["job"])
    wrong = faults(at, layout, known, range(layout.count))
    with ThreadPoolExecutor(storage.READERS) as readers:
        whole = [shard for shard in range(layout.count) if shard not in wrong]
        told = readers.map(lambda shard: _content(at, layout, known, shard), whole)
        wrong |= {shard: fault for shard, fault in zip(whole, told, strict=True) if fault}
    rows = [known.of(shard)[-1] for shard in range(layout.count) if shard not in wrong]
    notes = [f"{name} is no file of this job" for name in foreign(at, layout)]
    if skipped := sum(len(row.skipped) for row in rows):
        notes.append(f"{skipped} pictures were left out, since they were NaN or infinite")
    said = [f"{layout.name(shard)} {fault}" for shard, fault in sorted(wrong.items())]
    return Verdict([*known.faults, *said], notes, layout.count, sum(row.count for row in rows))


def _fault(
    store: Store, layout: Layout, known: Manifest, shard: int, sizes: dict[str, int]
) -> str | None:
    """What is wrong with a shard, in a few words; None if it is finished and whole."""
    name, rows = layout.name(shard), known.of(shard)
    if name not in sizes:
        return "is missing" if rows else NOT_MADE
    if not rows:
        return "is not in the manifest"
    if sizes[name] not in (row.bytes for row in rows):
        return f"has {sizes[name]:,} bytes instead of {rows[-1].bytes:,}"
    if _sha256(store, name) not in (row.sha256 for row in rows):
        return "is not what was written: its sha256 is another"
    return None


def _content(store: Store, layout: Layout, known: Manifest, shard: int) -> str | None:
    """What is wrong with what a whole file holds."""
    try:
        pictures = shards.decode(read(store, layout.name(shard)) or b"", layout.format)
    except ValueError as error:
        return str(error)
    wanted = sorted({*layout.ids(shard).tolist()} - {*known.of(shard)[-1].skipped})
    if pictures.ids.tolist() != wanted or len(pictures.images) != len(wanted):
        return f"holds {len(pictures.ids)} pictures, and not those of its ids"
    return None


def _sha256(store: Store, name: str) -> str:
    digest = hashlib.sha256()
    for chunk in store.chunks(name):
        digest.update(chunk)
    return digest.hexdigest()
