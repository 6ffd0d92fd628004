"""A worker from start to end: what it draws, keeps and tells."""

import json
import uuid

import numpy as np
import pytest
from small_jobs import NUM, ONE, SHARDS, Told, files, run, sidecars

import skipjax
from skipjax import jobs
from skipjax.jobs import program as programs
from skipjax.jobs import storage
from skipjax.jobs.claims import Claims

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
    rows = sidecars(out)
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
    assert files(finished) == before and not list((finished / "claims").iterdir())


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


def test_a_worker_steals_what_nobody_claims(job, finished, tmp_path):
    """Shards of the dead and the slow; and of a living one that has claimed, when it lets go."""
    out, seen = tmp_path / "run", []
    with Claims(storage.store(out), 2) as slow:

        class Thief(Told):
            def begin(self, total, done):
                super().begin(total, done)
                assert slow.take(2)

            def say(self, event, text, **facts):
                if event == "shard":
                    seen.append(facts["shard"])
                    if facts["shard"] == 1:
                        slow.release(2)

        outcome = jobs.run(
            job, out, worker=0, num_workers=3, steal=True, batch=8, devices=ONE, report=Thief()
        )
    assert seen == [0, 1, 2] and outcome.missing == 0
    assert outcome.pictures == NUM and files(out) == files(finished)
    assert not list((out / "claims").iterdir()) and not jobs.verify(out).faults


def test_two_that_are_started_alike_do_no_harm(job, finished, tmp_path):
    """Each takes the other's claims for those of its own former life, and both draw all."""
    out = tmp_path / "run"

    class Twin(Told):
        def begin(self, total, done):
            super().begin(total, done)
            self.other, _ = run(job, out)

    outcome = jobs.run(job, out, batch=8, devices=ONE, report=(twin := Twin()))
    assert twin.other.pictures == NUM and outcome.missing == 0
    assert files(out) == files(finished) and not jobs.verify(out).faults


@pytest.mark.parametrize("kind", ["url", "file url"])
def test_a_job_may_be_kept_anywhere_that_fsspec_knows(job, finished, tmp_path, kind):
    out = f"memory://{uuid.uuid4().hex}/run" if kind == "url" else (tmp_path / "run").as_uri()
    assert run(job, out)[0].pictures == NUM
    store = storage.store(out)
    for name in SHARDS:
        ours = storage.read(store, f"shards/{name}")
        assert ours == (finished / "shards" / name).read_bytes()
    store.remove(f"shards/{SHARDS[1]}")
    store.put("shards/000002.json", b'{"cut')
    outcome, told = run(job, out)
    assert outcome.pictures == 24 and "000002.npz has no sidecar that can be read" in told
    assert not jobs.verify(out).faults
    done = jobs.export(out, out=tmp_path / "all.npz")
    assert done.pictures == NUM
    if kind == "url":
        with pytest.raises(ValueError, match="no local folder: say with out where to export to"):
            jobs.export(out)
