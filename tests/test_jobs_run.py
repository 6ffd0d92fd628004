"""A worker from start to end: what it draws, keeps, mends and refuses."""

import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import time
import uuid

import jax
import numpy as np
import pytest
import tiny

import skipjax
from skipjax import jobs
from skipjax.jobs import Job, locks, storage
from skipjax.jobs import group as groups
from skipjax.jobs import program as programs
from skipjax.jobs.locks import Owner

ONE = jax.local_devices()[:1]
NUM, SIZE = 40, 16
SHARDS = ["000000.npz", "000001.npz", "000002.npz"]


class Told:
    """A report that keeps what it is told."""

    def __init__(self):
        self.events, self.lines, self.pictures = [], [], 0

    def say(self, event, text, **facts):
        self.events.append((event, facts))
        self.lines.append(text)

    def begin(self, total, done):
        self.total, self.done = total, done

    def drawn(self, num):
        self.pictures += num

    def end(self):
        pass

    def __contains__(self, text):
        return any(text in line for line in self.lines)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny.save(tmp_path_factory.mktemp("jobs") / "tiny"))


@pytest.fixture(scope="module")
def job(checkpoint):
    return Job(checkpoint, num=NUM, seed=3, skip=250, shard_size=SIZE)


@pytest.fixture(scope="module")
def finished(job, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    run(job, out)
    return out


@pytest.fixture
def out(finished, tmp_path):
    """A finished job, to be damaged."""
    return shutil.copytree(finished, tmp_path / "run")


def run(job, out, **options):
    """What a run has done, and what it said."""
    told = Told()
    options = {"devices": ONE, "batch": 8} | options
    return jobs.run(job, out, report=told, **options), told


def files(out):
    return {path.name: path.read_bytes() for path in (out / "shards").glob("*")}


def test_pictures_are_those_of_sample(job, finished):
    params = skipjax.load(job.checkpoint)
    images = skipjax.sample(params, jax.random.key(3), skip=250, num=NUM, devices=ONE)
    shards = [np.load(finished / "shards" / name) for name in SHARDS]
    ids, ours, labels = (
        np.concatenate([shard[name] for shard in shards]) for name in ("ids", "images", "labels")
    )
    np.testing.assert_array_equal(ids, np.arange(NUM))
    np.testing.assert_array_equal(ours, skipjax.to_uint8(images))
    one = skipjax.sample(params, jax.random.key(3), skip=250, ids=[7], label=int(labels[7]))
    np.testing.assert_array_equal(skipjax.to_uint8(one)[0], ours[7])


def test_a_finished_job_is_left_as_it_is(job, finished, monkeypatch):
    monkeypatch.setattr(programs, "Compiled", None)  # nothing is compiled
    before = files(finished)
    outcome, told = run(job, finished)
    assert outcome == (0, 0, 0, 0) and str(outcome) == "nothing to draw; the job is finished"
    assert "worker 0 of 1, 40 of 40 pictures are there already" in told
    assert files(finished) == before and os.listdir(finished / "workers") == []


def test_what_happened_is_told_and_kept(job, tmp_path):
    outcome, told = run(job, tmp_path / "run")
    assert outcome.pictures == told.pictures == told.total == NUM and told.done == 0
    assert outcome.missing == outcome.code == 0 and outcome.seconds > 0
    assert [event for event, _ in told.events] == ["start", "compiled", *["shard"] * 3]
    rows = list(map(json.loads, (tmp_path / "run/manifest/0.jsonl").read_text().splitlines()))
    assert [facts for event, facts in told.events if event == "shard"] == rows
    assert [(row["shard"], row["start"], row["count"]) for row in rows] == [
        (0, 0, 16), (1, 16, 16), (2, 32, 8),
    ]  # fmt: skip
    assert rows[0]["metrics"]["pictures_per_second"] > 0
    record = json.loads((tmp_path / "run/job.json").read_text())
    assert record["job"] == rows[0]["job"] and record["asked"]["skip"] == 250
    assert skipjax.plans.Plan.from_json(json.dumps(record["identity"]["plan"])).nfe == 4


@pytest.mark.parametrize("batch", [4, 7, 64])
def test_batches_change_no_byte(job, finished, tmp_path, batch):
    run(job, tmp_path / "run", batch=batch)
    assert files(tmp_path / "run") == files(finished)


def test_eight_devices_change_no_byte(job, finished, tmp_path):
    _, told = run(job, tmp_path / "run", batch=33, devices=None)
    assert "40 pictures at a time" in told  # eight devices do not divide 33
    assert files(tmp_path / "run") == files(finished)


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


def test_a_worker_steals_from_the_dead_and_not_from_the_living(job, finished, tmp_path):
    store = storage.store(tmp_path / "run")
    with locks.Lock(store, "2", Owner.here(3), lambda: None):
        # Worker 2 lives, and has nothing to do but shard 2: the thief waits until it is dead.
        thief = Told()
        alive = []

        def release(event, text, **facts):
            if event == "shard" and facts["shard"] == 1:
                alive.append(sorted(files(tmp_path / "run")))
                store.remove("workers/2.json")

        thief.say = release
        outcome = jobs.run(
            job, tmp_path / "run", worker=0, num_workers=3, steal=True, batch=8, devices=ONE,
            report=thief,
        )  # fmt: skip
    assert alive == [SHARDS[:2]]
    assert outcome.pictures == NUM and outcome.missing == 0
    assert files(tmp_path / "run") == files(finished)
    assert not os.listdir(tmp_path / "run/leases")


def damage(out, kind):
    shard, manifest = out / "shards" / SHARDS[1], out / "manifest" / "0.jsonl"
    content = bytearray(shard.read_bytes())
    match kind:
        case "truncated":
            shard.write_bytes(content[:100])
        case "a flipped bit":
            content[len(content) // 2] ^= 4
            shard.write_bytes(content)
        case "deleted":
            shard.unlink()
        case "another shard in its place":
            shard.write_bytes((out / "shards" / SHARDS[0]).read_bytes())
        case "a manifest cut in the middle of a line":
            manifest.write_bytes(manifest.read_bytes()[:-30])
        case "no manifest":
            manifest.unlink()
        case "half-written files":
            for folder in ("shards", "manifest", ".", "workers"):
                (out / folder / ".000001.npz.token.tmp").write_bytes(b"half")
        case "a lock of one that died":
            owner = Owner.here(1)
            text = json.dumps(vars(owner) | {"born": "before"})
            (out / "workers" / "0.json").write_text(text)
        case "a lease of one that died":
            text = json.dumps(vars(Owner.here(1)) | {"born": "before"})
            (out / "leases").mkdir(exist_ok=True)
            (out / "leases" / "000001.json").write_text(text)
            shard.unlink()
        case "a foreign file":
            (out / "shards" / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    ("kind", "made", "said"),
    [
        ("truncated", 16, "shards/000001.npz has 100 bytes instead of 4,"),
        ("a flipped bit", 16, "shards/000001.npz is not what was written"),
        ("deleted", 16, "shards/000001.npz is missing: made again"),
        ("another shard in its place", 16, "is not what was written: its sha256 is another: made"),
        ("a manifest cut in the middle of a line", 8, "manifest/0.jsonl: lines that are cut"),
        ("no manifest", 40, "shards/000000.npz is not in the manifest: made again"),
        ("half-written files", 0, "4 half-written files removed"),
        ("a lock of one that died", 0, "40 of 40 pictures are there already"),
        ("a lease of one that died", 16, "shards/000001.npz is missing: made again"),
        ("a foreign file", 0, "shards/notes.txt is no file of this job: left alone"),
    ],
)
def test_damage_is_told_in_a_line_and_mended(job, out, finished, kind, made, said):
    damage(out, kind)
    foreign = {"notes.txt": b"mine"} if kind == "a foreign file" else {}
    outcome, told = run(job, out)
    assert outcome.pictures == made and outcome.missing == 0
    assert sum(said in line for line in told.lines) == 1, told.lines
    assert files(out) == files(finished) | foreign
    assert not list(out.rglob("*.tmp")) and not jobs.verify(out).faults
    assert not list(out.glob("leases/*"))
    outcome, told = run(job, out)
    assert outcome.pictures == 0 and len(told.lines) == 1 + bool(foreign)


def test_many_faults_are_counted_and_not_all_listed(job, tmp_path):
    single = Job(job.checkpoint, num=NUM, seed=3, skip=250, shard_size=1)
    run(single, tmp_path / "run")
    (tmp_path / "run/manifest/0.jsonl").unlink()
    _, told = run(single, tmp_path / "run")
    assert "and 30 more are made again" in told
    assert sum("is not in the manifest" in line for line in told.lines) == 10


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num": 41}, "num is 40 there and 41 here"),
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"shard_size": 8}, "shard_size is 16 there and 8 here"),
        ({"format": "tar"}, "format is npz there and tar here"),
        ({"dtype": "bfloat16"}, "dtype is float32 there and bfloat16 here"),
        ({"threshold": 0.9}, "threshold is None there and 0.9 here"),
        ({"labels": "balanced"}, "labels is uniform there and balanced here"),
        ({"labels": ("cat", "2")}, r"labels is uniform there and \[0, 2\] here"),
        ({"skip": 200}, r"plan is Plan\(skipped, 4 NFE.* there and Plan\(skipped, 5 NFE"),
        ({"cutoff": 500}, r"plan is Plan\(skipped, 4 NFE.*noise in 3 rows\) there and Plan"),
        ({"skip": 250, "plan": "ddim"}, r"plan is Plan.* there and Plan\(ddim, 4 NFE"),
        ({"num": 41, "seed": 4}, "num is 40 there and 41 here; seed is 3 there and 4 here"),
    ],
)
def test_another_job_is_refused_with_what_differs(job, out, finished, changes, said):
    other = Job(**vars(job) | changes)
    with pytest.raises(ValueError, match=f"run holds another job: {said}.*take another folder"):
        run(other, out)
    assert files(out) == files(finished) and not os.listdir(out / "workers")


