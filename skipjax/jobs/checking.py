"""What is there of a job, and what is wrong with it."""

from pathlib import Path
from typing import NamedTuple

from skipjax.jobs import record, storage
from skipjax.jobs.reporting import Report
from skipjax.jobs.shards import NOT_MADE, Shards
from skipjax.jobs.workers import Worker

SHOWN = 10  # shards to be made again that are named one by one


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
        ValueError: If there is no job, or one of an older version.
    """
    shards = record.shards(storage.store(out))
    layout = shards.layout
    wrong = shards.faults(range(layout.count), deeply=True)
    whole = (shards.sidecar(shard) for shard in range(layout.count) if shard not in wrong)
    known = [sidecar for sidecar in whole if sidecar is not None]
    notes = [f"{name} is no file of this job" for name in shards.foreign()]
    if skipped := sum(len(sidecar.skipped) for sidecar in known):
        notes.append(f"{skipped} pictures were left out, since they were NaN or infinite")
    faults = [f"{layout.name(shard)} {fault}" for shard, fault in sorted(wrong.items())]
    return Verdict(faults, notes, layout.count, sum(sidecar.count for sidecar in known))


def survey(shards: Shards, worker: Worker, report: Report) -> list[int]:
    """Removes what cannot be used, says so, and finds the shards that a worker is to make."""
    store, layout = shards.store, shards.layout
    own = [shard for shard in range(layout.count) if worker.owns(shard)]
    lines = [f"{num} half-written files removed"] if (num := store.sweep()) else []
    faults = shards.faults(own)
    again = [shard for shard, fault in faults.items() if fault != NOT_MADE]
    for shard in again:
        store.remove(layout.name(shard))
    lines += [f"{layout.name(shard)} {faults[shard]}: made again" for shard in again[:SHOWN]]
    if len(again) > SHOWN:
        lines.append(f"and {len(again) - SHOWN} more are made again")
    lines += [f"{name} is no file of this job: left alone" for name in shards.foreign()[:SHOWN]]
    for line in lines:
        report.say("mended", f"{store}: {line}")
    total, left = (sum(len(layout.ids(shard)) for shard in some) for some in (own, faults))
    report.say(
        "start",
        f"{store}: {worker}, {total - left:,} of {total:,} pictures are there already",
        job=shards.job,
        worker=worker.index,
        num_workers=worker.count,
        pictures=total,
        done=total - left,
        shards=len(own),
    )
    return list(faults)
