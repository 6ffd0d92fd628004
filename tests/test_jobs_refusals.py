"""Folders that a job is not drawn into: of another job, another process, or something else."""

import dataclasses
import json
import os
import shutil
import subprocess

import jax
import numpy as np
import pytest
import released_files
import tiny
import torch_writer
from small_jobs import NUM, SIZE, files, run, small

import skipjax
from skipjax import jobs
from skipjax.jobs import Job, storage
from skipjax.jobs import program as programs
from skipjax.weights import folders

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")


@pytest.fixture
def out(finished, tmp_path):
    """A copy of the finished job."""
    return shutil.copytree(finished, tmp_path / "run")


def test_another_job_is_refused_with_what_differs(job, out, finished, subtests):
    for changes, said in (
        ({"num": 41}, "num is 40 there and 41 here"),
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"shard_size": 8}, "shard_size is 16 there and 8 here"),
        ({"format": "tar"}, "format is npz there and tar here"),
        ({"dtype": "bfloat16"}, "dtype is float32 there and bfloat16 here"),
        ({"threshold": 0.9}, "transform.high is 1.0 there and None here; transform.kind is Clip"),
        ({"labels": "balanced"}, "labels is uniform there and balanced here"),
        ({"labels": ("cat", "2")}, r"labels is uniform there and \[0, 2\] here"),
        ({"skip": 200}, r"plan is Plan\(skipped, 4 NFE.* there and Plan\(skipped, 5 NFE"),
        ({"cutoff": 500}, r"plan is Plan\(skipped, 4 NFE.*noise in 3 rows\) there and Plan"),
        ({"skip": 250, "plan": "ddim"}, r"plan is Plan.* there and Plan\(ddim, 4 NFE"),
        ({"num": 41, "seed": 4}, "num is 40 there and 41 here; seed is 3 there and 4 here"),
    ):
        with subtests.test(**changes):
            message = f"run holds another job: {said}.*take another folder"
            with pytest.raises(ValueError, match=message):
                run(Job(**vars(job) | changes), out)
            assert files(out) == files(finished)


def test_other_weights_are_refused(job, out, tmp_path):
    params = tiny.pretrained()
    changed = jax.tree.map(lambda leaf: leaf * np.float32(1.5), params.params)
    folders.save(tmp_path / "other", changed, tiny.card(params), np.float16)
    with pytest.raises(
        ValueError, match="model.sha256 is [0-9a-f]{64} there and [0-9a-f]{64} here"
    ):
        run(Job(**vars(job) | {"checkpoint": str(tmp_path / "other"), "card": None}), out)


PUT_RIGHT = [
    ("process", "parameterization", "v", "eps"),
    ("process", "precondition", {"kind": "times", "scale": 0.25}, "1.0"),
    ("process", "variance", "large", "small"),
    ("process", "bounds", [-2, 2], ""),
    ("network", "use_new_attention_order", True, "False"),
    ("network", "num_heads", 2, "1"),
]


