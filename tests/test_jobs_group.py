"""Two processes with four devices each, that work as one over a mesh of eight."""

import os
import signal
import socket
import time

import compiling
import jax
import pytest
import tiny
from processes import Process

from skipjax import jobs
from skipjax.jobs import Job, Report, record, storage
from skipjax.jobs.job import resolve

GONE = 75
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    checkpoint = str(tiny.save(tmp_path_factory.mktemp("group") / "tiny"))
    return Job(checkpoint, num=200, skip=100, shard_size=16)


@pytest.fixture(scope="module")
def alone(job, tmp_path_factory):
    """What one process with one device draws."""
    out = tmp_path_factory.mktemp("alone") / "run"
    with compiling.in_a_hurry():
        jobs.run(job, out, batch=16, devices=jax.local_devices()[:1], report=Report())
    return files(out)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


def files(out):
    return {path.name: path.read_bytes() for path in (out / "shards").glob("*.npz")}


def pair(job, out, cache, **changes):
    """Two processes of one job."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    asked = vars(job) | changes
    line = ["generate", "--checkpoint", asked["checkpoint"], "--num", asked["num"]]
    line += ["--skip", asked["skip"], "--shard-size", asked["shard_size"], "--out", out]
    line += ["--batch", 64, "--distributed", "--coordinator", f"localhost:{port}"]
    return [
        Process(
            [*line, "--process", i, "--num-processes", 2],
            out.parent / f"{i}.log",
            devices=4,
            cache=cache,
            hurry=True,
        )
        for i in range(2)
    ]


def at_work(processes, out):
    """Waits until a job of so many pictures that it takes minutes has some."""
    deadline = time.monotonic() + 90
    while len(files(out)) < 2:
        assert all(process.alive for process in processes), processes[0].said + processes[1].said
        assert time.monotonic() < deadline, processes[0].said
        time.sleep(0.05)


def test_two_draw_what_one_draws(job, alone, cache, tmp_path):
    processes = pair(job, tmp_path / "run", cache)
    assert [process.wait(90) for process in processes] == [0, 0], processes[1].said
    assert files(tmp_path / "run") == alone
    leader, other = (process.said for process in processes)
    assert "64 pictures at a time" in leader and "200 pictures in" in leader
    assert "nothing to draw; the job is finished" in other and "Traceback" not in other + leader
    assert not os.listdir(tmp_path / "run/claims") and not jobs.verify(tmp_path / "run").faults


@pytest.mark.parametrize("killed", [0, 1])
def test_where_one_is_killed_the_other_says_so_and_a_restart_goes_on(job, cache, tmp_path, killed):
    out = tmp_path / "run"
    processes = pair(job, out, cache, num=3000)
    at_work(processes, out)
    processes[killed].kill()
    began = time.monotonic()
    left = processes[1 - killed]
    assert left.wait(30) == GONE and time.monotonic() - began < 15
    last = left.said.strip().splitlines()[-1]
    assert last.startswith("skipjax: another process of the job is gone (")
    assert last.endswith("finished shards are kept, start the job again")
    kept = files(out)
    processes = pair(job, out, cache, num=3000)
    while len(files(out)) < len(kept) + 2 and processes[0].alive:
        time.sleep(0.05)
    assert "worker 0 of 1, 0 of" not in processes[0].said.splitlines()[-1]
    for process in processes:
        process.send(signal.SIGTERM)
    assert [process.wait(20) for process in processes] == [143, 143]
    assert files(out).items() >= kept.items() and len(files(out)) >= len(kept) + 2


def test_a_signal_to_one_stops_both_at_the_same_batch(job, cache, tmp_path):
    processes = pair(job, tmp_path / "run", cache, num=3000)
    at_work(processes, tmp_path / "run")
    processes[1].send(signal.SIGTERM)
    assert [process.wait(20) for process in processes] == [143, 143]
    assert "SIGTERM: stopping" in processes[1].said
    assert not os.listdir(tmp_path / "run/claims") and "F1" not in processes[0].said


def test_an_error_of_the_first_alone_ends_both(job, cache, tmp_path):
    """Such as a disk that is full: the other is not left waiting."""
    out = tmp_path / "run"
    record.agree(storage.store(out), resolve(job))
    (out / "claims").write_text("no folder")
    leader, other = pair(job, out, cache)
    assert leader.wait(60) == 2 and other.wait(30) == GONE, leader.said + other.said
    assert "Errno" in leader.said and "Traceback" not in leader.said + other.said
