"""Folders that a job is not drawn into: of another job, another process, or something else."""

import dataclasses
import json
import os
import shutil
import subprocess

import jax
import numpy as np
import pytest
import tiny
from small_jobs import NUM, SIZE, files, run

import skipjax
from skipjax import jobs
from skipjax.jobs import Job, locks, storage
from skipjax.jobs.locks import Owner
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
        ({"threshold": 0.9}, "threshold is None there and 0.9 here"),
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
            assert files(out) == files(finished) and not os.listdir(out / "workers")


def test_other_weights_are_refused(job, out, tmp_path):
    params = tiny.pretrained()
    changed = jax.tree.map(lambda leaf: leaf * np.float32(1.5), params.params)
    folders.save(tmp_path / "other", changed, tiny.card(params), np.float16)
    with pytest.raises(ValueError, match="checkpoint is .*'sha256': .* there and "):
        run(Job(**vars(job) | {"checkpoint": str(tmp_path / "other"), "card": None}), out)


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
        ("{", "job.json is no JSON"),
        ("[]", "job.json is no record"),
        ('{"kind": 1}', "job.json is no record"),
        ('{"kind": "skipjax job", "version": 9}', "version 9, and 1 is read here"),
    ):
        (tmp_path / "job.json").write_text(text)
        with pytest.raises(ValueError, match=said):
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


def test_a_read_only_folder_is_told(job, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError, match="Read-only file system: .*run"):
        run(job, small_disk / "run")
