"""`skipjax generate`, `verify` and `export`, as people and schedulers run them."""

import hashlib
import json
import os
import signal
import threading
import time

import numpy as np
import pytest
import tiny
from command import refused
from PIL import Image
from processes import Process

from skipjax import cli, jobs
from skipjax.jobs import signals

SMALL = ["--num", "20", "--skip", "250", "--shard-size", "8", "--batch", "4"]
LONG = ["--num", "100000", "--skip", "20", "--shard-size", "8", "--batch", "4"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny.save(tmp_path_factory.mktemp("jobs") / "tiny"))


def generate(checkpoint, *options):
    cli.main(["generate", "--checkpoint", checkpoint, *map(str, options)])


@pytest.fixture
def finished(work, checkpoint):
    generate(checkpoint, *SMALL, "--out", "run")
    return work / "run"


def test_a_job_is_drawn_verified_and_exported(work, checkpoint, capsys):
    generate(checkpoint, *SMALL, "--out", "run")
    finished, said = work / "run", capsys.readouterr()
    assert not said.out and "worker 0 of 1, 0 of 20 pictures are there already" in said.err
    assert "compiled in" in said.err and "NFE" in said.err and "20/20" in said.err
    assert said.err.strip().endswith("pictures/s; the job is finished")
    generate(checkpoint, *SMALL, "--out", "run")
    assert "run: nothing to draw; the job is finished" in capsys.readouterr().err
    cli.main(["verify", "run"])
    expected = "run: all is well: 20 pictures are there and whole, in 3 shards\n"
    assert capsys.readouterr().out == expected
    cli.main(["export", "run"])
    assert capsys.readouterr().out == "20 pictures. Saved: run/samples_20x8x8x3.npz\n"
    cli.main(["export", "run", "--format", "png", "--out", "pictures"])
    with np.load(finished / "samples_20x8x8x3.npz") as arrays:
        images, labels = arrays["arr_0"], arrays["arr_1"]
    assert images.shape == (20, 8, 8, 3) and images.dtype == np.uint8 and labels.shape == (20,)
    for i in (0, 7, 19):
        shard = np.load(finished / f"shards/{i // 8:06d}.npz")
        picture = np.asarray(Image.open(f"pictures/000/{i:06d}.png"))
        for same in (shard["images"][i % 8], picture):
            np.testing.assert_array_equal(images[i], same)
        assert shard["labels"][i % 8] == labels[i]
    cli.main(["verify", "run"])  # what was exported is no foreign file


def test_verify_says_what_is_wrong(finished, capsys):
    shard = finished / "shards/000001.npz"
    shard.write_bytes(shard.read_bytes()[:-1])
    (finished / "shards/000002.npz").unlink()
    (finished / "notes.txt").write_text("")
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main(["verify", "run"])
    assert end.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "shards/000001.npz has 2,379 bytes instead of 2,380"
    assert lines[1:] == [
        "shards/000002.npz is missing",
        "note: notes.txt is no file of this job",
        "run: 2 faults: run the job again to mend them; 8 pictures are there and whole, in 3 "
        "shards",
    ]
    said = refused(["export", "run"], capsys)
    assert "run is not finished: shards/000001.npz has 2,379 bytes" in said
    assert "and so for 1 more; run the job again" in said


def test_shards_that_hold_something_else_are_found(finished, capsys):
    """Even where their checksums were made right."""
    content = (finished / "shards/000000.npz").read_bytes()
    (finished / "shards/000001.npz").write_bytes(content)
    manifest = finished / "manifest/0.jsonl"
    rows = list(map(json.loads, manifest.read_text().splitlines()))
    rows[1]["sha256"] = hashlib.sha256(content).hexdigest()
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert jobs.verify(finished).faults == [
        "shards/000001.npz holds 8 pictures, and not those of its ids"
    ]


def test_machines_are_told_in_json(work, checkpoint, capsys):
    generate(checkpoint, *SMALL, "--out", "run", "--json")
    said = capsys.readouterr()
    events = list(map(json.loads, said.out.splitlines()))
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["start", "compiled"] and kinds[-1] == "done" and kinds.count("shard") == 3
    progress = [event for event in events if event["event"] == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] == 20
    assert progress[-1]["pictures_per_second"] > 0 and progress[-1]["seconds_left"] == 0
    assert events[-1]["missing"] == 0 and events[-1]["pictures"] == 20


