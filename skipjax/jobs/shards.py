"""Shards: files of pictures, each with a fixed range of ids and a sidecar that proves it.

Shard k holds the ids k S .. (k+1) S - 1, whatever batches, devices and workers they were drawn by.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from skipjax.jobs import claims, formats
from skipjax.jobs.formats import Pictures
from skipjax.jobs.storage import Store, read

NAME, FOLDER = "job.json", "shards"
NOT_MADE = "is not made yet"
EXPORTS = ("samples_", "png")  # may stand in the folder of a job too
READERS = 16  # files read at a time


@dataclass(frozen=True)
class Layout:
    """How the pictures of a job are cut into files.

    Attributes:
        num: Number of pictures.
        size: Pictures to a shard, S; the last one has the rest.
        format: "npz" or "tar".
    """

    num: int
    size: int
    format: str

    @property
    def count(self) -> int:
        """Number of shards."""
        return -(-self.num // self.size)

    def ids(self, shard: int) -> np.ndarray:
        """Ids of the pictures in a shard, int64."""
        return np.arange(shard * self.size, min((shard + 1) * self.size, self.num))

    def name(self, shard: int) -> str:
        """Where a shard is kept."""
        return f"{FOLDER}/{shard:06d}.{self.format}"

    def sidecar(self, shard: int) -> str:
        """Where its sidecar is kept."""
        return f"{FOLDER}/{shard:06d}.json"


@dataclass(frozen=True)
class Sidecar:
    """What is known of a shard.

    Attributes:
        job: Hash of the job.
        shard: Its number.
        start: Id that it begins with.
        count: Pictures in it.
        bytes: Size of its file.
        sha256: Of its file.
        skipped: Ids left out, since their pictures came out NaN or infinite.
        metrics: Who drew it, when, and how fast.
    """

    job: str
    shard: int
    start: int
    count: int
    bytes: int
    sha256: str
    skipped: list[int] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)


class Shards(NamedTuple):
    """The shards of a job where they are kept.

    Attributes:
        store: Where.
        job: Hash of the job.
        layout: How it is cut.
    """

    store: Store
    job: str
    layout: Layout

    def put(
        self, shard: int, pictures: Pictures, skipped: list[int], metrics: dict[str, Any]
    ) -> Sidecar:
        """Writes a shard, its sidecar first."""
        content = formats.encode(pictures, self.layout.format)
        start, sha256 = int(self.layout.ids(shard)[0]), hashlib.sha256(content).hexdigest()
        num = len(pictures.ids)
        said = Sidecar(self.job, shard, start, num, len(content), sha256, skipped, metrics)
        text = json.dumps(asdict(said), indent=1) + "\n"
        self.store.put(self.layout.sidecar(shard), text.encode())
        self.store.put(self.layout.name(shard), content)
        return said

    def pictures(self, shard: int) -> Pictures:
        """What is in a shard.

        Raises:
            ValueError: If no pictures can be read from it.
        """
        content = read(self.store, self.layout.name(shard)) or b""
        return formats.decode(content, self.layout.format)

    def sidecar(self, shard: int) -> Sidecar | None:
        """What is said of a shard; None where nothing that can be read is."""
        try:
            said = Sidecar(**json.loads(read(self.store, self.layout.sidecar(shard)) or b""))
        except (ValueError, TypeError):
            return None
        return said if said.job == self.job else None

    def unmade(self) -> list[int]:
        """Those that are not finished, as far as names tell."""
        there = {f"{FOLDER}/{name}" for name in self.store.names(FOLDER)}
        name, sidecar = self.layout.name, self.layout.sidecar
        every = range(self.layout.count)
        return [shard for shard in every if not there >= {name(shard), sidecar(shard)}]

    def faults(self, some: Iterable[int], deeply: bool = False) -> dict[int, str]:
        """Those that are not finished and whole, each with what is wrong with it in a few words.

        Every byte of them is read and compared with the sha256 in the sidecar.

        Args:
            some: Shards to look at.
            deeply: Whether their pictures are looked at, too.
        """
        some = list(some)
        with ThreadPoolExecutor(READERS) as readers:
            found = readers.map(lambda shard: self._fault(shard, deeply), some)
            return {shard: fault for shard, fault in zip(some, found, strict=True) if fault}

    def foreign(self) -> list[str]:
        """Files in the job's folder that are none of its own."""
        layout, ours = self.layout, {NAME, FOLDER, claims.FOLDER}
        theirs = [n for n in self.store.names() if n not in ours and not n.startswith(EXPORTS)]
        every = range(layout.count)
        known = {name(shard) for shard in every for name in (layout.name, layout.sidecar)}
        inside = {f"{FOLDER}/{name}" for name in self.store.names(FOLDER)}
        return sorted([*theirs, *(inside - known)])

    def _fault(self, shard: int, deeply: bool) -> str | None:
        said = self.sidecar(shard)
        try:
            with self.store.open(self.layout.name(shard)) as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.seek(0, 2)
        except FileNotFoundError:
            return NOT_MADE if said is None else "is missing"
        if said is None:
            return "has no sidecar that can be read"
        if size != said.bytes:
            return f"has {size:,} bytes instead of {said.bytes:,}"
        if sha256 != said.sha256:
            return "is not what was written: its sha256 is another"
        return self._misfit(shard, said) if deeply else None

    def _misfit(self, shard: int, said: Sidecar) -> str | None:
        """What is wrong with the pictures of a shard whose bytes are right."""
        try:
            pictures = self.pictures(shard)
        except ValueError as error:
            return str(error)
        wanted = sorted({*self.layout.ids(shard).tolist()} - {*said.skipped})
        if pictures.ids.tolist() != wanted or len(pictures.images) != len(wanted):
            return f"holds {len(pictures.ids)} pictures, and not those of its ids"
        return None
