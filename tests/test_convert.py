"""`skipjax convert`: a released file becomes a checkpoint's folder, whole or not at all."""

import dataclasses
import json
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import released_files
import tiny
import torch_writer
from command import refused
from orbax.checkpoint import v1 as ocp

import skipjax
from skipjax import cli, schedules, sharding
from skipjax.weights import cards, checkpoint, checksums, released

pytestmark = pytest.mark.usefixtures("work")


@pytest.fixture(scope="module")
def net():
    return tiny.pretrained(variance="learned_range", schedule="cosine")


@pytest.fixture(scope="module")
def guide():
    return tiny.classifier()


@pytest.fixture(autouse=True)
def shelf(tmp_path, monkeypatch, net, guide):
    """Cards that know the two networks' files."""
    more = {"licence": "CC0 ☺", "published": [{"fid": 2.5}]}
    known = released_files.card(net, **more), released_files.card(guide)
    folder = released_files.shelve(tmp_path / "cards", *known)
    monkeypatch.setattr(cards, "RELEASED", (folder,))
    return folder


@pytest.fixture
def source(tmp_path, net):
    (tmp_path / "weights").mkdir()
    return released_files.write(tmp_path / "weights" / "tiny.pt", net)


def convert(*arguments):
    cli.main(["convert", *map(str, arguments)])


def card_of(folder):
    return json.loads((folder / "card.json").read_text(encoding="utf-8"))


def same(loaded, other):
    assert tiny.card(loaded) == tiny.card(other)
    assert jax.tree.structure(loaded) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, loaded, other)


@pytest.mark.parametrize("suffix", ["pt", pytest.param("safetensors", marks=pytest.mark.slow)])
def test_the_folder_holds_what_the_file_did(work, tmp_path, net, guide, suffix):
    for written in (net, guide):
        path = tmp_path / f"{written.name}.{suffix}"
        released_files.write(path, written)
        convert(path, written.name)
        loaded = skipjax.load(work / written.name)
        assert type(loaded) is type(written)
        same(loaded, written)
        same(loaded, skipjax.load(path))


def test_the_card_is_that_of_the_file_with_checksums(work, source, net):
    convert(source, "out")
    written, digest = card_of(work / "out"), checksums.sha256(source)
    assert written.pop("files") == checksums.listing(work / "out")
    assert written.pop("converted_from") == {"file": "tiny.pt", "sha256": digest}
    assert written == cards.named("tiny") | {"sha256": digest}
    assert written["licence"] == "CC0 ☺" and tiny.card(cards.model(written)) == tiny.card(net)


def test_only_the_folder_is_made(work, source, capsys):
    convert(source, "out")
    assert os.listdir(work) == ["out"]
    assert sorted(os.listdir(work / "out")) == ["card.json", "params"]
    assert sorted(os.listdir(source.parent)) == ["tiny.pt", "tiny.pt.sha256"]
    number = sum(leaf.size for leaf in jax.tree.leaves(tiny.pretrained()))
    said = capsys.readouterr().out
    assert said == f"tiny: {number:,} parameters, float32, 0.00 GB. Saved: out\n"


@pytest.mark.parametrize(
    "dtype",
    ["bfloat16", *(pytest.param(name, marks=pytest.mark.slow) for name in ("float16", "float32"))],
)
def test_weights_are_stored_in_the_dtype_that_is_asked_for(work, source, net, dtype):
    convert(source, "out", "--dtype", dtype)
    stored = jax.tree.leaves(ocp.metadata(str(work / "out" / "params")).metadata)
    assert {leaf.dtype for leaf in stored} == {jnp.dtype(dtype)}
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(np.float32), net)
    same(skipjax.load("out"), rounded)
    same(skipjax.load("out", dtype=dtype), skipjax.load(source, dtype=dtype))


def test_a_folder_is_read_in_parts(source, net):
    convert(source, "out", "--dtype", "bfloat16")
    mesh = sharding.mesh(data=2, model=4)
    loaded = skipjax.load("out", sharding=mesh, dtype="bfloat16")
    same(loaded, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), net))
    for leaf in jax.tree.leaves(loaded):
        assert leaf.sharding == sharding.split(mesh, leaf.shape)


def test_a_card_is_told_by_its_name(work, source, net):
    mine = source.rename(source.with_name("mine.pt"))
    convert(mine, "out", "--card", "tiny")
    same(skipjax.load("out"), net)
    assert card_of(work / "out")["converted_from"]["file"] == "mine.pt"


def test_a_converted_folder_can_be_moved(work, source, net):
    convert(source, "out")
    (work / "out").rename(work / "moved")
    same(skipjax.load("moved"), net)


def test_the_function_gives_the_card_as_written(work, source):
    written = released.convert(source, work / "out", None, jnp.float32)
    assert written == {k: v for k, v in card_of(work / "out").items() if k != "files"}


def test_a_folder_that_is_there_is_left_alone(work, source, capsys):
    (work / "out").mkdir()
    (work / "out" / "notes").write_text("mine")
    (work / "file").write_text("mine")
    for name in ("out", "file", "."):
        said = refused(["convert", source, name], capsys)
        assert f"{name} is there already: name a folder that is not" in said
    assert not source.with_name("tiny.pt.sha256").exists()