def test_a_dry_run_tells_what_it_would_take_and_writes_nothing(work, checkpoint, capsys):
    generate(checkpoint, *SMALL, "--out", "run", "--dry-run")
    assert not list(work.iterdir())
    said = capsys.readouterr().err
    assert "20 pictures to draw, in 3 shards, 0.000 GB; 4 at a time, 0.00 GB on each" in said
    generate(checkpoint, *SMALL, "--out", "run", "--worker", 1, "--num-workers", 3)
    capsys.readouterr()
    generate(checkpoint, *SMALL, "--out", "run", "--dry-run", "--json")
    events = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert events[-1]["event"] == "estimate" and events[-1]["pictures"] == 12
    assert events[-1]["rate"] > 0 and 0 < events[-1]["bytes"] < 10_000


def test_the_environment_says_which_worker_it_is(work, checkpoint, capsys, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    generate(checkpoint, *SMALL, "--out", "run")
    said = capsys.readouterr().err
    assert "worker 1 of 3, 0 of 8 pictures are there" in said and "2 shards are missing" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--num", "none"], "num is 'none': it must be a whole number"),
        (["--batch", "0"], "batch is 0"),
        (["--split", "99"], "split is 99"),
        (["--worker", "1"], "--worker and --num-workers say only one number"),
        (["--worker", "3", "--num-workers", "3"], "workers are 0 .. 2"),
        (["--out", "nowhere://x"], "'nowhere://x', which cannot be opened: Protocol not known"),
        (["--plan", "best"], "plan is 'best'"),
        (["--labels", "dodo"], "label 'dodo' is not a class"),
        (["--steps", "ddim999"], "no whole stride"),
    ],
)
def test_bad_input_ends_with_one_line(work, checkpoint, capsys, options, said):
    line = ["generate", "--checkpoint", checkpoint, "--num", "4", "--out", "run", *options]
    assert said in refused(line, capsys)


def test_folders_without_a_job_are_told(work, capsys):
    for command in ("verify", "export"):
        assert "nowhere holds no job: there is no job.json in it" in refused(
            [command, "nowhere"], capsys
        )


def test_what_would_be_exported_over_something_is_refused(finished, capsys):
    capsys.readouterr()
    (finished / "png").mkdir()
    assert "run/png is there already" in _export(["export", "run", "--format", "png"], capsys)
    assert "is a folder: name a file in it" in _export(["export", "run", "--out", "run"], capsys)


def _export(line, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(line)
    assert end.value.code == 2
    return capsys.readouterr().err


def at_work(checkpoint, folder, cache, *options):
    process = Process(
        ["generate", "--checkpoint", checkpoint, *LONG, "--out", folder / "run", *options],
        folder / "log",
        cache=cache,
    )
    deadline = time.monotonic() + 60
    while not list(folder.glob("run/shards/*.npz")):
        assert process.alive and time.monotonic() < deadline, process.said
        time.sleep(0.02)
    return process


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


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
    assert not list((tmp_path / "run/workers").iterdir())
    assert not list(tmp_path.rglob("*.tmp"))
    faults = jobs.verify(tmp_path / "run").faults
    assert faults and all(fault.endswith("is not made yet") for fault in faults)


@pytest.mark.slow
def test_a_living_worker_finishes_what_a_killed_one_left(checkpoint, cache, tmp_path):
    line = ["generate", "--checkpoint", checkpoint, "--num", 400, "--skip", 20, "--batch", 4]
    line += ["--shard-size", 8, "--num-workers", 2, "--steal", "--out", tmp_path / "run"]
    crew = [Process([*line, "--worker", i], tmp_path / f"{i}", cache=cache) for i in range(2)]
    theirs = tmp_path / "run/manifest/1.jsonl"
    while not theirs.exists():
        assert crew[1].alive, crew[1].said
        time.sleep(0.02)
    crew[1].kill()
    assert crew[0].wait(60) == 0 and "the job is finished" in crew[0].said
    assert not jobs.verify(tmp_path / "run").faults
    assert not list((tmp_path / "run/leases").iterdir())
    stolen = map(json.loads, (tmp_path / "run/manifest/0.jsonl").read_text().splitlines())
    assert any(row["shard"] % 2 for row in stolen) and theirs.read_text()


@pytest.mark.slow
def test_a_second_signal_ends_a_job_at_once(checkpoint, cache, tmp_path, monkeypatch):
    process = at_work(checkpoint, tmp_path, cache, "--batch", 256)
    process.send(signal.SIGTERM)
    time.sleep(0.5)
    began = time.monotonic()
    if process.alive:
        process.send(signal.SIGTERM)
    assert process.wait(5) == 143 and time.monotonic() - began < 2
    assert not list((tmp_path / "run/workers").iterdir())


def test_a_job_that_cannot_stop_in_time_is_ended(tmp_path):
    """Such as one that compiles for minutes: the main thread hears of no signal."""
    process = Process.of(_deaf, tmp_path / "log")
    assert process.wait(10) == 143 and "SIGTERM: stopping" in process.said


def _deaf():
    signals.GRACE = 0.3
    with signals.Stop():
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)  # minutes in C