def test_other_weights_are_refused(job, out, tmp_path):
    params = tiny.pretrained()
    changed = jax.tree.map(lambda leaf: leaf * np.float32(1.5), params.params)
    skipjax.weights.folders.save(tmp_path / "other", changed, tiny.card(params), np.float16)
    with pytest.raises(ValueError, match="checkpoint is .*'sha256': .* there and "):
        run(Job(**vars(job) | {"checkpoint": str(tmp_path / "other")}), out)


def test_the_same_weights_and_plan_may_have_another_name(job, out, tmp_path):
    copy = shutil.copytree(job.checkpoint, tmp_path / "copy")
    plan = skipjax.plans.skipped(skipjax.load(job.checkpoint).schedule, 250)
    (tmp_path / "plan.json").write_text(plan.to_json())
    same = Job(str(copy), NUM and None, NUM, 3, plan=str(tmp_path / "plan.json"), shard_size=SIZE)
    assert run(same, out)[0].pictures == 0
    assert run(dataclasses.replace(same, plan=plan.to_json()), out)[0].pictures == 0


def test_a_plan_that_differs_by_rounding_is_the_same_and_that_of_the_folder_is_used(job, out):
    record = json.loads((out / "job.json").read_text())
    keep = record["identity"]["plan"]["keep"]
    keep[1] = float(np.nextafter(keep[1], 2))
    (out / "job.json").write_text(json.dumps(record))
    resolved = jobs.job.resolve(job)
    agreed, name = jobs.record.agree(storage.store(out), resolved)
    assert name == record["job"] and agreed.plan.keep.tolist() == keep
    assert resolved.plan.keep.tolist() != keep
    keep[1] *= 1.001
    (out / "job.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="plan is one there and another with other coefficients"):
        run(job, out)


def test_folders_that_hold_something_else_are_refused(job, tmp_path):
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(ValueError, match="holds photo.jpg and no job.json"):
        run(job, tmp_path)
    for text, said in (
        ("{", "is no JSON"),
        ("[]", "is no record"),
        ('{"kind": 1}', "is no record"),
    ):
        (tmp_path / "job.json").write_text(text)
        with pytest.raises(ValueError, match=f"job.json {said}"):
            run(job, tmp_path)
    (tmp_path / "job.json").write_text('{"kind": "skipjax job", "version": 9}')
    with pytest.raises(ValueError, match="version 9, and 1 is read here"):
        run(job, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["job.json", "photo.jpg"]


def test_two_at_once_are_refused(job, tmp_path):
    out = tmp_path / "run"
    with locks.Lock(storage.store(out), "0", Owner.here(1), lambda: None):
        with pytest.raises(ValueError, match=r"0 is at work already \(process \d+ on .*last seen"):
            run(job, out)
        with pytest.raises(ValueError, match="a worker of 1 is at work .* and this is one of 2"):
            run(job, out, worker=1, num_workers=2)
    assert not files(out)


def test_a_lock_that_is_taken_away_ends_the_run(job, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.01)
    out = tmp_path / "run"

    class Thief(Told):
        def drawn(self, num):
            super().drawn(num)
            theirs = vars(Owner.here(1)) | {"space": "elsewhere"}
            storage.store(out).put("workers/0.json", json.dumps(theirs).encode())
            time.sleep(0.1)

    with pytest.raises(jobs.Lost, match="another process took the place of worker 0 of 1"):
        jobs.run(job, out, batch=8, devices=ONE, report=Thief())
    assert files(out).items() <= files(finished).items()


def poisoned(monkeypatch, bad):
    """Makes some pictures NaN or infinite."""
    draw = programs.Program.__call__

    def call(self, ids):
        rows = np.flatnonzero(np.isin(ids, bad))
        return draw(self, ids).at[rows].set(np.resize([np.nan, np.inf], 1)[0])

    monkeypatch.setattr(programs.Program, "__call__", call)


def test_a_picture_that_is_not_finite_stops_the_job(job, finished, tmp_path, monkeypatch):
    poisoned(monkeypatch, [21, 35])
    with pytest.raises(FloatingPointError, match="pictures 21 are NaN or infinite"):
        run(job, tmp_path / "run")
    assert files(tmp_path / "run") == {SHARDS[0]: files(finished)[SHARDS[0]]}
    monkeypatch.undo()
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


def test_a_shard_of_which_nothing_is_finite_is_empty(job, tmp_path, monkeypatch):
    poisoned(monkeypatch, range(16))
    for format in ("npz", "tar"):
        out = tmp_path / format
        run(Job(**vars(job) | {"format": format}), out, on_nan="skip")
        assert not jobs.verify(out).faults
        assert jobs.export(out).pictures == NUM - 16


def short_of_memory(monkeypatch, most, where):
    """A device that has memory for at most so many pictures."""
    attribute = {"running": "__call__", "compiling": "_compile"}[where]
    works = getattr(programs.Program, attribute)

    def call(self, *arguments):
        if self.batch > most:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
        return works(self, *arguments)

    monkeypatch.setattr(programs.Program, attribute, call)


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


def test_memory_that_is_short_when_a_batch_is_fetched(job, finished, tmp_path, monkeypatch):
    failed = []
    fetch = groups.Group.on_host

    def on_host(self, array):
        if len(failed) < 2:
            failed.append(len(array))
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return fetch(self, array)

    monkeypatch.setattr(groups.Group, "on_host", on_host)
    run(job, tmp_path / "run", batch=16)
    assert failed == [16, 8] and files(tmp_path / "run") == files(finished)


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


def test_a_disk_that_fills_and_is_enlarged(job, checkpoint, finished, small_disk, tmp_path):
    many = Job(checkpoint, num=400, seed=3, skip=250, shard_size=SIZE)
    with pytest.raises(OSError, match="No space left on device"):
        run(many, small_disk / "run")
    kept = files(small_disk / "run")
    assert 1 < len(kept) < 25 and kept.items() >= {SHARDS[0]: files(finished)[SHARDS[0]]}.items()
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    outcome, _ = run(many, small_disk / "run")
    assert outcome.missing == 0 and not jobs.verify(small_disk / "run").faults
    assert files(small_disk / "run").items() >= kept.items()


def test_a_read_only_folder_is_told(job, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError, match="Read-only file system: .*run"):
        run(job, small_disk / "run")


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
