"""sha256 of files: the sidecar of a released file, and the list in a checkpoint's card."""

import hashlib
import json
import shutil
import subprocess

import pytest
import released_files
import tiny

import skipjax
from skipjax import files
from skipjax.weights import cards, checksums

OTHER = "0" * 64


@pytest.fixture(scope="module")
def net():
    return tiny.pretrained()


@pytest.fixture(autouse=True)
def shelf(tmp_path, monkeypatch, net):
    """A card that knows the network's file, but not its checksum."""
    folder = released_files.shelve(tmp_path / "cards", released_files.card(net))
    monkeypatch.setattr(cards, "RELEASED", (folder,))
    return folder


@pytest.fixture(params=["pt", "safetensors"])
def path(request, tmp_path, net):
    (tmp_path / "weights").mkdir()
    return released_files.write(tmp_path / "weights" / f"tiny.{request.param}", net)


def beside(path):
    return path.with_name(path.name + ".sha256")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder):
    return {path.name: path.is_file() and path.read_bytes() for path in folder.iterdir()}


def refused(path, match):
    before = contents(path.parent)
    with pytest.raises(ValueError, match=match) as caught:
        skipjax.load(path)
    assert contents(path.parent) == before
    return str(caught.value)


def publish(shelf, net, digest):
    released_files.shelve(shelf, released_files.card(net, sha256=digest))


def test_the_first_load_writes_the_checksum_down(path):
    skipjax.load(path)
    assert beside(path).read_text() == f"{sha256(path)}  {path.name}\n"
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, beside(path).name]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum")
def test_it_is_written_as_sha256sum_does(tmp_path, net, subtests):
    for name in ("mine.pt", "my own weights.pt", "ü.pt", "*.pt"):
        with subtests.test(name):
            path = released_files.write(tmp_path / name, net)
            skipjax.load(path, card="tiny")
            check = ["sha256sum", "-c", beside(path).name]
            done = subprocess.run(check, cwd=tmp_path, capture_output=True, timeout=60)
            assert done.returncode == 0 and done.stdout.endswith(b": OK\n") and not done.stderr


def test_later_loads_compare_and_write_nothing(path):
    skipjax.load(path)
    written = beside(path).stat()
    skipjax.load(path)
    skipjax.load(path, dtype="bfloat16")
    assert beside(path).stat() == written


def test_a_file_that_changed_is_refused_with_what_to_do(path, net):
    skipjax.load(path)
    recorded = sha256(path)
    released_files.write(path, net, "float16")
    said = refused(path, f"sha256 of {path} is {sha256(path)[:12]}")
    assert f"{beside(path).name} says {recorded[:12]}" in said and "\n" not in said
    assert f"fetch it again, or delete {beside(path).name} if it was replaced on purpose" in said
    beside(path).unlink()
    skipjax.load(path)
    assert beside(path).read_text().startswith(sha256(path))


def test_a_flipped_bit_is_found_where_the_format_has_no_checksum(tmp_path, net):
    path = released_files.write(tmp_path / "tiny.safetensors", net)
    skipjax.load(path)
    released_files.damaged(path)
    refused(path, "the file is not the one that was loaded first")


def test_nothing_is_written_where_loading_failed(path):
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, str(path))


def test_nothing_is_written_where_the_weights_do_not_fit(path):
    with pytest.raises(ValueError, match="num_classes = 4"):
        skipjax.load(path, config=tiny.config(num_classes=4))
    assert not beside(path).exists()


def test_a_checksum_is_taken_in_the_forms_that_tools_write(path, subtests):
    forms = "{}  {}\n", "{} *{}\n", "{}", "{}\n", "{}  elsewhere/{}\n", "\n {}  {}", "{}  {}\r\n"
    for form in forms:
        for digest in (sha256(path), sha256(path).upper()):
            text = form.format(digest, path.name).encode()
            with subtests.test(text):
                beside(path).write_bytes(text)
                skipjax.load(path)
                assert beside(path).read_bytes() == text


def test_garbage_in_place_of_a_checksum_is_refused(path, subtests):
    whole = b"", b"\n", b"hello", b"\xff\xfe\x00", b"<html>", bytes(9), b"0" * 63, b"0" * 65
    for content in whole:
        with subtests.test(content):
            beside(path).write_bytes(content)
            said = refused(path, "does not begin with a sha256: delete it")
            assert said.startswith(f"{beside(path)} ") and said.isprintable()


def test_a_card_that_knows_the_checksum_is_believed(path, net, shelf):
    publish(shelf, net, sha256(path))
    beside(path).write_text(f"{OTHER}  {path.name}\n")
    skipjax.load(path)
    beside(path).unlink()
    skipjax.load(path)
    assert not beside(path).exists()


def test_a_file_other_than_its_card_knows_is_refused(path, net, shelf):
    publish(shelf, net, OTHER)
    said = refused(path, "its card says 000000000000...: the checkpoint is damaged: fetch")
    assert said.startswith(f"sha256 of {path} is {sha256(path)[:12]}") and "\n" not in said


@pytest.mark.parametrize("error", [PermissionError(13, "denied"), OSError(30, "read-only")])
def test_a_folder_that_cannot_be_written_is_no_reason_not_to_load(path, monkeypatch, error):
    def fail(**_):
        raise error

    monkeypatch.setattr(files.tempfile, "mkstemp", fail)
    assert skipjax.load(path).name == "tiny"
    assert not beside(path).exists()


def test_a_full_disk_is_no_reason_not_to_load(path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checksums.Path, "write_text", fail)
    skipjax.load(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_something_else_in_its_place_is_left_alone(path):
    beside(path).mkdir()
    skipjax.load(path)
    assert beside(path).is_dir()


def test_files_of_one_folder_have_a_checksum_each(tmp_path, net):
    for name in ("tiny.pt", "tiny.safetensors"):
        skipjax.load(released_files.write(tmp_path / name, net))
    for name in ("tiny.pt", "tiny.safetensors"):
        assert beside(tmp_path / name).read_text() == f"{sha256(tmp_path / name)}  {name}\n"


@pytest.fixture
def folder(tmp_path):
    """Two files of weights, and others that are none."""
    (tmp_path / "params" / "d").mkdir(parents=True)
    for name in ("card.json", "params/a", "params/d/b"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_a_folder_lists_its_weights_by_their_path_in_it(folder):
    listed = checksums.listing(folder)
    assert listed == {name: sha256(folder / name) for name in ("params/a", "params/d/b")}
    checksums.verify(folder, listed)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: (f / "params/d/b").write_text("c"), "sha256 of .*/params/d/b is .* card.json"),
        (lambda f: (f / "params/a").unlink(), "params/a is missing: the checkpoint is damaged"),
        (lambda f: (f / "params/c").touch(), "params/c is not listed in card.json: the check"),
    ],
)
def test_a_folder_is_compared_with_its_list(folder, change, match):
    listed = checksums.listing(folder)
    change(folder)
    with pytest.raises(ValueError, match=match):
        checksums.verify(folder, listed)


def test_a_checkpoints_card_has_the_list(tmp_path):
    folder = tiny.save(tmp_path / "tiny")
    listed = json.loads((folder / "card.json").read_text())["files"]
    assert listed == checksums.listing(folder) and len(listed) > 1


def test_a_large_file_is_hashed_as_any_other(tmp_path):
    (tmp_path / "x").write_bytes(bytes(3_000_001))
    assert checksums.sha256(tmp_path / "x") == sha256(tmp_path / "x")
