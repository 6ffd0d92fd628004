"""Files and folders that appear whole, or not at all."""

import os
import shutil
from pathlib import Path

import pytest

from skipjax import files
from skipjax.files import pending, pending_folder

FAILURES = [RuntimeError, KeyboardInterrupt, SystemExit]
both = pytest.mark.parametrize("make", [pending, pending_folder])


@pytest.fixture
def locked(tmp_path):
    """A folder that nobody can write to, not even root."""
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    if not os.access(folder, os.W_OK):
        yield folder
    elif Path("/proc/self").is_dir():
        yield Path("/proc")
    else:
        pytest.skip("this user may write everywhere")
    folder.chmod(0o700)


@pytest.fixture
def umask():
    """Sets the umask, for as long as the test runs."""
    before = os.umask(0)
    yield os.umask
    os.umask(before)


def listing(folder):
    return {
        path.relative_to(folder).as_posix(): path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
    }


def mode(path):
    return path.stat().st_mode & 0o777


def refuses(make, path, match):
    with pytest.raises(ValueError, match=match) as caught, make(path):
        pytest.fail("the block was entered")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [Path, str])
def test_a_file_takes_its_name_when_the_block_ends(tmp_path, kind):
    path = tmp_path / "grid.png"
    with pending(kind(path)) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
        assert temporary.parent == tmp_path and temporary.suffix == ".png"
        assert temporary.name.startswith(".")
    assert listing(tmp_path) == {"grid.png": b"new"}


def test_a_block_that_fails_leaves_what_was_there(tmp_path, subtests):
    (tmp_path / "grid.png").write_bytes(b"old")
    for error in FAILURES:
        with subtests.test(error):
            with pytest.raises(error), pending(tmp_path / "grid.png") as temporary:
                temporary.write_bytes(b"half")
                raise error
            assert listing(tmp_path) == {"grid.png": b"old"}


def test_an_older_file_is_replaced_in_one_go(tmp_path):
    path = tmp_path / "grid.png"
    path.write_bytes(b"old")
    with pending(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert listing(tmp_path) == {"grid.png": b"new"}


def test_a_file_that_the_block_removed_is_missed(tmp_path):
    with pytest.raises(FileNotFoundError), pending(tmp_path / "grid.png") as temporary:
        temporary.unlink()
    assert not listing(tmp_path)


def test_an_older_folder_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "tiny"
    with pending_folder(path, anew=True) as temporary:
        (temporary / "a").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), pending_folder(path, anew=True) as temporary:
        (temporary / "b").write_bytes(b"half")
        raise KeyboardInterrupt
    assert listing(tmp_path) == {"tiny": False, "tiny/a": b"old"}
    with pending_folder(path, anew=True) as temporary:
        (temporary / "b").write_bytes(b"new")
        assert listing(path) == {"a": b"old"}
    assert listing(tmp_path) == {"tiny": False, "tiny/b": b"new"}


def test_permissions_are_those_of_any_other(tmp_path, umask, subtests):
    for mask in (0o022, 0o077, 0o002):
        at = tmp_path / oct(mask)
        at.mkdir()
        umask(mask)
        with subtests.test(oct(mask)):
            (at / "plain").touch()
            (at / "folder").mkdir()
            with pending(at / "grid.png") as temporary:
                temporary.write_bytes(b"new")
                assert mode(temporary) == 0o600
            with pending_folder(at / "tiny") as temporary:
                assert mode(temporary) == 0o700
            assert mode(at / "grid.png") == mode(at / "plain")
            assert mode(at / "tiny") == mode(at / "folder")
            assert umask(mask) == mask


@both
def test_a_missing_folder_is_named(tmp_path, make):
    refuses(make, tmp_path / "nowhere" / "x", "folder .*nowhere is not there; make it first")
    (tmp_path / "file").touch()
    refuses(make, tmp_path / "file" / "x", "folder .*file is not there")
    assert list(listing(tmp_path)) == ["file"]


def test_a_folder_is_not_a_file_to_write(tmp_path):
    (tmp_path / "grid.png").mkdir()
    refuses(pending, tmp_path / "grid.png", "is a folder: name a file in it")


@both
def test_a_folder_that_cannot_be_written_is_named_before_the_block(locked, make):
    refuses(make, locked / "x", f"cannot write to {locked}")


@both
def test_a_relative_path_will_do(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    names = "new", "new folder", "ü"
    for name in names:
        with make(name):
            pass
    assert sorted(os.listdir()) == sorted(names)


def test_a_folder_takes_its_name_when_the_block_ends(tmp_path):
    path = tmp_path / "tiny"
    with pending_folder(path) as temporary:
        (temporary / "params").mkdir()
        (temporary / "params" / "0").write_bytes(b"weights")
        (temporary / "card.json").write_bytes(b"{}")
        assert not path.exists()
        assert temporary.parent == tmp_path and temporary.name.startswith(".")
    whole = {"tiny": False, "tiny/params": False}
    whole |= {"tiny/params/0": b"weights", "tiny/card.json": b"{}"}
    assert listing(tmp_path) == whole


def test_a_folder_whose_block_fails_never_was(tmp_path, subtests):
    (tmp_path / "other").write_bytes(b"old")
    for error in FAILURES:
        with subtests.test(error):
            with pytest.raises(error), pending_folder(tmp_path / "tiny") as temporary:
                (temporary / "params").mkdir()
                (temporary / "params" / "0").write_bytes(b"half")
                raise error
            assert listing(tmp_path) == {"other": b"old"}


@pytest.mark.parametrize("kind", ["file", "folder", "full folder", "link"])
def test_a_folder_takes_nobodys_place(tmp_path, kind):
    path = tmp_path / "tiny"
    if kind == "file":
        path.write_bytes(b"old")
    elif kind == "link":
        (tmp_path / "other").mkdir()
        path.symlink_to(tmp_path / "other")
    else:
        path.mkdir()
        if kind == "full folder":
            (path / "card.json").write_bytes(b"old")
    before = listing(tmp_path)
    refuses(pending_folder, path, "is there already: name a folder that is not")
    assert listing(tmp_path) == before


def test_a_folder_that_someone_else_made_meanwhile_is_kept(tmp_path):
    path = tmp_path / "tiny"
    with pytest.raises(OSError), pending_folder(path) as temporary:
        (temporary / "card.json").write_bytes(b"ours")
        path.mkdir()
        (path / "card.json").write_bytes(b"theirs")
    assert listing(tmp_path) == {"tiny": False, "tiny/card.json": b"theirs"}


@both
def test_no_room_is_said_before_the_block(tmp_path, monkeypatch, make):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.tempfile, "mkstemp", full)
    monkeypatch.setattr(files.tempfile, "mkdtemp", full)
    refuses(make, tmp_path / "x", r"cannot write to .* \(No space left on device\)")


@both
def test_what_cannot_take_its_name_leaves_nothing(tmp_path, monkeypatch, make):
    def fail(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "replace", fail)
    monkeypatch.setattr(files.os, "rename", fail)
    with pytest.raises(PermissionError), make(tmp_path / "x"):
        pass
    assert not listing(tmp_path)


def test_what_was_moved_away_is_not_missed_after_a_failure(tmp_path):
    with pytest.raises(RuntimeError), pending_folder(tmp_path / "tiny") as temporary:
        shutil.rmtree(temporary)
        raise RuntimeError
    assert not listing(tmp_path)
