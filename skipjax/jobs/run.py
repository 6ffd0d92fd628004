"""Runs a worker of a job: finds out what is left to do, does it, and can be stopped anywhere."""

import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from skipjax import placement
from skipjax.checks import whole
from skipjax.jobs import locks, manifest, record, storage, workers
from skipjax.jobs.drawing import Drawn, OnNan, draw
from skipjax.jobs.group import Group, Watch
from skipjax.jobs.job import Job, Resolved, resolve
from skipjax.jobs.locks import Lock, Lost, Owner
from skipjax.jobs.manifest import Row
from skipjax.jobs.program import Program
from skipjax.jobs.reporting import Bar, Report, Silence
from skipjax.jobs.shards import Layout, encode
from skipjax.jobs.signals import Stop
from skipjax.jobs.site import Site
from skipjax.jobs.writing import Writer


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
        worker: Which of `num_workers` this process is; unless told, what Slurm or Kubernetes say,
            or the only one.
        num_workers: How many processes share the job.
        steal: Whether to take over shards of workers that died, and to stay until the job is done.
        batch: Pictures at a time; 16 for each device, unless told.
        split: Devices that each copy of the weights is split over.
        on_nan: "stop" at a picture that is NaN or infinite, or "skip" it and record its id.
        devices: Where to compute; all local devices, unless told. Not with `split`.
        report: Told what happens; a progress bar, unless told.
        stop: Says when to stop before the next batch; KeyboardInterrupt does, unless told.

    Raises:
        ValueError: If the job cannot be drawn, the folder holds another, or a worker of this
            number is at work there.
        OSError: If a file cannot be written.
        FloatingPointError: With the ids of pictures that are not finite.
        Lost: If another process took this one's place.
    """
    place = workers.worker(worker, num_workers)
    batch = None if batch is None else whole("batch", batch, 1)
    split = whole("split", split, 1, jax.device_count())
    if on_nan not in ("stop", "skip"):
        raise ValueError(f"on_nan is {on_nan!r}: it must be 'stop' or 'skip'")
    group, owner = Group(), Owner.here(place.count)
    report = (report or Bar()) if group.leads else Silence()
    if steal and group.count > 1:
        raise ValueError("steal is for workers of their own, and these processes are one")
    store = storage.store(out, owner.token)
    resolved = resolve(job, _mesh(split, group))
    resolved, name = record.agree(store, resolved)
    site = Site(store, name, Layout.of(job), place, owner)
    lost = threading.Event()
    lock = Lock(store, group.name(place.index), owner, lost.set)
    stop = stop or Stop()
    stop.at_once = lock.release
    with lock:
        group.meet()
        with Watch(store, group.others(place.index)):
            left = group.told(site.survey(report) if group.leads else [])
            shift = _Shift(site, resolved, report, on_nan, group)
            shift.halt = lambda: stop.code or int(lost.is_set())
            if left or steal and site.unmade():
                program = Program(resolved, report, batch, devices)
                shift.work(program, left, steal)
        group.part(store, place.index)
        outcome = shift.outcome()
    if lost.is_set():
        raise Lost(f"{store}: another process took the place of {place}; finished shards are kept")
    return outcome


class _Shift:
    """What a worker does from the first batch to the last file."""

    def __init__(
        self, site: Site, resolved: Resolved, report: Report, on_nan: OnNan, group: Group
    ):
        self._site, self._resolved, self._report = site, resolved, report
        self._on_nan: OnNan = on_nan
        self._group = group
        self.halt: Callable[[], int] = lambda: 0
        self._began = self._last = time.perf_counter()
        self._written = self._code = 0
        self._passed = 0.0
        self._leased: set[int] = set()

    def work(self, program: Program, left: list[int], steal: bool) -> None:
        """Draws the shards that are left, and then those of workers that died."""
        total = self._site.many(self._site.own)
        self._report.begin(total, total - self._site.many(left))
        self._began = self._last = time.perf_counter()
        try:
            self._draw(program, self._free(left))
            while steal and not self._stopped() and (rest := self._site.unmade()):
                self._draw(program, self._taken(rest))
                time.sleep(0 if self._stopped() else locks.BEAT / 5)
        finally:
            self._passed = time.perf_counter() - self._began
            self._report.end()

    def outcome(self) -> Outcome:
        """What has come of it."""
        return Outcome(self._written, self._passed, len(self._site.unmade()), self._code)

    def _stopped(self) -> bool:
        """Whether this process, or one that it works with, is asked to stop."""
        self._code = self._group.most(self.halt())
        return self._code > 0

    def _draw(self, program: Program, some: Iterator[int]) -> None:
        with Writer(self._write) as writer:
            draw(
                self._resolved,
                program,
                some,
                self._site.layout,
                writer.submit,
                on_nan=self._on_nan,
                stopped=self._stopped,
                on_batch=self._report.drawn,
                on_host=self._group.on_host,
            )

    def _free(self, left: list[int]) -> Iterator[int]:
        """Shards of this worker, but for those that others have taken meanwhile."""
        for shard in left:
            if shard not in locks.leased(self._site.store):
                yield shard

    def _taken(self, rest: list[int]) -> Iterator[int]:
        """Shards of dead workers that this one could take."""
        site = self._site
        at_work = locks.living(site.store).keys() - {str(site.place.index)}
        for shard in rest:
            owner = str(shard % site.place.count)
            if owner not in at_work and locks.lease(site.store, shard, site.owner):
                self._leased.add(shard)
                yield shard

    def _write(self, drawn: Drawn) -> None:
        """Stores a shard, and then its row."""
        if not self._group.leads:
            return
        site, began = self._site, time.perf_counter()
        content = encode(drawn.pictures, site.layout.format)
        name = site.layout.name(drawn.shard)
        site.store.put(name, content)
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        count = len(drawn.pictures.ids)
        metrics = {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(seconds, 3),
            "pictures_per_second": round(count / max(seconds, 1e-9), 3),
            "writing_seconds": round(now - began, 3),
            "worker": site.place.index,
            "num_workers": site.place.count,
            "host": site.owner.host,
            "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "jax": jax.__version__,
        }
        row = Row(
            site.job,
            drawn.shard,
            int(site.layout.ids(drawn.shard)[0]),
            count,
            len(content),
            hashlib.sha256(content).hexdigest(),
            drawn.skipped,
            metrics,
        )
        site.store.append(f"{manifest.FOLDER}/{site.place.index}.jsonl", row.line())
        if drawn.shard in self._leased:
            locks.end_lease(site.store, drawn.shard)
        self._written += count
        if drawn.skipped:
            self._report.say(
                "skipped",
                f"{name}: pictures {', '.join(map(str, drawn.skipped[:8]))} are NaN or infinite "
                "and left out",
                ids=drawn.skipped,
            )
        self._report.say("shard", f"{name} is written", **dataclasses.asdict(row))


def _mesh(split: int, group: Group) -> Mesh | None:
    return placement.mesh(model=split) if split > 1 or group.count > 1 else None
