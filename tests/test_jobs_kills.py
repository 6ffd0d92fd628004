"""Processes at work on a job, that are killed or told to stop."""

import hashlib
import json
import os
import signal
import threading
import time

import compiling
import jax
import pytest
import tiny
from processes import Process
from small_jobs import files, run, sidecars

from skipjax import cli, jobs
from skipjax.jobs import Job, signals

LONG = ["--num", "100000", "--skip", "50", "--shard-size", "8", "--batch", "4"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny.save(tmp_path_factory.mktemp("jobs") / "tiny"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


def until(condition, process, timeout=60):
    """Waits for something that a process that is alive does."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.alive and time.monotonic() < deadline, process.said
        time.sleep(0.01)


def made(out):
    """How many shards there are."""
    return len(list(out.glob("shards/*.npz")))


def makers(out):
    """Who made each shard that is told of."""
    return [row["metrics"]["worker"] for row in sidecars(out)]


def by_worker_1(shard):
    """Whether a shard that is there, and not its sidecar alone, is of worker 1."""
    told = json.loads(shard.with_suffix(".json").read_text())
    return told["metrics"]["worker"].startswith("worker 1")


def at_work(checkpoint, folder, cache, *options):
    """A process that has much to do, and has finished a shard."""
    line = ["generate", "--checkpoint", checkpoint, *LONG, "--out", folder / "run", *options]
    process = Process(line, folder / "log", cache=cache)
    until(lambda: made(folder / "run"), process)
    return process


def test_a_job_that_is_killed_goes_on_to_the_same_files(checkpoint, tmp_path, work, capsys):
    job, out = Job(checkpoint, num=320, skip=250, labels=("balanced",), shard_size=4), work / "run"
    line = ["generate", "--checkpoint", checkpoint, "--num", 320, "--skip", 250, "--batch", 64]
    line += ["--labels", "balanced", "--shard-size", 4, "--out", out]
    with compiling.in_a_hurry():
        kept = jax.config.jax_compilation_cache_dir
        process = Process(line, tmp_path / "log", devices=8, cache=kept, hurry=True)
        until(lambda: made(out) > 2, process)
        process.kill()
        before = {path.name: path.read_bytes() for path in out.glob("shards/*.npz")}
        assert 2 < len(before) < 80
        cli.main(list(map(str, line)))
        run(job, tmp_path / "whole", devices=None, batch=64)
    told = capsys.readouterr().err
    assert "; the job is finished" in told and ", 0 of 320 pictures are there" not in told
    assert files(out) == files(tmp_path / "whole") and files(out).items() >= before.items()
    assert not jobs.verify(out).faults


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"]
)
def test_a_signal_stops_a_job_in_good_order(checkpoint, cache, tmp_path, number, code):
    process = at_work(checkpoint, tmp_path, cache)
    began = time.monotonic()
    process.send(number)
    assert process.wait(10) == code and time.monotonic() - began < 10
    assert f"{number.name}: stopping, finished shards are kept" in process.said
    assert "; stopped; 12," in process.said and "Traceback" not in process.said
    assert not list((tmp_path / "run/claims").iterdir())
    assert not list(tmp_path.rglob("*.tmp"))
    faults = jobs.verify(tmp_path / "run").faults
    assert faults and all(fault.endswith("is not made yet") for fault in faults)


@pytest.mark.slow
def test_a_living_worker_finishes_what_a_killed_one_left(checkpoint, cache, tmp_path):
    line = ["generate", "--checkpoint", checkpoint, "--num", 400, "--skip", 50, "--batch", 4]
    line += ["--shard-size", 8, "--num-workers", 2, "--steal", "--out", tmp_path / "run"]
    crew = [Process([*line, "--worker", i], tmp_path / f"{i}", cache=cache) for i in range(2)]
    out = tmp_path / "run"
    until(lambda: any(map(by_worker_1, out.glob("shards/*.npz"))), crew[1])
    crew[1].kill()
    assert crew[0].wait(120) == 0 and "the job is finished" in crew[0].said
    assert not jobs.verify(out).faults and not list((out / "claims").iterdir())
    assert {*makers(out)[1::2]} == {"worker 0 of 2", "worker 1 of 2"}


@pytest.mark.slow
def test_a_second_signal_ends_a_job_at_once(checkpoint, cache, tmp_path):
    process = at_work(checkpoint, tmp_path, cache, "--batch", 256)
    process.send(signal.SIGTERM)
    until(lambda: "SIGTERM: stopping" in process.said, process)
    began = time.monotonic()
    process.send(signal.SIGTERM)
    assert process.wait(5) == 143 and time.monotonic() - began < 2


def test_a_job_that_cannot_stop_in_time_is_ended(tmp_path):
    """Such as one that compiles for minutes: the main thread hears of no signal."""
    process = Process.of(_deaf, tmp_path / "log")
    assert process.wait(10) == 143 and "SIGTERM: stopping" in process.said


def _deaf():
    signals.GRACE = 0.3
    with signals.Stop():
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)  # minutes in C


def test_what_is_not_known_of_other_processes_is_told(checkpoint, tmp_path):
    line = ["generate", "--checkpoint", checkpoint, "--out", tmp_path / "run", "--distributed"]
    process = Process(line, tmp_path / "log")
    assert process.wait(60) == 2
    assert "Give --coordinator, --process and --num-processes" in process.said
    assert "Traceback" not in process.said


def test_a_process_ends_bad_input_with_one_line(checkpoint, tmp_path):
    line = ["sample", "--checkpoint", checkpoint, "--skip", 0]
    process = Process(line, tmp_path / "log")
    assert process.wait() == 2
    assert process.said == "skipjax: skip is 0: it must be a whole number in 1 .. 1000\n"
