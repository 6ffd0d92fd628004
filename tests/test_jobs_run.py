"""A worker from start to end: what it draws, keeps and tells."""

import json
import os
import threading
import uuid
from contextlib import ExitStack
from importlib import import_module

import numpy as np
import pytest
from small_jobs import NUM, ONE, SHARDS, Told, files, run

import skipjax
from skipjax import jobs
from skipjax.jobs import locks, storage
from skipjax.jobs import program as programs
from skipjax.jobs.locks import Owner

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")


@pytest.fixture(scope="module")
def first(job, tmp_path_factory):
    """The folder of a job, what running it has done, and what was said."""
    out = tmp_path_factory.mktemp("finished") / "run"
    return out, *run(job, out)


@pytest.fixture(scope="module")
def finished(first):
    return first[0]


def test_what_happened_is_told_and_kept(first):
    out, outcome, told = first
    assert outcome.pictures == told.pictures == told.total == NUM and told.done == 0
    assert outcome.missing == outcome.code == 0 and outcome.seconds > 0
    assert [event for event, _ in told.events] == ["start", "compiled", *["shard"] * 3]
    rows = list(map(json.loads, (out / "manifest/0.jsonl").read_text().splitlines()))
    assert [facts for event, facts in told.events if event == "shard"] == rows
    assert [(row["shard"], row["start"], row["count"]) for row in rows] == [
        (0, 0, 16), (1, 16, 16), (2, 32, 8),
    ]  # fmt: skip
    assert rows[0]["metrics"]["pictures_per_second"] > 0
    record = json.loads((out / "job.json").read_text())
    assert record["job"] == rows[0]["job"] and record["asked"]["skip"] == 250
    assert skipjax.plans.Plan.from_json(json.dumps(record["identity"]["plan"])).nfe == 4


def test_a_finished_job_is_left_as_it_is(job, finished, monkeypatch):
    monkeypatch.setattr(programs, "Compiled", None)  # nothing is compiled
    before = files(finished)
    outcome, told = run(job, finished)
    assert outcome == (0, 0, 0, 0) and str(outcome) == "nothing to draw; the job is finished"
    assert "worker 0 of 1, 40 of 40 pictures are there already" in told
    assert files(finished) == before and os.listdir(finished / "workers") == []


@pytest.mark.parametrize("options", [{"batch": 1}, {"devices": None, "batch": 8, "split": 4}])
def test_other_orders_of_summing_change_hardly_a_picture(job, finished, tmp_path, options):
    run(job, tmp_path / "run", **options)
    for name in SHARDS:
        ours, theirs = (np.load(at / "shards" / name) for at in (tmp_path / "run", finished))
        apart = np.abs(ours["images"].astype(int) - theirs["images"])
        assert apart.max() <= 1 and np.mean(apart > 0) < 1e-3


def test_workers_share_a_job(job, finished, tmp_path):
    done = [run(job, tmp_path / "run", worker=i, num_workers=3) for i in (2, 0, 1)]
    assert [outcome.pictures for outcome, _ in done] == [8, 16, 16]
    assert [outcome.missing for outcome, _ in done] == [2, 1, 0]
    assert files(tmp_path / "run") == files(finished)
    assert not jobs.verify(tmp_path / "run").faults


def test_a_worker_steals_from_the_dead_and_not_from_the_living(
    job, finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(locks, "BEAT", 0.05)
    store, alive = storage.store(tmp_path / "run"), []
    with ExitStack() as life:
        # Worker 2 lives, and has nothing to do but shard 2: the thief waits until it is dead.
        life.enter_context(locks.Lock(store, "2", Owner.here(3), lambda: None))

        class Thief(Told):
            def say(self, event, text, **facts):
                if event == "shard" and facts["shard"] == 1:
                    alive.append(sorted(files(tmp_path / "run")))
                    life.close()

        outcome = jobs.run(
            job, tmp_path / "run", worker=0, num_workers=3, steal=True, batch=8, devices=ONE,
            report=Thief(),
        )  # fmt: skip
    assert alive == [SHARDS[:2]]
    assert outcome.pictures == NUM and outcome.missing == 0
    assert files(tmp_path / "run") == files(finished)
    assert not os.listdir(tmp_path / "run/leases")


def test_a_lock_that_is_taken_away_ends_the_run(job, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.01)
    out, lost = tmp_path / "run", threading.Event()

    class Lock(locks.Lock):
        def __init__(self, store, name, owner, on_lost):
            super().__init__(store, name, owner, lambda: (on_lost(), lost.set()))

    monkeypatch.setattr(import_module("skipjax.jobs.run"), "Lock", Lock)

    class Thief(Told):
        def drawn(self, num):
            super().drawn(num)
            theirs = vars(Owner.here(1)) | {"space": "elsewhere"}
            for _ in range(500):  # again, where a sign of life was written over it
                storage.store(out).put("workers/0.json", json.dumps(theirs).encode())
                if lost.wait(0.02):
                    return

    with pytest.raises(jobs.Lost, match="another process took the place of worker 0 of 1"):
        jobs.run(job, out, batch=8, devices=ONE, report=Thief())
    assert files(out).items() <= files(finished).items()


@pytest.mark.parametrize("kind", ["url", "file url"])
def test_a_job_may_be_kept_anywhere_that_fsspec_knows(job, finished, tmp_path, kind):
    out = f"memory://{uuid.uuid4().hex}/run" if kind == "url" else (tmp_path / "run").as_uri()
    assert run(job, out)[0].pictures == NUM
    store = storage.store(out)
    for name in SHARDS:
        ours = storage.read(store, f"shards/{name}")
        assert ours == (finished / "shards" / name).read_bytes()
    store.remove(f"shards/{SHARDS[1]}")
    store.append("manifest/0.jsonl", b'{"cut')
    outcome, told = run(job, out)
    assert outcome.pictures == 16 and "lines that are cut" in told
    assert not jobs.verify(out).faults
    done = jobs.export(out, out=tmp_path / "all.npz")
    assert done.pictures == NUM
    if kind == "url":
        with pytest.raises(ValueError, match="no local folder: say with out where to export to"):
            jobs.export(out)