def test_a_missing_parent_is_named(source, capsys):
    said = refused(["convert", source, "nowhere/out"], capsys)
    assert "nowhere/out: the folder nowhere is not there; make it first" in said


def test_a_missing_file_is_named(capsys, subtests):
    for file in ("missing.pt", "tiny.pt", ".", "tiny"):
        with subtests.test(file):
            said = refused(["convert", file, "out"], capsys)
            assert said.startswith(
                f"skipjax: {file} is not a file: give a .pt, .safetensors or .pkl"
            )


def test_a_file_that_no_card_knows_needs_one(source, capsys):
    mine = source.rename(source.with_name("mine.pt"))
    said = refused(["convert", mine, "out"], capsys)
    assert f"{mine}: no card knows a file of this name" in said and "tiny_classifier" in said
    said = refused(["convert", mine, "out", "--card", "tinny"], capsys)
    assert "card is 'tinny'" in said and "one of tiny, tiny_classifier" in said


def test_a_card_of_another_network_does_not_fit(source, capsys):
    said = refused(["convert", source, "out", "--card", "tiny_classifier"], capsys, 24)
    assert "the state dict is a U-Net's, the config a classifier's" in said


def test_a_damaged_file_is_not_converted(source, capsys):
    skipjax.load(source)
    released_files.damaged(source)
    assert "not the one that was loaded first" in refused(["convert", source, "out"], capsys)
    source.with_name("tiny.pt.sha256").unlink()
    assert "the file is damaged" in refused(["convert", source, "out"], capsys)


def test_weights_that_are_not_finite_are_not_converted(source, net, capsys):
    broken = jax.tree.map(np.copy, net)
    broken.params["out_2"]["bias"][0] = 1e6
    released_files.write(source, broken)
    said = refused(["convert", source, "out", "--dtype", "float16"], capsys)
    assert "weights are NaN or infinite in out_2.bias" in said


def fail_with(error):
    """Saving that ends in the middle."""

    def save(path, tree):
        path.mkdir()
        (path / "half").write_bytes(b"half")
        raise error

    return save


def test_a_failure_in_the_middle_leaves_nothing(work, source, capsys, monkeypatch, subtests):
    for error, code, message in [
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (ValueError("no room"), 2, "no room"),
        (KeyboardInterrupt(), 130, "interrupted, nothing was saved"),
    ]:
        with subtests.test(error):
            monkeypatch.setattr(checkpoint, "save", fail_with(error))
            with pytest.raises(SystemExit) as end:
                convert(source, "out")
            assert end.value.code == code and not os.listdir(work)
            said = capsys.readouterr()
            assert message in said.err and said.err.count("\n") == 1 and not said.out


@pytest.mark.parametrize("where", [(checksums, "listing"), (released, "load")])
def test_a_function_that_fails_leaves_nothing(work, source, monkeypatch, where, subtests):
    for error in (KeyboardInterrupt, RuntimeError, MemoryError):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(*where, fail)
        with subtests.test(error):
            with pytest.raises(error):
                released.convert(source, work / "out", None, jnp.float32)
            assert not os.listdir(work)


def test_what_failed_once_can_be_done_again(work, source, net, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", fail_with(RuntimeError()))
        with pytest.raises(RuntimeError):
            released.convert(source, work / "out", None, jnp.float32)
    convert(source, "out")
    same(skipjax.load("out"), net)


def test_a_bit_flipped_after_converting_is_found(work, source):
    convert(source, "out")
    path = tiny.flip_a_bit(work / "out")
    with pytest.raises(ValueError, match=f"sha256 of {path}"):
        skipjax.load(work / "out")


def test_options_that_are_none_end_with_exit_code_2(source, capsys, subtests):
    for flag in ("--dtype", "--out-of"):
        with subtests.test(flag):
            with pytest.raises(SystemExit) as end:
                convert(source, "out", flag, "float8")
            assert end.value.code == 2 and not os.listdir()
            assert "Traceback" not in capsys.readouterr().err


def test_a_card_in_a_file_will_do(work, source, net):
    process = net.process.replace(schedule=schedules.linear(50))
    mine = dataclasses.replace(net, name="mine", process=process)
    (work / "mine.json").write_text(json.dumps(released_files.card(mine)))
    convert(source, "out", "--card", "mine.json")
    same(skipjax.load("out"), mine)
    same(skipjax.load(source, card="mine.json"), mine)


def test_weights_one_key_away_are_taken_and_said_in_a_line(work, source, net, capsys):
    ours = {name: torch_writer.tensor(a) for name, a in released_files.arrays(net).items()}
    torch_writer.save(source, {"ema": ours, "model": {**ours}, "step": 3})
    with warnings.catch_warnings(action="default"):
        convert(source, "taken")
    said = capsys.readouterr().err
    assert said.startswith(f"skipjax: {source}: took the weights under 'ema'; ")
    assert said.count("\n") == 1 and "--key takes 'model'" in said
    convert(source, "told", "--key", "model")
    assert not capsys.readouterr().err
    for name in ("taken", "told"):
        same(skipjax.load(work / name), net)
