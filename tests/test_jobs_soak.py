"""Jobs whose processes are killed at random moments end in the very files of one that ran through.

The network is tiny; kill -9 falls into starting, loading, compiling, drawing and writing.
"""

import time

import jax
import numpy as np
import pytest
import tiny
from processes import Process

from skipjax import jobs
from skipjax.jobs import Job, Report

NUM, SIZE, KILLS = 1000, 10, 50
SHARDS = NUM // SIZE
STARTING = 1.2  # seconds that a process takes to its first shard, about
# Devices and batches: where each device has 4 pictures or more, sums are taken in one order.
WAYS = [(1, 8), (1, 16), (1, 40), (8, 64)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("soak") / "tiny", num_res_blocks=0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def job(checkpoint):
    return Job(str(checkpoint), None, NUM, 7, ("balanced",), skip=250, shard_size=SIZE)


@pytest.fixture(scope="module")
def whole(job, tmp_path_factory):
    """The files of a job that ran through, on one device in batches of 16."""
    out = tmp_path_factory.mktemp("through") / "run"
    jobs.run(job, out, batch=16, devices=jax.local_devices()[:1], report=Report())
    return files(out)


def files(out):
    return {path.name: path.read_bytes() for path in (out / "shards").glob("*.npz")}


def made(out):
    return len(files(out)) if (out / "shards").is_dir() else 0


def start(job, out, cache, *, devices=1, batch=16, worker=0, of=1):
    line = ["generate", "--checkpoint", job.checkpoint, "--num", job.num, "--seed", job.seed]
    line += ["--labels", *job.labels, "--skip", job.skip, "--shard-size", job.shard_size]
    line += ["--out", out, "--batch", batch]
    line += ["--worker", worker, "--num-workers", of]
    log = out.parent / f"{out.name}-{worker}.log"
    return Process(line, log, devices=devices, cache=cache)


def random_moment(rng, process, out):
    """Waits until a random moment: of starting, or after some more shards."""
    before, some = made(out), rng.integers(1, 3) if rng.random() < 0.7 else 0
    while some and process.alive and made(out) < before + some:
        time.sleep(0.01)
    begun, wait = time.monotonic(), rng.uniform(0, 0.15 if some else STARTING)
    while process.alive and time.monotonic() < begun + wait:
        if not some and made(out) > before:
            break
        time.sleep(0.01)


def keep_unfinished(rng, out):
    """Deletes shards where most are made, so that there is something to be killed at: a fast
    machine makes all of them before it is killed, which then counts for nothing.
    """
    paths = sorted((out / "shards").glob("*.npz"))
    if len(paths) > SHARDS * 3 // 4:
        for path in rng.choice(np.array(paths), SHARDS // 2, replace=False):
            path.unlink(missing_ok=True)


def check(out, whole):
    assert files(out) == whole
    found = jobs.verify(out)
    assert not found.faults and not found.notes
    ids = [np.load(path)["ids"] for path in sorted((out / "shards").glob("*.npz"))]
    np.testing.assert_array_equal(np.concatenate(ids), np.arange(NUM))


@pytest.mark.slow
def test_a_job_that_is_killed_fifty_times(job, whole, cache, tmp_path):
    rng, out, kills = np.random.default_rng(0), tmp_path / "run", 0
    while kills < KILLS:
        devices, batch = WAYS[rng.integers(len(WAYS))]
        process = start(job, out, cache, devices=devices, batch=batch)
        random_moment(rng, process, out)
        alive = process.alive
        assert alive or process.wait(0) == 0, process.said
        process.kill()
        kills += alive
        keep_unfinished(rng, out)
    assert 0 < made(out) < SHARDS
    process = start(job, out, cache)
    assert process.wait(240) == 0, process.said
    assert "the job is finished" in process.said
    check(out, whole)


@pytest.mark.slow
def test_three_workers_that_are_killed_one_by_one(job, whole, cache, tmp_path):
    rng, out, kills = np.random.default_rng(1), tmp_path / "run", 0
    crew: dict[int, Process] = {}
    while kills < KILLS:
        for i in range(3):
            if i not in crew or not crew[i].alive:
                _, batch = WAYS[rng.integers(3)]
                crew[i] = start(job, out, cache, batch=batch, worker=i, of=3)
        victim = crew[int(rng.integers(3))]
        if rng.random() < 0.5:
            random_moment(rng, victim, out)
        else:
            time.sleep(rng.uniform(0, 0.6))
        kills += victim.alive
        victim.kill()
        keep_unfinished(rng, out)
    for process in crew.values():
        process.kill()
    assert made(out) > 0
    last = [start(job, out, cache, worker=i, of=3) for i in range(3)]
    assert [process.wait(240) for process in last] == [0, 0, 0], last[0].said
    check(out, whole)
