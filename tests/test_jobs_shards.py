"""Shards, the manifest, and what is found wrong with them."""

import io
import tarfile

import numpy as np
import pytest

from skipjax.jobs import checking, manifest, shards, storage
from skipjax.jobs.locks import Owner
from skipjax.jobs.manifest import Manifest, Row
from skipjax.jobs.shards import Layout, Pictures


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
        assert layout.names()[-1] == layout.name(count - 1)


@pytest.mark.parametrize("format", ["npz", "tar"])
def test_a_shard_is_read_as_it_was_written(format):
    for channels in (1, 3):
        for labels in (True, False):
            before = pictures(range(3, 9), channels, labels)
            content = shards.encode(before, format)
            assert content == shards.encode(before, format)
            after = shards.decode(content, format)
            for ours, theirs in zip(before, after, strict=True):
                np.testing.assert_array_equal(ours, theirs, f"{channels=} {labels=}")


def test_an_npz_is_numpys_and_a_tar_is_webdatasets():
    whole = pictures(range(2))
    with np.load(io.BytesIO(shards.encode(whole, "npz"))) as arrays:
        assert sorted(arrays) == ["ids", "images", "labels"]
        assert arrays["images"].dtype == np.uint8 and arrays["labels"].dtype == np.int32
    with tarfile.open(fileobj=io.BytesIO(shards.encode(whole, "tar"))) as tar:
        names = tar.getnames()
    assert names == [f"{id:010d}.{end}" for id in range(2) for end in ("png", "cls")]


@pytest.mark.parametrize("format", ["npz", "tar"])
def test_what_is_no_shard_is_told(format):
    content = shards.encode(pictures(range(5)), format)
    for broken in (b"", b"nothing", content[:700]):
        with pytest.raises(ValueError, match="no pictures can be read from it"):
            shards.decode(broken, format)


JOB = "name of the job"
OURS = Owner.here(1)
LAYOUT = Layout(30, 4, "npz")


@pytest.fixture
def store(tmp_path):
    """A finished job of eight shards, made by two workers."""
    store = storage.store(tmp_path / "run")
    for shard in range(LAYOUT.count):
        content = shards.encode(pictures(LAYOUT.ids(shard)), "npz")
        store.put(LAYOUT.name(shard), content)
        store.append(f"manifest/{shard % 2}.jsonl", row(shard, content).line())
    return store


def row(shard, content, **changes):
    sha256 = checking.hashlib.sha256(content).hexdigest()
    ids = LAYOUT.ids(shard)
    return Row(
        **{"job": JOB, "shard": shard, "start": int(ids[0]), "count": len(ids)}
        | {"bytes": len(content), "sha256": sha256}
        | changes
    )


def faults(store):
    return checking.faults(store, LAYOUT, Manifest(store, JOB), range(LAYOUT.count))


def test_nothing_is_wrong_with_a_finished_job(store):
    assert faults(store) == {} and checking.mend(store, JOB, OURS) == []
    assert checking.unmade(store, LAYOUT, Manifest(store, JOB)) == []
    assert checking.foreign(store, LAYOUT) == []


def test_each_kind_of_damage_is_told(store):
    name = [LAYOUT.name(shard) for shard in range(LAYOUT.count)]
    content = storage.read(store, name[0])
    store.put(name[0], content[:-9])
    flipped = bytearray(content := storage.read(store, name[1]))
    flipped[len(content) // 2] ^= 1
    store.put(name[1], bytes(flipped))
    store.remove(name[2])
    store.put(name[3], storage.read(store, name[4]))
    assert faults(store) == {
        0: f"has {len(storage.read(store, name[0])):,} bytes instead of {len(content):,}",
        1: "is not what was written: its sha256 is another",
        2: "is missing",
        3: "is not what was written: its sha256 is another",
    }


def test_a_manifest_that_is_cut_is_mended(store):
    name = "manifest/0.jsonl"
    whole = storage.read(store, name)
    store.put(name, whole[:-20])
    known = Manifest(store, JOB)
    assert known.faults == [f"{name}: line 4 is cut or damaged"]
    assert faults(store) == {6: "is not in the manifest"}
    assert checking.mend(store, JOB, OURS) == [
        f"{name}: lines that are cut, damaged or of another job are taken out"
    ]
    assert storage.read(store, name) == b"".join(whole.splitlines(keepends=True)[:3])
    assert Manifest(store, JOB).faults == [] and checking.mend(store, JOB, OURS) == []


def test_lines_that_are_no_rows_are_told_and_mended(store):
    for line in (b"\xff\xfe", b"[]", b"7", b'{"shard": 1}', b'{"a": ', b"null"):
        store.append("manifest/1.jsonl", line + b"\n")
        told = ["manifest/1.jsonl: line 5 is cut or damaged"]
        assert Manifest(store, JOB).faults == told, line
        assert faults(store) == {} and checking.mend(store, JOB, OURS)
        assert Manifest(store, JOB).faults == []


def test_rows_of_another_job_do_not_count(store):
    content = storage.read(store, LAYOUT.name(5))
    store.remove("manifest/1.jsonl")
    store.append("manifest/1.jsonl", row(5, content, job="another").line())
    assert faults(store).keys() == {1, 3, 5, 7}
    assert Manifest(store, JOB).faults == ["manifest/1.jsonl: line 1 is of another job"]
    assert checking.mend(store, JOB, OURS) and Manifest(store, JOB).faults == []


def test_a_shard_that_was_made_twice_is_whole_if_it_is_either(store):
    content = shards.encode(pictures(LAYOUT.ids(2), labels=False), "npz")
    store.append("manifest/1.jsonl", row(2, content).line())
    assert faults(store) == {}
    store.put(LAYOUT.name(2), content)
    assert faults(store) == {}


def test_strange_files_are_named(store):
    for name in ("shards/notes.txt", "shards/000099.npz", "shards/1.npz", "picture.png"):
        store.put(name, b"")
    store.put("samples_30x4x5x3.npz", b"")  # an export
    assert checking.foreign(store, LAYOUT) == [
        "picture.png", "shards/000099.npz", "shards/1.npz", "shards/notes.txt",
    ]  # fmt: skip
    assert faults(store) == {} and manifest.FOLDER == "manifest"
