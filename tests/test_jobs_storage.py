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
    assert storage.read(store, "shards/1.npz") is None and store.sizes("shards") == {}
    store.put("shards/1.npz", b"one")
    store.put("top.json", b"{}")
    store.put("shards/1.npz", b"three")
    assert storage.read(store, "shards/1.npz") == b"three"
    assert store.sizes("shards") == {"shards/1.npz": 5} and store.sizes() == {"top.json": 2}
    store.remove("shards/1.npz")
    store.remove("shards/1.npz")
    assert store.sizes("shards") == {}


def test_only_one_creates(store):
    assert store.create("workers/0.json", b"first")
    assert not store.create("workers/0.json", b"second")
    assert storage.read(store, "workers/0.json") == b"first"


def test_lines_are_added_and_what_was_put_meanwhile_is_kept(store, out):
    for line in (b"a\n", b"b\n"):
        store.append("manifest/0.jsonl", line)
    assert storage.read(storage.store(out), "manifest/0.jsonl") == b"a\nb\n"
    store.put("manifest/0.jsonl", b"b\n")
    store.append("manifest/0.jsonl", b"c\n")
    assert storage.read(store, "manifest/0.jsonl") == b"b\nc\n"


def test_large_files_come_in_parts(store, monkeypatch):
    monkeypatch.setattr(storage, "CHUNK", 10)
    store.put("x", bytes(range(25)))
    assert [len(chunk) for chunk in store.chunks("x")] == [10, 10, 5]
    with pytest.raises(FileNotFoundError):
        list(store.chunks("y"))


def test_what_dead_writers_left_is_swept(tmp_path):
    for writer in ("dead", "alive"):
        (tmp_path / f".1.npz.{writer}.tmp").write_bytes(b"half")
    store = storage.store(tmp_path)
    assert store.sizes() == {}
    assert store.sweep("", lambda: {"alive"}) == 1
    assert [path.name for path in tmp_path.iterdir()] == [".1.npz.alive.tmp"]


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
    assert store.sizes() == {"a": 1}
    fsspec.filesystem("memory").pipe_file(f"{path}/b", b"22")
    assert store.sizes() == {"a": 1, "b": 2}


def test_a_file_that_goes_while_others_are_looked_at_hides_none(tmp_path, monkeypatch):
    store = storage.store(tmp_path)
    for name in ("a", "b", "c"):
        store.put(name, b"1")
    scan = os.scandir

    class Scanned:
        def __enter__(self):
            self.entries = list(scan(tmp_path))
            (tmp_path / "b").unlink()
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(storage.os, "scandir", lambda _: Scanned())
    assert store.sizes().keys() == {"a", "c"}


def test_who_lives_is_asked_after_what_is_there(tmp_path):
    store, later = storage.store(tmp_path), tmp_path / ".2.npz.new.tmp"
    (tmp_path / ".1.npz.dead.tmp").write_bytes(b"half")

    def living():
        later.write_bytes(b"half")  # by one who has come to life meanwhile
        return set()

    assert store.sweep("", living) == 1 and later.exists()
    later.unlink()
    assert store.sweep("", lambda: pytest.fail("nobody need be asked")) == 0
