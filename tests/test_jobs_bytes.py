"""The pictures of a job are those of `skipjax.sample`, to the last byte however it is cut."""

import compiling
import jax
import numpy as np
import pytest
from small_jobs import NUM, SHARDS, files, run

import skipjax


@pytest.fixture(scope="module", autouse=True, params=compiling.EACH_WAY)
def way(request):
    with compiling.WAYS[request.param]():
        yield request.param


@pytest.fixture(scope="module")
def finished(way, job, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    run(job, out)
    return out


def test_pictures_are_those_of_sample(job, finished):
    params = skipjax.load(job.checkpoint, card=job.card)
    images = skipjax.sample(params, jax.random.key(3), skip=250, num=64)[:NUM]
    shards = [np.load(finished / "shards" / name) for name in SHARDS]
    ids, ours, labels = (
        np.concatenate([shard[name] for shard in shards]) for name in ("ids", "images", "labels")
    )
    np.testing.assert_array_equal(ids, np.arange(NUM))
    np.testing.assert_array_equal(ours, skipjax.to_uint8(images))
    one = skipjax.sample(params, jax.random.key(3), skip=250, ids=[7], label=int(labels[7]))
    np.testing.assert_array_equal(skipjax.to_uint8(one)[0], ours[7])


def test_batches_change_no_byte(way, job, finished, tmp_path):
    for batch in (7,) if way == "in_a_hurry" else (4, 7, 64):
        run(job, tmp_path / f"{batch}", batch=batch)
        assert files(tmp_path / f"{batch}") == files(finished), batch


def test_eight_devices_change_no_byte(job, finished, tmp_path):
    _, told = run(job, tmp_path / "run", batch=57, devices=None)
    assert "64 pictures at a time" in told  # eight devices do not divide 57
    assert files(tmp_path / "run") == files(finished)
