"""The manifest: which shards are finished, a line of JSON each.

Each worker appends to a file of its own; together they are the manifest. A shard counts once its
line is there, and the file it speaks of is what the line says.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from skipjax.jobs.storage import Store, read, read_all

FOLDER = "manifest"


@dataclass(frozen=True)
class Row:
    """A finished shard.

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

    def line(self) -> bytes:
        """The row as it stands in the manifest."""
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"


class Manifest:
    """What is written of finished shards, by all workers.

    Attributes:
        faults: What is wrong with the manifest's files, a line each.
    """

    def __init__(self, store: Store, job: str):
        # A shard that was made again has several, the newest last.
        self._rows: dict[int, list[Row]] = {}
        self.faults: list[str] = []
        for name, content in read_all(store, FOLDER).items():
            for number, line in enumerate(content.splitlines(), 1):
                row = _row(line)
                if row is None:
                    self.faults.append(f"{name}: line {number} is cut or damaged")
                elif row.job != job:
                    self.faults.append(f"{name}: line {number} is of another job")
                else:
                    self._rows.setdefault(row.shard, []).append(row)

    def of(self, shard: int) -> list[Row]:
        """The rows of a shard; none where it is not finished."""
        return self._rows.get(shard, [])


def mend(store: Store, name: str, job: str) -> bool:
    """Takes out of a worker's manifest what is no row of the job, such as a line that was cut;
    whether there was anything.
    """
    content = read(store, name) or b""
    good = [line for line in content.splitlines() if (row := _row(line)) and row.job == job]
    mended = b"".join(line + b"\n" for line in good)
    if mended != content:
        store.put(name, mended)
    return mended != content


def _row(line: bytes) -> Row | None:
    try:
        return Row(**json.loads(line))
    except (ValueError, TypeError):
        return None
