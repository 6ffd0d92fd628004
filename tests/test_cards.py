"""Checkpoints on disk: what is saved is loaded, and damage is found before it is sampled from."""

import json
import math
import re
import shutil

import jax
import numpy as np
import pytest
import tiny
from orbax.checkpoint import v1 as ocp

import skipjax
from skipjax.weights import cards, checksums, folders


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def folder(pristine, tmp_path):
    """A checkpoint to damage."""
    return shutil.copytree(pristine, tmp_path / "tiny")


def edit(folder, **changes):
    card = json.loads((folder / "card.json").read_text())
    card |= changes
    left = {name: value for name, value in card.items() if value is not None}
    (folder / "card.json").write_text(json.dumps(left))


def refused(folder, match):
    with pytest.raises(ValueError, match=match) as caught:
        skipjax.load(folder)
    return str(caught.value)


def test_what_is_saved_is_loaded(pristine):
    loaded, saved = skipjax.load(pristine), tiny.pretrained()
    assert loaded.spec == saved.spec
    assert loaded.shape == (8, 8, 3) and loaded.schedule.T == 1000
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    # The weights of the tiny network are half precision numbers.
    jax.tree.map(np.testing.assert_array_equal, loaded, saved)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype("float32")}


@pytest.mark.parametrize(("dtype", "within"), [(np.float16, 2**-11), (np.float32, 0)])
def test_weights_keep_the_precision_they_are_stored_with(tmp_path, dtype, within):
    params = tiny.pretrained()
    uneven = jax.tree.map(lambda leaf: leaf * np.float32(1.0001), params.params)
    folders.save(tmp_path, uneven, tiny.card(params), dtype)

    def close(stored, exact):
        assert (np.abs(stored - exact) <= np.abs(exact) * within + (within and 2.0**-25)).all()

    loaded = folders.load(tmp_path).params
    jax.tree.map(close, loaded, uneven)
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(np.float32), uneven)
    jax.tree.map(np.testing.assert_array_equal, loaded, rounded)


BETAS = np.linspace(1e-4, 0.02, 1000).tolist()


@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param("sigmoid", marks=pytest.mark.slow),
        pytest.param("rectified_flow", marks=pytest.mark.slow),
        pytest.param(BETAS, id="own"),
    ],
)
def test_any_schedule_and_prediction_is_written_and_read(folder, schedule):
    edit(folder, schedule=schedule, prediction="velocity")
    loaded = skipjax.load(folder)
    wanted = tiny.pretrained(schedule=schedule, prediction="velocity")
    assert loaded.spec == wanted.spec and hash(loaded.spec) == hash(wanted.spec)
    np.testing.assert_array_equal(loaded.schedule.alpha, wanted.schedule.alpha)
    said = {"schedule": loaded.spec.schedule, "prediction": loaded.spec.prediction}
    shutil.rmtree(folder)
    folders.save(folder, loaded.params, tiny.card(loaded) | said, np.float16)
    assert skipjax.load(folder).spec == loaded.spec


def test_a_card_keeps_what_its_makers_know(tmp_path):
    params = tiny.pretrained()
    folders.save(tmp_path, params.params, tiny.card(params) | {"licence": "CC0 ☺"}, np.float16)
    assert cards.read(tmp_path / "card.json")["licence"] == "CC0 ☺"


def test_one_flipped_bit_is_found_and_its_file_named(folder):
    path = tiny.flip_a_bit(folder)
    message = refused(folder, "sha256 of .* card.json says .* damaged: fetch or install it again")
    assert str(path) in message and "\n" not in message


def test_a_missing_file_is_named(folder):
    lost = next(path for path in (folder / "params").rglob("*") if path.is_file())
    lost.unlink()
    assert str(lost) in refused(folder, "is missing: the checkpoint is damaged")


def test_a_file_that_the_card_does_not_list_is_named(folder):
    (folder / "params" / "x").write_text("")
    assert str(folder / "params" / "x") in refused(folder, "is not listed in card.json")


def test_a_card_without_checksums_vouches_for_nothing(folder):
    edit(folder, files=None)
    refused(folder, "is not listed in card.json")


def test_a_card_must_be_json(folder, subtests):
    for content in (b"", b"{", b"[1,", b'{"name": "\xff"}'):
        with subtests.test(content):
            (folder / "card.json").write_bytes(content)
            refused(folder, r"card\.json is not JSON")


