"""Many pictures, by processes that may die at any moment; and what has become of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from skipjax import jobs
from skipjax.cli.options import Weights
from skipjax.jobs import Job

FAULTY = 1  # exit code of a job that something is wrong with


@dataclass(frozen=True)
class Asked(Job, Weights):
    """A job whose classes may be given as --label, too, as other commands take one."""

    labels: Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--label",))] = Job.labels


@dataclass
class Generate:
    """Draw many pictures into a folder. Started again with the same line, it goes on where it was,
    however it ended; several at once share the work."""

    job: Annotated[Asked, tyro.conf.arg(name="")]
    out: str
    """Folder of the job, or a URL such as gs://bucket/run."""
    worker: int | None = None
    """Which of the workers this process is, from 0 on. Default: what Slurm or a Kubernetes Indexed
    Job says, or the only one."""
    num_workers: int | None = None
    """How many processes share the job."""
    steal: bool = False
    """Take shards of workers that are dead or slow, too, and stay until the job is done."""
    batch: int | None = None
    """Pictures at a time. Default: 16 for each device."""
    split: int = 1
    """Devices that each copy of the weights is split over."""
    on_nan: Literal["stop", "skip"] = "stop"
    """At a picture that is NaN or infinite: stop, or leave it out and record its id."""
    compiled_at: str | None = None
    """Folder, or URL such as gs://bucket/compiled, where compiled programs are kept: the first
    worker compiles, and those that read it start at once. Default: among the user's caches, or
    JAX_COMPILATION_CACHE_DIR."""
    distributed: bool = False
    """Compute on the devices of all hosts as one, where a model is split over them or a TPU slice
    demands it; jax.distributed finds the others by itself on most clusters."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where jax.distributed does not know."""
    process: int | None = None
    """Which process this is, likewise."""
    num_processes: int | None = None
    """How many there are, likewise."""
    json: bool = False
    """Say what happens in lines of JSON on stdout, for machines."""
    dry_run: bool = False
    """Say what there is to do and what it would take, and write nothing."""

    def __call__(self) -> int:
        """Draws, and says what came of it."""
        if self.distributed:
            jobs.distribute(self.coordinator, self.process, self.num_processes)
        if self.compiled_at is not None:
            jobs.keep_compiled(self.compiled_at)
        report = jobs.Lines() if self.json else jobs.Bar()
        where: dict[str, Any] = {"worker": self.worker, "num_workers": self.num_workers}
        where |= {"batch": self.batch, "split": self.split}
        if self.dry_run:
            found = jobs.estimate(self.job, self.out, **where, report=report)
            if self.json:
                report.say("estimate", str(found), **found._asdict())
            else:
                print(found)
            return 0
        where |= {"steal": self.steal, "on_nan": self.on_nan}
        with jobs.Stop() as stop:
            done = jobs.run(self.job, self.out, **where, report=report, stop=stop)
        report.say("done", f"{self.out}: {done}", **done._asdict())
        return done.code


@dataclass
class Verify:
    """Read every byte of a job, and say what is wrong with it."""

    job: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder or URL of the job."""

    def __call__(self) -> int:
        """Prints what is wrong, if anything; exit code 1 if it is."""
        found = jobs.verify(self.job)
        for line in (*found.faults, *(f"note: {note}" for note in found.notes)):
            print(line)
        print(f"{self.job}: {found}")
        return FAULTY if found.faults else 0


@dataclass
class Export:
    """Put the pictures of a finished job together for others to read."""

    job: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder or URL of the job."""
    format: Literal["npz", "png"] = "npz"
    """One .npz as ADM's evaluator reads it (arr_0, arr_1), or a folder of PNGs named by id."""
    out: Path | None = None
    """What to write. Default: samples_NxHxWxC.npz or png in the job's folder."""
    flat: bool = False
    """Put all PNGs into one folder, as tools that compute FID expect, and not a thousand into
    each."""

    def __call__(self) -> None:
        """Exports, and says what to where."""
        with tqdm(unit="picture", delay=1) as bar:
            done = jobs.export(
                self.job, self.format, self.out, flat=self.flat, on_shard=bar.update
            )
        print(f"{done.pictures:,} pictures. Saved: {done.path}")
