"""Runs a worker of a job: finds out what is left to do, does it, and can be stopped anywhere."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from skipjax import sharding
from skipjax.checks import whole
from skipjax.jobs import checking, claims, record, storage, workers
from skipjax.jobs.claims import Claims
from skipjax.jobs.drawing import Drawn, OnNan, draw
from skipjax.jobs.group import Group
from skipjax.jobs.job import Job, Resolved, resolve
from skipjax.jobs.program import Program
from skipjax.jobs.reporting import Bar, Report
from skipjax.jobs.shards import Shards
from skipjax.jobs.signals import Stop
from skipjax.jobs.workers import Worker

BEHIND = 2  # shards that may wait to be written
POLL = 1.0  # seconds until a worker looks again what others have left


class Outcome(NamedTuple):
    """What a worker has done.

    Attributes:
        pictures: How many it drew and wrote.
        seconds: From the first batch to the last file.
        missing: Shards of the whole job that are not finished.
        code: Exit code: 0, or 128 and the number of the signal that stopped it.
    """

    pictures: int
    seconds: float
    missing: int
    code: int

    def __str__(self) -> str:
        said = "nothing to draw"
        if self.pictures:
            rate = self.pictures / self.seconds
            said = f"{self.pictures:,} pictures in {self.seconds:.1f} s, {rate:.2f} pictures/s"
        if self.code:
            said += "; stopped"
        rest = (
            "the job is finished" if not self.missing else f"{self.missing:,} shards are missing"
        )
        return f"{said}; {rest}"


def run(
    job: Job,
    out: str | Path,
    *,
    worker: int | None = None,
    num_workers: int | None = None,
    steal: bool = False,
    batch: int | None = None,
    split: int = 1,
    on_nan: OnNan = "stop",
    devices: Sequence[jax.Device] | None = None,
    report: Report | None = None,
    stop: Stop | None = None,
) -> Outcome:
    """Draws a job's pictures, or those of one worker, and goes on where an earlier run ended.

    A shard that is finished and whole is kept, every other is made; up to rounding the pictures
    are the same whoever draws them, in whatever batches.

    Args:
        job: What to draw.
        out: Folder of the job, or a URL that fsspec knows.
        worker: Which of `num_workers` this process is. Default: what Slurm or Kubernetes say, or
            the only one.
        num_workers: How many processes share the job.
        steal: Whether to take shards of workers that are dead or slow, too, and to stay until the
            job is done.
        batch: Pictures at a time. Default: 16 for each device.
        split: Devices that each copy of the weights is split over.
        on_nan: "stop" at a picture that is NaN or infinite, or "skip" it and record its id.
        devices: Where to compute. Default: all local devices. Not with `split`.
        report: Told what happens. Default: a progress bar.
        stop: Says when to stop before the next batch. Default: KeyboardInterrupt does.

    Raises:
        ValueError: If the job cannot be drawn, or the folder holds another.
        OSError: If a file cannot be written.
        FloatingPointError: With the ids of pictures that are not finite.
    """
    place = workers.worker(worker, num_workers)
    batch = None if batch is None else whole("batch", batch, 1)
    split = whole("split", split, 1, jax.device_count())
    if on_nan not in ("stop", "skip"):
        raise ValueError(f"on_nan is {on_nan!r}: it must be 'stop' or 'skip'")
    group = Group()
    report = (report or Bar()) if group.leads else Report()
    if steal and group.count > 1:
        raise ValueError("steal is for workers of their own, and these processes are one")
    store = storage.store(out)
    resolved, shards = record.agree(store, resolve(job, _mesh(split, group)))
    with group, Claims(store, place.index) as claimed:
        shift = _Shift(shards, place, resolved, report, on_nan, group, claimed, stop or Stop())
        left = group.told(checking.survey(shards, place, report) if group.leads else [])
        if left or steal and shards.unmade():
            shift.work(Program(resolved, report, batch, devices), left, steal)
        missing = group.told(shards.unmade() if group.leads else [])
    if group.leads and not missing:
        claims.clear(store)
    return Outcome(shift.written, shift.seconds, len(missing), shift.code)


@dataclass
class _Shift:
    """What a worker does from the first batch to the last file."""

    shards: Shards
    worker: Worker
    resolved: Resolved
    report: Report
    on_nan: OnNan
    group: Group
    claims: Claims
    stop: Stop
    written: int = 0
    seconds: float = 0.0
    code: int = 0
    last: float = 0.0  # when a shard was last written

    def work(self, program: Program, left: list[int], steal: bool) -> None:
        """Draws what is left of this worker's shards, and then of others', until all are made."""
        layout = self.shards.layout
        own = [shard for shard in range(layout.count) if self.worker.owns(shard)]
        total, rest = (sum(len(layout.ids(shard)) for shard in some) for some in (own, left))
        self.report.begin(total, total - rest)
        began = self.last = time.perf_counter()
        try:
            while not self._stopped() and (left := self._left(steal)):
                before = self.written
                self._draw(program, left)
                if self.written == before and not self.code:  # others are at work on all of it
                    time.sleep(POLL)
        finally:
            self.seconds = time.perf_counter() - began
            self.report.end()

    def _left(self, steal: bool) -> list[int]:
        """What is to be made: this worker's shards, and if it steals, then others' from behind."""
        rest = self.shards.unmade() if self.group.leads else []
        own = [shard for shard in rest if self.worker.owns(shard)]
        theirs = [shard for shard in reversed(rest) if not self.worker.owns(shard)]
        return self.group.told([*own, *theirs] if steal else own)

    def _stopped(self) -> bool:
        """Whether this process, or one that it works with, is asked to stop."""
        self.code = self.group.most(self.stop.code)
        return self.code > 0

    def _draw(self, program: Program, some: list[int]) -> None:
        writing: deque[Future] = deque(maxlen=BEHIND)
        with ThreadPoolExecutor(1) as writer:

            def finish(drawn: Drawn) -> None:
                if len(writing) == BEHIND:
                    writing[0].result()
                last = writing[-1] if writing else None
                writing.append(writer.submit(self._write, drawn, last))

            draw(
                self.resolved,
                program,
                self._claimed(some),
                self.shards.layout,
                finish,
                on_nan=self.on_nan,
                stopped=self._stopped,
                on_batch=self._drawn,
                on_host=self.group.on_host,
            )
            if writing:
                writing[-1].result()

    def _drawn(self, num: int) -> None:
        self.report.drawn(num)
        self.claims.renew()

    def _claimed(self, some: list[int]) -> Iterator[int]:
        """Those that no other is at work on, and none has made meanwhile."""
        for shard in some:
            if self.group.most(int(self.group.leads and self._take(shard))):
                yield shard

    def _take(self, shard: int) -> bool:
        if not self.claims.take(shard):
            return False
        if shard in self.shards.unmade():
            return True
        self.claims.release(shard)
        return False

    def _write(self, drawn: Drawn, last: Future | None) -> None:
        if last is not None:
            last.result()  # after an error nothing more is written
        if not self.group.leads:
            return
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        count = len(drawn.pictures.ids)
        metrics = {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(seconds, 3),
            "pictures_per_second": round(count / max(seconds, 1e-9), 3),
            "worker": str(self.worker),
            "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "jax": jax.__version__,
        }
        sidecar = self.shards.put(drawn.shard, drawn.pictures, drawn.skipped, metrics)
        self.claims.release(drawn.shard)
        self.written += count
        name = self.shards.layout.name(drawn.shard)
        if drawn.skipped:
            self.report.say(
                "skipped",
                f"{name}: pictures {', '.join(map(str, drawn.skipped[:8]))} are NaN or infinite "
                "and left out",
                ids=drawn.skipped,
            )
        self.report.say("shard", f"{name} is written", **asdict(sidecar))


def _mesh(split: int, group: Group) -> Mesh | None:
    return sharding.mesh(model=split) if split > 1 or group.count > 1 else None