def test_a_card_must_describe_a_network(folder, subtests):
    none = "the card does not describe a network"
    whole = (folder / "card.json").read_text()
    for changes, match in [
        ({"unet": None}, f"{none}: 'unet'"),
        ({"unet": {}}, f"{none}: .*missing.*'image_size'"),
        ({"unet": 3}, none),
        ({"name": None}, f"{none}: .*'name'"),
        ({"schedule": "square"}, "schedule is 'square': it must be one of linear"),
        ({"schedule": BETAS[1:]}, "schedule has 999 betas, and T is 1000: they must be as many"),
        ({"schedule": BETAS, "T": 999}, "schedule has 1000 betas, and T is 999"),
        ({"schedule": {"beta": 1}}, "schedule is .*: it must be one of linear"),
        ({"schedule": "rectified_flow", "prediction": "v"}, "'v', which the schedule 'rectified_"),
        ({"prediction": "noise"}, "prediction is 'noise': it must be one of eps, x_0, v, score"),
        ({"class_names": ["cat"]}, "1 class names for num_classes = 3"),
    ]:
        with subtests.test(match):
            (folder / "card.json").write_text(whole)
            edit(folder, **changes)
            refused(folder, match)


def test_a_card_must_be_an_object(folder, subtests):
    for text in ("5", "null", "[]", '"tiny"'):
        with subtests.test(text):
            (folder / "card.json").write_text(text)
            refused(folder, r"card\.json is not a JSON object, but a ")


def test_a_card_of_another_network_does_not_fit_the_weights(folder, subtests):
    unet = json.loads((folder / "card.json").read_text())["unet"]
    for changes, match in [
        ({"out_channels": 3}, r"out_2\.bias is \(6,\), wanted \(3,\); out_2\.kernel is [^;]*$"),
        ({"model_channels": 64}, r"; and \d+ more$"),
        ({"num_classes": 4}, r"network: label_emb\.embedding is \(3, 128\), wanted \(4, 128\)$"),
        ({"num_classes": None}, r"label_emb\.embedding is \(3, 128\), wanted none$"),
        ({"num_res_blocks": 2}, r"input_blocks_2_0\.\S+ is missing, wanted \(64,\); .* more$"),
    ]:
        with subtests.test(changes):
            edit(folder, unet=unet | changes, class_names=None)
            assert "\n" not in refused(folder, match)


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, subtests):
    for bad in (np.nan, np.inf):
        params = tiny.pretrained()
        params.params["out_2"]["bias"][2] = bad
        folder = tmp_path / str(bad)
        folder.mkdir()
        folders.save(folder, params.params, tiny.card(params), np.float16)
        with subtests.test(bad):
            refused(folder, r"weights are NaN or infinite in out_2\.bias$")


def test_weights_too_large_for_half_precision_are_refused(tmp_path):
    params = tiny.pretrained()
    params.params["out_2"]["bias"][2] = 1e6
    with np.errstate(over="ignore"):
        folders.save(tmp_path, params.params, tiny.card(params), np.float16)
    refused(tmp_path, r"weights are NaN or infinite in out_2\.bias$")


def test_many_bad_weights_are_counted(tmp_path):
    params = tiny.pretrained()
    broken = jax.tree.map(lambda leaf: leaf * np.nan, params.params)
    folders.save(tmp_path, broken, tiny.card(params), np.float16)
    num = len(jax.tree.leaves(broken))
    assert "\n" not in refused(tmp_path, rf"(\S+, ){{2}}\S+ and {num - 3} more$")


def test_an_unknown_checkpoint_says_which_there_are(tmp_path):
    message = refused("emoji64", "'emoji64' is not a bundled name, a folder or a file")
    assert "bundled are: " + ", ".join(cards.bundled()) in message
    refused(tmp_path, "has no card.json; bundled are: ")


def test_a_folder_goes_by_its_path_as_text_too(pristine):
    assert skipjax.load(str(pristine)).spec.name == "tiny"


def test_a_folder_goes_by_a_relative_path(pristine, monkeypatch):
    monkeypatch.chdir(pristine.parent)
    assert skipjax.load("tiny").spec.name == "tiny"


def test_emoji32_is_bundled_and_as_its_card_says():
    assert "emoji32" in cards.bundled()
    folder = cards.find("emoji32")
    card = cards.read(folder / "card.json")
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in card["files"].values())
    checksums.verify(folder, card["files"])
    spec = cards.spec(card)
    assert (spec.name, spec.schedule, spec.T) == ("emoji32", "linear", 1000)
    assert spec.prediction == "v"
    assert (spec.unet.image_size, spec.unet.in_channels, spec.unet.out_channels) == (32, 3, 6)
    assert len(set(spec.class_names)) == spec.unet.num_classes == 9
    assert spec.class_names[0] == "Smileys & Emotion" and spec.class_names[-1] == "Flags"
    assert {"data", "licence", "training", "measured"} <= set(card)


def test_emoji32_is_small():
    folder = cards.find("emoji32")
    weights = jax.tree.leaves(ocp.metadata(str(folder / "params")).metadata)
    assert sum(math.prod(leaf.shape) for leaf in weights) <= 8_000_000
    files = (path for path in folder.rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in files) <= 16_000_000
