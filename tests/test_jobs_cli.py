"""`skipjax generate`, `verify` and `export`, as people run them."""

import json

import numpy as np
import pytest
import tiny
from command import refused
from PIL import Image

from skipjax import cli

pytestmark = pytest.mark.usefixtures("work", "compiled_in_a_hurry")
SMALL = ["--num", "20", "--skip", "250", "--shard-size", "8", "--batch", "4"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny.save(tmp_path_factory.mktemp("jobs") / "tiny"))


def generate(checkpoint, *options):
    cli.main(["generate", "--checkpoint", checkpoint, *map(str, options)])


@pytest.fixture
def finished(work, checkpoint, capsys):
    generate(checkpoint, *SMALL, "--out", "run")
    capsys.readouterr()
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
    cli.main(["export", "run", "--format", "png", "--flat"])
    assert len(list((finished / "png").glob("*.png"))) == 20
    assert (finished / "png/000019.png").read_bytes() == (
        work / "pictures/000/000019.png"
    ).read_bytes()
    capsys.readouterr()
    cli.main(["verify", "run"])  # what was exported is no foreign file
    assert capsys.readouterr().out == expected


def test_verify_says_what_is_wrong(finished, capsys):
    shard = finished / "shards/000001.npz"
    shard.write_bytes(shard.read_bytes()[:-1])
    (finished / "shards/000002.npz").unlink()
    (finished / "notes.txt").write_text("")
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


def test_machines_are_told_in_json(checkpoint, capsys):
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
    said = capsys.readouterr().out
    assert "20 pictures to draw, in 3 shards, 0.000 GB; 4 at a time, 0.00 GB on each" in said
    generate(checkpoint, *SMALL, "--out", "run", "--worker", 1, "--num-workers", 3)
    capsys.readouterr()
    generate(checkpoint, *SMALL, "--out", "run", "--dry-run", "--json")
    events = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert events[-1]["event"] == "estimate" and events[-1]["pictures"] == 12
    assert events[-1]["rate"] > 0 and 0 < events[-1]["bytes"] < 10_000


def test_label_and_labels_are_one_option(checkpoint, capsys):
    for option in ("--label", "--labels"):
        generate(checkpoint, *SMALL, option, "dog", "cat", "--out", "run")
    assert "run: nothing to draw; the job is finished" in capsys.readouterr().err
    assert np.load("run/shards/000000.npz")["labels"].tolist() == [2, 0] * 4


@pytest.mark.slow
def test_pictures_that_are_not_square_are_drawn_and_exported(checkpoint, capsys):
    size = ["--num", 4, "--skip", 500, "--batch", 4, "--size", 8, 16]
    generate(checkpoint, *size, "--out", "npz")
    generate(checkpoint, *size, "--out", "tar", "--format", "tar")
    for run in ("npz", "tar"):
        cli.main(["verify", run])
        cli.main(["export", run])
    of_npz, of_tar = (np.load(f"{run}/samples_4x8x16x3.npz")["arr_0"] for run in ("npz", "tar"))
    np.testing.assert_array_equal(of_npz, of_tar)
    cli.main(["export", "npz", "--format", "png", "--flat"])
    with Image.open("npz/png/000003.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), of_npz[3])
    cli.main(["sample", "--checkpoint", checkpoint, *map(str, size), "--out", "grid.png"])
    with Image.open("grid.png") as grid:
        assert grid.width > grid.height


def test_the_environment_says_which_worker_it_is(checkpoint, capsys, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    generate(checkpoint, *SMALL, "--out", "run")
    said = capsys.readouterr().err
    assert "worker 1 of 3, 0 of 8 pictures are there" in said and "2 shards are missing" in said


def test_bad_input_ends_with_one_line(checkpoint, capsys, subtests):
    for options, said in (
        (["--num", "none"], "num is 'none': it must be a whole number"),
        (["--batch", "0"], "batch is 0"),
        (["--split", "99"], "split is 99"),
        (["--worker", "1"], "--worker and --num-workers say only one number"),
        (["--worker", "3", "--num-workers", "3"], "workers are 0 .. 2"),
        (["--out", "nowhere://x"], "'nowhere://x', which cannot be opened: Protocol not known"),
        (["--plan", "best"], "plan is 'best'"),
        (["--labels", "dodo"], "label 'dodo' is not a class"),
        (["--steps", "ddim999"], "no whole stride"),
    ):
        with subtests.test(options=options):
            line = ["generate", "--checkpoint", checkpoint, "--num", 4, "--out", "run", *options]
            assert said in refused(line, capsys)


def test_folders_without_a_job_are_told(capsys):
    for command in ("verify", "export"):
        said = refused([command, "nowhere"], capsys)
        assert "nowhere holds no job: there is no job.json in it" in said


def test_what_would_be_exported_over_something_is_refused(finished, capsys):
    (finished / "png").mkdir()
    for options, expected in (
        (["--format", "png"], "run/png is there already"),
        (["--out", "run"], "is a folder: name a file in it"),
        (["--flat"], "flat is for png"),
    ):
        assert expected in refused(["export", "run", *options], capsys)
