"""Files that appear whole or not at all, in folders and in object stores."""

import errno
import os
import resource
import signal
import uuid

import fsspec
import pytest

from skipjax.jobs import storage

KINDS = ("folder", "file url", "object store")


@pytest.fixture(params=KINDS)
def out(request, tmp_path):
    if request.param == "object store":
        return f"memory://{uuid.uuid4().hex}/run"
    folder = tmp_path / "a" / "run"
    return folder.as_uri() if request.param == "file url" else folder


@pytest.fixture
def store(out):
    return storage.store(out)


def test_a_file_is_put_read_replaced_and_removed(store):
    assert storage.read(store, "shards/1.npz") is None and store.names("shards") == set()
    store.put("shards/1.npz", b"one")
    store.put("top.json", b"{}")
    store.put("shards/1.npz", b"three")
    assert storage.read(store, "shards/1.npz") == b"three"
    assert store.names("shards") == {"1.npz"} and store.names() == {"shards", "top.json"}
    store.remove("shards/1.npz")
    store.remove("shards/1.npz")
    assert store.names("shards") == set()


def test_only_one_creates(store):
    assert store.create("claims/000000.json", b"first")
    assert not store.create("claims/000000.json", b"second")
    assert storage.read(store, "claims/000000.json") == b"first"


def test_what_died_long_ago_is_swept(tmp_path):
    (tmp_path / "shards").mkdir()
    for name in (".1.npz.dead.tmp", "shards/.2.npz.dead.tmp", "shards/.2.npz.alive.tmp"):
        (tmp_path / name).write_bytes(b"half")
        if "dead" in name:
            os.utime(tmp_path / name, (0, 0))
    store = storage.store(tmp_path)
    assert store.names() == {"shards"} and store.names("shards") == set()
    assert store.sweep() == 2 and store.sweep() == 0
    assert [path.name for path in tmp_path.rglob("*.tmp")] == [".2.npz.alive.tmp"]


def test_nothing_is_left_where_writing_fails(tmp_path):
    store = storage.store(tmp_path)
    store.put("x", b"old")
    limit, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.SIG_IGN
    before = signal.signal(signal.SIGXFSZ, ignored)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError) as error:
            store.put("x", bytes(2000))
        with pytest.raises(OSError):
            store.create("y", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert error.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == ["x"] and storage.read(store, "x") == b"old"


def test_a_file_system_without_links_can_create(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(storage.os, "link", link)
    store = storage.store(tmp_path)
    assert store.create("x", b"1") and not store.create("x", b"2")
    assert os.listdir(tmp_path) == ["x"] and storage.read(store, "x") == b"1"


def test_places_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="out is 'nowhere://x', which cannot be opened"):
        storage.store("nowhere://x")
    (tmp_path / "f").write_text("")
    with pytest.raises(ValueError, match="a file: name a folder"):
        storage.store(tmp_path / "f")


def test_an_object_store_sees_what_others_put():
    path = f"/{uuid.uuid4().hex}/run"
    store = storage.store(f"memory:/{path}")
    store.put("a", b"1")
    assert store.names() == {"a"}
    fsspec.filesystem("memory").pipe_file(f"{path}/b", b"22")
    assert store.names() == {"a", "b"}


def test_a_store_that_cannot_create_exclusively_reads_what_it_wrote(monkeypatch):
    store = storage.store(f"memory://{uuid.uuid4().hex}/run")
    put = store._files.pipe_file

    def slower(path, content, mode="overwrite"):
        put(path, content)
        put(path, b"another")  # which did not see it either

    monkeypatch.setattr(store._files, "pipe_file", slower)
    assert not store.create("x", b"ours") and storage.read(store, "x") == b"another"
