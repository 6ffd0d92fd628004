"""A worker that dies between any two operations on files leaves a job that goes on.

Death is a fault in an operation of the file system, after which none works any more, clearing up
included: so does kill -9, whatever the moment.
"""

import builtins
import dataclasses
import itertools
import os
import uuid
from importlib import import_module

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from small_jobs import ONE, Told

from skipjax import jobs
from skipjax.jobs import storage
from skipjax.jobs.job import resolve

running = import_module("skipjax.jobs.run")
ON_FILES = ("makedirs", "fsync", "replace", "link", "remove")
ON_OBJECTS = ("_open", "rm_file", "pipe_file")


class Killed(BaseException):
    """The process is dead."""


class Life:
    """Ends before the operation of a number."""

    def __init__(self, patch, end=10**9):
        self.done, self._end = 0, end
        for name in ON_FILES:
            patch.setattr(storage.os, name, self.mortal(getattr(os, name)))
        patch.setattr(storage, "open", self.mortal(builtins.open), raising=False)
        for name in ON_OBJECTS:
            patch.setattr(MemoryFileSystem, name, self.mortal(getattr(MemoryFileSystem, name)))

    def mortal(self, operation):
        def call(*arguments, **options):
            if self.done >= self._end:
                raise Killed
            self.done += 1
            return operation(*arguments, **options)

        return call


class Drawing:
    """A program that draws at once what follows from an id."""

    memory, batch = None, 8

    def __init__(self, *_):
        pass

    def __call__(self, ids):
        pixels = np.random.default_rng(int(ids[0])).uniform(-1, 1, (8, 8, 8, 3))
        return pixels.astype(np.float32)


@pytest.fixture
def quick(job, monkeypatch):
    resolved = resolve(dataclasses.replace(job, labels=("cat",)))  # no need to ask the device
    monkeypatch.setattr(running, "resolve", lambda *_: resolved)
    monkeypatch.setattr(running, "Program", Drawing)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no machine loses power here


def draw(job, out, worker=0, of=1, **options):
    told = Told()
    where = {"worker": worker, "num_workers": of, "devices": ONE}
    return jobs.run(job, out, report=told, **where, **options), told


def shards(out):
    store = storage.store(out)
    names = {name for name in store.names("shards") if name.endswith(".npz")}
    return {name: storage.read(store, f"shards/{name}") for name in names}


@pytest.mark.parametrize("kind", ["folder", "object store"])
def test_death_anywhere_leaves_whole_shards_or_none(job, quick, tmp_path, monkeypatch, kind):
    def fresh():
        at = uuid.uuid4().hex
        return tmp_path / at if kind == "folder" else f"memory://{at}/run"

    draw(job, through := fresh())
    whole, deaths = shards(through), 0
    for end in itertools.count():
        out = fresh()
        with monkeypatch.context() as patch:
            life = Life(patch, end)
            try:
                draw(job, out)
            except Killed:
                deaths += 1
            if life.done < end:
                break  # it lived
        there = shards(out)
        assert whole.items() >= there.items()
        if "job.json" in storage.store(out).names():
            faults = jobs.verify(out).faults
            assert len(faults) == 3 - len(there)
            assert all(f.endswith(("is missing", "is not made yet")) for f in faults), faults
        outcome, told = draw(job, out)
        kept = next(facts["done"] for event, facts in told.events if event == "start")
        assert outcome.pictures == 40 - kept and kept > 16 * (len(there) - 1) - 8
        assert shards(out) == whole and not jobs.verify(out).faults
        assert storage.store(out).names("claims") == set() and not list(tmp_path.rglob("*.tmp"))
    assert deaths > (40 if kind == "folder" else 10)


@pytest.mark.slow
def test_a_living_worker_ends_what_one_that_died_anywhere_began(job, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "POLL", 0.0)
    draw(job, tmp_path / "whole")
    for end in range(0, 60, 7):
        out = tmp_path / f"{end}"
        with monkeypatch.context() as patch:
            Life(patch, end)
            try:
                draw(job, out, 1, 2)
            except Killed:
                pass
        with monkeypatch.context() as patch:
            patch.setattr(jobs.claims, "FIRST", 0.0)  # and what the dead had promised
            for name in storage.store(out).names("claims"):
                text = storage.read(storage.store(out), f"claims/{name}")
                storage.store(out).put(f"claims/{name}", text.replace(b"300.0", b"0.0"))
            outcome, _ = draw(job, out, 0, 2, steal=True)
        assert outcome.missing == 0 and shards(out) == shards(tmp_path / "whole")
