"""What a job does where pictures are not finite, memory is short, or the disk is full."""

import resource
import signal
import subprocess

import jax
import numpy as np
import pytest
from small_jobs import NUM, SHARDS, files, run

from skipjax import jobs
from skipjax.jobs import Job
from skipjax.jobs import group as groups
from skipjax.jobs import program as programs
from skipjax.jobs.compiled import Compiled

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")


def poisoned(monkeypatch, bad):
    """Makes some pictures NaN or infinite."""
    draw = programs.Program.__call__

    def call(self, ids):
        rows = np.flatnonzero(np.isin(ids, bad))
        drawn = np.array(draw(self, ids))
        drawn[rows] = np.resize([np.nan, np.inf], (len(rows), 1, 1, 1))
        return drawn

    monkeypatch.setattr(programs.Program, "__call__", call)


def test_a_picture_that_is_not_finite_stops_the_job(job, finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        poisoned(patch, [21, 35])
        with pytest.raises(FloatingPointError, match="samples 21 are NaN or infinite"):
            run(job, tmp_path / "run")
    assert files(tmp_path / "run") == {SHARDS[0]: files(finished)[SHARDS[0]]}
    run(job, tmp_path / "run")
    assert files(tmp_path / "run") == files(finished)


@pytest.mark.parametrize("format", ["npz", "tar"])
def test_a_picture_that_is_not_finite_is_left_out(job, tmp_path, monkeypatch, format):
    poisoned(monkeypatch, [16, 21, 39])
    out, job = tmp_path / "run", Job(**vars(job) | {"format": format})
    outcome, told = run(job, out, on_nan="skip")
    assert outcome.pictures == NUM - 3 and outcome.missing == 0
    assert "pictures 16, 21 are NaN or infinite and left out" in told
    found = jobs.verify(out)
    assert not found.faults and found.pictures == NUM - 3
    assert found.notes == ["3 pictures were left out, since they were NaN or infinite"]
    exported = jobs.export(out)
    assert exported.pictures == NUM - 3 and exported.path.name == "samples_37x8x8x3.npz"
    assert run(job, out)[0].pictures == 0  # what was left out is not tried again


@pytest.mark.parametrize("format", ["npz", "tar"])
def test_a_shard_of_which_nothing_is_finite_is_empty(job, tmp_path, monkeypatch, format):
    poisoned(monkeypatch, range(16))
    run(Job(**vars(job) | {"format": format}), tmp_path, on_nan="skip")
    assert not jobs.verify(tmp_path).faults
    assert jobs.export(tmp_path).pictures == NUM - 16


def short_of_memory(monkeypatch, most, where):
    """A device that has memory for at most so many pictures."""
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")

    class Short(Compiled):
        def __init__(self, sampler, key, like, *devices):
            self.size, self.memory = len(like.ids), None
            if self.size <= most:
                super().__init__(sampler, key, like, *devices)
            elif where == "compiling":
                raise error

        def __call__(self, batch):
            if self.size > most:
                raise error
            return super().__call__(batch)

    monkeypatch.setattr(programs, "Compiled", Short)


@pytest.mark.parametrize("where", ["running", "compiling"])
def test_a_batch_is_halved_where_memory_is_short(job, finished, tmp_path, monkeypatch, where):
    short_of_memory(monkeypatch, 4, where)
    outcome, told = run(job, tmp_path / "run", batch=16)
    assert outcome.pictures == NUM and files(tmp_path / "run") == files(finished)
    assert "no device memory for 16 pictures at a time: going on with 8" in told
    assert "no device memory for 8 pictures at a time: going on with 4" in told


def test_no_memory_for_one_picture_is_told(job, tmp_path, monkeypatch):
    short_of_memory(monkeypatch, 0, "running")
    with pytest.raises(ValueError, match="there is no device memory for even one picture"):
        run(job, tmp_path / "run", batch=2)


@pytest.mark.parametrize("batches", [[8], pytest.param([16, 8], marks=pytest.mark.slow)], ids=str)
def test_memory_that_is_short_when_a_batch_is_fetched(
    job, finished, tmp_path, monkeypatch, batches
):
    failed = []
    fetch = groups.Group.on_host

    def on_host(self, array):
        if len(failed) < len(batches):
            failed.append(len(array))
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return fetch(self, array)

    monkeypatch.setattr(groups.Group, "on_host", on_host)
    run(job, tmp_path / "run", batch=batches[0])
    assert failed == batches and files(tmp_path / "run") == files(finished)


def test_other_errors_of_the_device_are_not_hidden(job, tmp_path, monkeypatch):
    def call(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(programs.Program, "__call__", call)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        run(job, tmp_path / "run")


def test_a_full_disk_stops_the_job_and_nothing_is_half_there(job, finished, tmp_path):
    out, limit = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    size = len(files(finished)[SHARDS[2]])  # the last shard is the smallest
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run(job, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert not list(out.rglob("*.npz")) and not list(out.rglob("*.tmp"))
    run(job, out)
    assert files(out) == files(finished)


def test_a_disk_that_fills_and_is_enlarged(job, finished, small_disk):
    many = Job(**vars(job) | {"num": 400})
    with pytest.raises(OSError, match="No space left on device"):
        run(many, small_disk / "run")
    kept = files(small_disk / "run")
    assert 1 < len(kept) < 25 and kept.items() >= {SHARDS[0]: files(finished)[SHARDS[0]]}.items()
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    outcome, _ = run(many, small_disk / "run")
    assert outcome.missing == 0 and not jobs.verify(small_disk / "run").faults
    assert files(small_disk / "run").items() >= kept.items()
