"""Shards, what their files hold, and what is found wrong with them."""

import dataclasses
import hashlib
import io
import json
import tarfile
import uuid

import numpy as np
import pytest

from skipjax.jobs import formats, storage
from skipjax.jobs.formats import Pictures
from skipjax.jobs.shards import Layout, Shards


def pictures(ids, channels=3, labels=True):
    ids = np.asarray(ids)
    rng = np.random.default_rng(int(ids[0]) if len(ids) else 0)
    images = rng.integers(0, 256, (len(ids), 4, 5, channels), np.uint8)
    return Pictures(ids, images, ids.astype(np.int32) % 7 if labels else None)


def test_every_id_is_in_one_shard():
    for num, size, count in ((10, 4, 3), (8, 4, 2), (1, 4, 1), (9, 1, 9)):
        layout = Layout(num, size, "npz")
        assert layout.count == count
        ids = np.concatenate([layout.ids(shard) for shard in range(count)])
        np.testing.assert_array_equal(ids, np.arange(num))


@pytest.mark.parametrize("format", ["npz", "tar"])
def test_a_shard_is_read_as_it_was_written(format):
    for channels in (1, 3):
        for labels in (True, False):
            before = pictures(range(3, 9), channels, labels)
            content = formats.encode(before, format)
            assert content == formats.encode(before, format)
            after = formats.decode(content, format)
            for ours, theirs in zip(before, after, strict=True):
                np.testing.assert_array_equal(ours, theirs, f"{channels=} {labels=}")


def test_an_npz_is_numpys_and_a_tar_is_webdatasets():
    whole = pictures(range(2))
    with np.load(io.BytesIO(formats.encode(whole, "npz"))) as arrays:
        assert sorted(arrays) == ["ids", "images", "labels"]
        assert arrays["images"].dtype == np.uint8 and arrays["labels"].dtype == np.int32
    with tarfile.open(fileobj=io.BytesIO(formats.encode(whole, "tar"))) as tar:
        names = tar.getnames()
    assert names == [f"{id:010d}.{end}" for id in range(2) for end in ("png", "cls")]


@pytest.mark.parametrize("format", ["npz", "tar"])
def test_what_is_no_shard_is_told(format):
    content = formats.encode(pictures(range(5)), format)
    for broken in (b"", b"nothing", content[:700]):
        with pytest.raises(ValueError, match="no pictures can be read from it"):
            formats.decode(broken, format)


@pytest.mark.parametrize("shape", [(4, 5, 2), (4, 5, 4), (4, 5), (2, 4, 5, 3)])
def test_pictures_that_no_png_can_hold_are_refused(shape):
    with pytest.raises(ValueError, match=r"a PNG holds \[H, W, 1\] .*: keep them as .npz"):
        formats.png(np.zeros(shape, np.uint8))


def test_an_npz_holds_pictures_of_any_rank():
    video = Pictures(np.arange(2), np.ones((2, 3, 4, 5, 3), np.uint8), None)
    after = formats.decode(formats.encode(video, "npz"), "npz")
    np.testing.assert_array_equal(after.images, video.images)


LAYOUT = Layout(30, 4, "npz")


@pytest.fixture(params=["folder", "object store"])
def shards(request, tmp_path):
    """A finished job of eight shards."""
    kinds = {"folder": tmp_path / "run", "object store": f"memory://{uuid.uuid4().hex}/run"}
    shards = Shards(storage.store(kinds[request.param]), "name of the job", LAYOUT)
    for shard in range(LAYOUT.count):
        shards.put(shard, pictures(LAYOUT.ids(shard)), [], {})
    return shards


def faults(shards, deeply=False):
    return shards.faults(range(LAYOUT.count), deeply)


def test_nothing_is_wrong_with_a_finished_job(shards):
    assert faults(shards) == faults(shards, deeply=True) == {}
    assert shards.unmade() == [] and shards.foreign() == []


def test_each_kind_of_damage_is_told(shards):
    store, name = shards.store, [LAYOUT.name(shard) for shard in range(LAYOUT.count)]
    content = storage.read(store, name[0])
    store.put(name[0], content[:-9])
    flipped = bytearray(storage.read(store, name[1]))
    flipped[len(flipped) // 2] ^= 1
    store.put(name[1], bytes(flipped))
    store.remove(name[2])
    store.put(name[3], storage.read(store, name[4]))
    store.remove(LAYOUT.sidecar(5))
    store.remove(name[6])
    store.remove(LAYOUT.sidecar(6))
    assert shards.unmade() == [2, 5, 6]
    assert faults(shards) == {
        0: f"has {len(content) - 9:,} bytes instead of {len(content):,}",
        1: "is not what was written: its sha256 is another",
        2: "is missing",
        3: "is not what was written: its sha256 is another",
        5: "has no sidecar that can be read",
        6: "is not made yet",
    }


def test_what_is_no_sidecar_of_the_job_proves_nothing(shards):
    said = dataclasses.asdict(shards.sidecar(1))
    another = json.dumps(said | {"job": "another"}).encode()
    for text in (b"", b"\xff\xfe", b"[]", b"7", b'{"shard": 1}', b'{"a": ', b"null", another):
        shards.store.put(LAYOUT.sidecar(1), text)
        assert faults(shards) == {1: "has no sidecar that can be read"}, text


def test_pictures_of_other_ids_are_found_even_where_the_checksum_was_made_right(shards):
    content = storage.read(shards.store, LAYOUT.name(0))
    said = dataclasses.asdict(shards.sidecar(1))
    for there, fault in (
        (content, "holds 4 pictures, and not those of its ids"),
        (b"nothing", "no pictures can be read from it"),
    ):
        right = {"sha256": hashlib.sha256(there).hexdigest(), "bytes": len(there)}
        shards.store.put(LAYOUT.name(1), there)
        shards.store.put(LAYOUT.sidecar(1), json.dumps(said | right).encode())
        assert faults(shards) == {} and fault in faults(shards, deeply=True)[1]


def test_strange_files_are_named(shards):
    for name in ("shards/notes.txt", "shards/000099.npz", "shards/1.npz", "picture.png"):
        shards.store.put(name, b"")
    shards.store.put("samples_30x4x5x3.npz", b"")  # an export
    assert shards.foreign() == [
        "picture.png", "shards/000099.npz", "shards/1.npz", "shards/notes.txt",
    ]  # fmt: skip
    assert faults(shards) == {}
