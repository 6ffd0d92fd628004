"""What a job is asked for, and what it resolves to."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from small_jobs import small

import skipjax
from skipjax.jobs import Job
from skipjax.jobs.job import fields_of, name_of, resolve
from skipjax.weights import folders

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny.save(tmp_path_factory.mktemp("jobs") / "tiny"))


@pytest.fixture(scope="module")
def nameless(tmp_path_factory):
    """An unconditional network."""
    return str(tiny.save(tmp_path_factory.mktemp("jobs") / "free", num_classes=None))


def labels(checkpoint, said, num=8):
    ids = np.arange(num)
    found = resolve(Job(checkpoint, num=num, labels=said)).labels(ids)
    return found if found is None else found.tolist()


def test_labels_are_drawn_balanced_taken_in_turn_or_read(checkpoint, nameless, tmp_path):
    params = skipjax.load(checkpoint)
    key = resolve(Job(checkpoint)).key
    drawn = params.labels.encode({}, key, np.arange(8))["label"]
    assert labels(checkpoint, "uniform") == drawn.tolist()
    assert labels(checkpoint, "balanced") == [0, 1, 2, 0, 1, 2, 0, 1]
    assert labels(checkpoint, ("cow", "2", 0)) == [1, 2, 0, 1, 2, 0, 1, 2]
    (tmp_path / "labels.txt").write_text("cat\n2\n1\n")
    assert labels(checkpoint, str(tmp_path / "labels.txt"), 3) == [0, 2, 1]
    assert labels(nameless, "uniform") is None


def test_balanced_labels_pass_over_the_null_label(tmp_path):
    params = tiny.pretrained(num_classes=4, null_label=1)
    card = tiny.card(params)
    (tmp_path / "tiny").mkdir()
    folders.save(tmp_path / "tiny", params.params, card, np.float16)
    assert labels(str(tmp_path / "tiny"), "balanced", 4) == [0, 2, 3, 0]


def test_what_cannot_be_drawn_is_refused(checkpoint, tmp_path, subtests):
    job = small(tmp_path)
    for changes, said in (
        ({"num": 0}, "num is 0: it must be a whole number"),
        ({"num": 2.5}, "num is 2.5"),
        ({"seed": -1}, "seed is -1"),
        ({"shard_size": 0}, "shard_size is 0"),
        ({"format": "zip"}, "format is 'zip': it must be one of npz, tar"),
        ({"dtype": "float16"}, "dtype is 'float16': it must be one of float32, bfloat16"),
        ({"skip": 0}, "skip is 0"),
        ({"cutoff": 2000}, "cutoff is 2000"),
        ({"skip": None, "steps": "ddim999"}, "no whole stride"),
        ({"skip": 20, "steps": "5"}, "steps is given, and skip too"),
        ({"plan": "best"}, "plan is 'best': it must be one of skipped, ddpm"),
        ({"plan": "lost.json"}, "plan: lost.json holds none"),
        ({"labels": ("dodo",)}, "label 'dodo' is not a class"),
        ({"labels": "9"}, "label 9 is out of range"),
        ({"labels": "lost.txt"}, "labels: lost.txt cannot be read"),
        ({"guidance": 2.0}, "guidance is 2.0, and tiny has no null label"),
        ({"threshold": 2.0}, "threshold is 2.0"),
        ({"checkpoint": "nowhere", "card": None}, "checkpoint 'nowhere' is not a bundled name"),
        ({"classifier": "nowhere"}, "checkpoint 'nowhere' is not a bundled name"),
        ({"checkpoint": checkpoint}, "card, config and key say what a .pt or .safetensors holds"),
    ):
        with subtests.test(**changes):
            with pytest.raises(ValueError, match=said):
                resolve(dataclasses.replace(job, **changes))


def test_labels_that_do_not_fit_are_refused(checkpoint, nameless, tmp_path):
    for said in ("balanced", "1"):
        with pytest.raises(ValueError, match="tiny is unconditional: it takes no labels"):
            resolve(Job(nameless, labels=said))
    (tmp_path / "labels.txt").write_text("cat\ncow\n")
    with pytest.raises(ValueError, match="labels.txt has 2 lines for 5 samples"):
        resolve(Job(checkpoint, num=5, labels=str(tmp_path / "labels.txt")))


def test_networks_of_another_kind_are_refused(checkpoint, tmp_path):
    net = tiny.upsampler()
    (tmp_path / "up").mkdir()
    card = {"name": "up", "unet": vars(net.network), "class_names": net.labels.class_names}
    folders.save(tmp_path / "up", net.params, card | {"low_res": 8}, np.float16)
    with pytest.raises(ValueError, match="the network enlarges pictures: give them as low_res"):
        resolve(Job(str(tmp_path / "up")))
    with pytest.raises(ValueError, match="tiny is no classifier: it draws samples"):
        resolve(Job(checkpoint, classifier=checkpoint))


def test_a_classifier_guides_and_is_part_of_what_is_drawn(checkpoint, tmp_path):
    net = tiny.classifier()
    (tmp_path / "guide").mkdir()
    card = {"name": "guide", "classifier": vars(net.network)}
    folders.save(tmp_path / "guide", net.params, card, np.float16)
    plain, guided = (
        resolve(Job(checkpoint, **changes)).identity
        for changes in ({}, {"classifier": str(tmp_path / "guide")})
    )
    assert plain["classifier"] is None and plain["guidance"] == []
    assert len(guided["classifier"]["sha256"]) == 64
    assert guided["classifier"]["network"]["kind"] == "classifier"
    assert guided["guidance"][0]["scale"] == 1.0
    with pytest.raises(ValueError, match="guide is a classifier: give it as classifier"):
        resolve(Job(str(tmp_path / "guide")))


def test_the_hash_names_what_fixes_the_pictures(checkpoint):
    job = Job(checkpoint, num=10, skip=100)
    same, other = (resolve(dataclasses.replace(job, num=num)).identity for num in (10, 11))
    assert name_of(resolve(job).identity) == name_of(same) != name_of(other)
    assert Job(**fields_of(job)) == job and hash(job) == hash(Job(**fields_of(job)))


def test_a_plan_is_taken_as_text_as_a_file_or_as_it_is(checkpoint, tmp_path):
    plan = skipjax.plans.skipped(skipjax.schedules.linear(), 250)
    traced = jax.jit(lambda plan: plan)(plan)  # which no longer knows whose it is
    (tmp_path / "plan.json").write_text(plan.to_json())
    known = resolve(Job(checkpoint, skip=250)).identity
    for given in (plan, plan.to_json(), str(tmp_path / "plan.json")):
        job = Job(checkpoint, plan=given)
        assert resolve(job).identity == known and name_of(resolve(job).identity) == name_of(known)
        assert Job(**fields_of(job)) == job and hash(job) == hash(Job(**fields_of(job)))
    found = resolve(Job(checkpoint, plan=traced)).plan
    assert found.origin is None
    np.testing.assert_array_equal(found.keep, np.asarray(traced.keep, np.float64))


def test_num_and_skip_are_what_a_job_needs(checkpoint):
    found = resolve(Job(checkpoint, num=50_000, skip=20))
    assert found.plan.nfe == 50 and found.identity["num"] == 50_000
    assert found.identity == resolve(Job(checkpoint)).identity


def test_many_labels_are_recorded_by_their_hash(checkpoint, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("cat\n" * 1001)
    one = resolve(Job(checkpoint, num=1001, labels=str(path))).identity["labels"]
    path.write_text("cat\n" * 1000 + "cow\n")
    other = resolve(Job(checkpoint, num=1001, labels=str(path))).identity["labels"]
    assert len(one["sha256"]) == 64 and one["sha256"] != other["sha256"]
