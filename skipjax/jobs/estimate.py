"""What a job would take, found out without writing anything."""

import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from skipjax import sharding
from skipjax.codecs import images
from skipjax.jobs import record, storage, workers
from skipjax.jobs.formats import Pictures, encode
from skipjax.jobs.job import Job, resolve
from skipjax.jobs.program import Program, said_memory
from skipjax.jobs.reporting import Report
from skipjax.jobs.shards import Layout

TIMED = 2  # batches


class Estimate(NamedTuple):
    """What there is to do for a worker, and what it takes.

    Attributes:
        pictures: Still to be drawn.
        shards: Files that they make.
        bytes: Size of all those files.
        batch: Pictures at a time.
        memory: Bytes of the program on each device, weights included; None where not known.
        rate: Pictures per second, as just measured.
        seconds: For all the pictures.
        decoding: Bytes that decoding takes on each device, after the program; likewise.
    """

    pictures: int
    shards: int
    bytes: int
    batch: int
    memory: int | None
    rate: float
    seconds: float
    decoding: int | None = None

    def __str__(self) -> str:
        hours, rest = divmod(round(self.seconds), 3600)
        takes = f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
        memory = said_memory(self.memory, self.decoding)
        return (
            f"{self.pictures:,} pictures to draw, in {self.shards:,} shards, "
            f"{self.bytes / 1e9:.3f} GB; {self.batch} at a time{memory}; "
            f"{self.rate:.2f} pictures/s: {takes}"
        )


def estimate(
    job: Job,
    out: str | Path,
    *,
    worker: int | None = None,
    num_workers: int | None = None,
    batch: int | None = None,
    split: int = 1,
    report: Report | None = None,
) -> Estimate:
    """Compiles a job's program and times it, and looks up what is there already.

    Arguments and errors are those of `run`.
    """
    place, at = workers.worker(worker, num_workers), storage.store(out)
    resolved = resolve(job, sharding.mesh(model=split) if split > 1 else None)
    layout = Layout(resolved.num, job.shard_size, job.format)
    left = [shard for shard in range(layout.count) if place.owns(shard)]
    if agreed := record.same(at, resolved):
        resolved, shards = agreed
        left = list(shards.faults(left))
    program = Program(resolved, report or Report(), batch)
    ids = np.arange(program.batch)
    program(ids).block_until_ready()
    began = time.perf_counter()
    drawn = [program(ids) for _ in range(TIMED)]
    floats = np.asarray(jax.block_until_ready(drawn)[-1])
    rate = TIMED * program.batch / (time.perf_counter() - began)
    pixels = images.to_uint8(np.nan_to_num(floats))
    some = Pictures(ids, pixels, resolved.labels(ids), resolved.captions(ids))
    size = len(encode(some, layout.format)) / len(ids)
    num = sum(len(layout.ids(shard)) for shard in left)
    return Estimate(
        num,
        len(left),
        int(size * num),
        program.batch,
        program.memory,
        rate,
        num / rate,
        program.decoding,
    )