@pytest.mark.parametrize(("part", "field", "right", "before"), PUT_RIGHT)
def test_a_card_that_is_put_right_makes_another_job(tmp_path, part, field, right, before):
    """The same line again: nothing is drawn by the new reading beside the old."""
    job = small(tmp_path)
    run(dataclasses.replace(job, num=8, shard_size=4, skip=500), tmp_path / "run")
    (tmp_path / "run/shards/000001.npz").unlink()
    before_it = files(tmp_path / "run")
    card = json.loads((tmp_path / "tiny.json").read_text())
    card[part][field] = right
    (tmp_path / "tiny.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=rf"another job: .*model.{part}.{field}.* is {before}.*"):
        run(dataclasses.replace(job, num=8, shard_size=4, skip=500), tmp_path / "run")
    assert files(tmp_path / "run") == before_it


@pytest.mark.parametrize("what", ["net", "guide"])
def test_a_folders_card_that_is_put_right_makes_another_job(tmp_path, what):
    tiny.save(tmp_path / "net")
    guide = tiny.classifier(attention_resolutions=(8,), num_heads=2)
    (tmp_path / "guide").mkdir()
    folders.save(tmp_path / "guide", guide.params, tiny.card(guide), np.float16)
    job = Job(str(tmp_path / "net"), classifier=str(tmp_path / "guide"), num=4, skip=500)
    identity = jobs.job.resolve(job).identity
    path = tmp_path / what / "card.json"
    card = json.loads(path.read_text())
    card["network"]["use_new_attention_order"] = True
    path.write_text(json.dumps(card))
    changed = jobs.job.resolve(job).identity
    said = "model" if what == "net" else "classifier"
    assert jobs.record.differences(identity, changed) == [
        f"{said}.network.use_new_attention_order is False there and True here"
    ]


def test_other_weights_of_the_same_file_make_another_job(tmp_path):
    net = tiny.pretrained()
    some, other = (
        {name: torch_writer.tensor(a) for name, a in released_files.arrays(model).items()}
        for model in (net, net.replace(params=jax.tree.map(lambda a: 2 * a, net.params)))
    )
    path = torch_writer.save(tmp_path / "tiny.pt", {"some": some, "other": other})
    released_files.shelve(tmp_path, released_files.card(net))
    job = Job(str(path), str(tmp_path / "tiny.json"), num=4, skip=500, key="some")
    run(job, tmp_path / "run")
    with pytest.raises(ValueError, match="model.key is some there and other here"):
        run(dataclasses.replace(job, key="other"), tmp_path / "run")


def test_the_same_weights_and_plan_may_have_another_name(job, out, tmp_path):
    copy = shutil.copy(job.checkpoint, tmp_path / "copy.safetensors")
    plan = skipjax.plans.skipped(skipjax.schedules.linear(), 250)
    (tmp_path / "plan.json").write_text(plan.to_json())
    same = Job(str(copy), job.card, NUM, 3, plan=str(tmp_path / "plan.json"), shard_size=SIZE)
    assert run(same, out)[0].pictures == 0
    assert run(dataclasses.replace(same, plan=plan.to_json()), out)[0].pictures == 0


def test_a_plan_that_differs_by_rounding_is_the_same_and_that_of_the_folder_is_used(job, out):
    record = json.loads((out / "job.json").read_text())
    keep = record["identity"]["plan"]["keep"]
    keep[1] = float(np.nextafter(keep[1], 2))
    (out / "job.json").write_text(json.dumps(record))
    resolved = jobs.job.resolve(job)
    agreed, shards = jobs.record.agree(storage.store(out), resolved)
    assert shards.job == record["job"] and agreed.plan.keep.tolist() == keep
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
        ("{", "job.json is no JSON"),
        ("[]", "job.json is no record"),
        ('{"kind": 1}', "job.json is no record"),
        (
            '{"kind": "skipjax job", "version": 9}',
            "9, begun by an unknown .* version 2 is read here",
        ),
    ):
        (tmp_path / "job.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            run(job, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["job.json", "photo.jpg"]


def test_a_folder_of_an_older_version_is_refused_and_left_alone(job, out, finished):
    record = json.loads((out / "job.json").read_text())
    assert record.pop("skipjax") == skipjax.__version__
    (out / "job.json").write_text(json.dumps(record | {"version": 1}))
    (out / "manifest").mkdir()
    said = "of version 1, begun by an older skipjax, which kept a manifest.* take a new folder"
    for use in (jobs.verify, jobs.export, lambda out: run(job, out)):
        with pytest.raises(ValueError, match=said):
            use(out)
    assert files(out) == files(finished)


@pytest.mark.parametrize("channels", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_channels_that_no_png_holds_are_refused_before_anything_is_drawn(
    tmp_path, channels, monkeypatch
):
    net = tiny.save(tmp_path / "net", in_channels=channels, out_channels=2 * channels)
    job = Job(str(net), num=4, skip=500, format="tar")
    with monkeypatch.context() as patch:
        patch.setattr(programs, "Compiled", None)  # nothing is compiled
        for use in (run, jobs.estimate):
            with pytest.raises(ValueError, match=rf"8, 8, {channels}\), and a PNG holds .* .npz"):
                use(job, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run(dataclasses.replace(job, format="npz"), tmp_path / "run")
    with pytest.raises(ValueError, match="and a PNG holds .*: keep them as .npz"):
        jobs.export(tmp_path / "run", "png")
    assert jobs.export(tmp_path / "run").path.name == f"samples_4x8x8x{channels}.npz"
    assert not (tmp_path / "run" / "png").exists()


def test_a_read_only_folder_is_told(job, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError, match="Read-only file system: .*run"):
        run(job, small_disk / "run")
