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
from skipjax.process import called
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
    assert tiny.card(loaded) == tiny.card(saved)
    assert loaded.shape == (8, 8, 3) and loaded.schedule.T == 1000
    assert loaded.source == str(pristine)
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    # The weights of the tiny network are half precision numbers.
    jax.tree.map(np.testing.assert_array_equal, loaded.params, saved.params)
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
    edit(folder, process={"schedule": schedule, "parameterization": "velocity"})
    loaded = skipjax.load(folder)
    wanted = tiny.pretrained(schedule=schedule, prediction="velocity")
    assert loaded.process == wanted.process and hash(loaded.process) == hash(wanted.process)
    np.testing.assert_array_equal(loaded.schedule.alpha, wanted.schedule.alpha)
    shutil.rmtree(folder)
    folders.save(folder, loaded.params, tiny.card(loaded), np.float16)
    assert tiny.card(skipjax.load(folder)) == tiny.card(loaded)


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
    path = folder / "card.json"
    whole = json.loads(path.read_text())
    for part, changes, match in [
        ("network", None, "the card describes no network: it lacks 'network'"),
        ("network", 3, "network is 3: it must be an object with a kind"),
        ("network", {"kind": "unit"}, "network: kind is 'unit', did you mean unet?"),
        ("network", {"kind": "unet"}, "network lacks image_size, in_channels, model_channels"),
        ("network", {"image_size": "8"}, "image_size is '8', a str: it must be a whole number or"),
        ("network", {"image_size": 8.0}, "image_size is 8.0, a float: it must be a whole number"),
        (
            "network",
            {"model_channels": True},
            "model_channels is True, a bool: it must be a whole",
        ),
        (
            "network",
            {"attention_resolutions": "32,16,8"},
            "is '32,16,8', a str: it must be a list",
        ),
        ("network", {"channel_mult": "1,2"}, "channel_mult is '1,2', a str: it must be a list of"),
        (
            "network",
            {"channel_mult": [1, "2"]},
            "channel_mult is .*, a list: it must be a list of",
        ),
        ("network", {"num_classes": "7"}, "num_classes is '7', a str: it must be a whole number"),
        ("network", {"dropout": "0"}, "dropout is '0', a str: it must be a number"),
        ("network", {"conv_resample": 1}, "conv_resample is 1, a int: it must be true or false"),
        ("network", {"num_head": 1}, "num_head is no field, did you mean num_heads?"),
        ("network", {"model_channels": 33}, "network: level 0 has 33 channels"),
        ("process", 3, "process is 3: it must be an object"),
        ("process", {"T": "1000"}, "T is '1000': it must be a whole number of at least 1"),
        ("process", {"T": 1000.0}, "T is 1000.0: it must be a whole number of at least 1"),
        ("process", {"T": True}, "T is True: it must be a whole number"),
        ("process", {"schedul": "linear"}, "schedul is no field"),
        ("process", {"schedule": "square"}, "schedule is 'square': it must be one of linear"),
        ("process", {"schedule": BETAS[1:]}, "schedule has 999 betas, and T is 1000: they must"),
        ("process", {"schedule": BETAS, "T": 999}, "schedule has 1000 betas, and T is 999"),
        ("process", {"schedule": {"beta": 1}}, "schedule holds no alpha and sigma"),
        (
            "process",
            {"schedule": "rectified_flow", "parameterization": "v"},
            "is 'v', which the",
        ),
        ("process", {"parameterization": "noise"}, "is 'noise': it must be one of eps, x_0, v"),
        ("process", {"variance": "learned", "bounds": 1}, "bounds is 1, a int: it must be a list"),
        ("process", {"precondition": {"kind": "time"}}, "kind is 'time', did you mean times?"),
        ("process", {"precondition": {"kind": "times", "scale": "4"}}, "scale is '4', a str"),
        ("conditioner", {"class_names": ["cat"]}, "1 class names for 3 classes"),
        ("conditioner", {"num_classes": 4}, "conditioner: 3 class names for 4 classes"),
        ("conditioner", {"null": 1}, "null is no field, did you mean null_label?"),
        ("conditioner", None, "conditioner gives nothing, and the network takes label"),
        ("codec", {"kind": "vae"}, "codec: kind is 'vae'"),
    ]:
        with subtests.test(part=part, changes=changes):
            card = {**whole, part: changes}
            if isinstance(changes, dict) and "kind" not in changes:
                card[part] = {**whole[part], **changes}
            path.write_text(json.dumps({k: v for k, v in card.items() if v is not None}))
            assert "\n" not in refused(folder, match)


def test_cards_of_before_there_were_parts_are_read(folder, subtests):
    """The architecture, and what is known of it, side by side."""
    path, parted = folder / "card.json", skipjax.load(folder)
    card = json.loads(path.read_text())
    flat = {"name": "tiny", "files": card["files"], "class_names": ["cat", "cow", "dog"]}
    flat["unet"] = {k: v for k, v in card["network"].items() if k != "kind"}
    path.write_text(json.dumps(flat))
    assert tiny.card(skipjax.load(folder)) == tiny.card(parted)
    known = {"schedule": "cosine", "T": 4000, "prediction": "x_0", "rescale_timesteps": True}
    path.write_text(json.dumps(flat | known | {"variance": "large"}))
    wanted = tiny.pretrained(
        schedule="cosine", T=4000, prediction="x_0", rescale_timesteps=True, variance="large"
    )
    assert skipjax.load(folder).process == wanted.process
    for change, match in (
        ({"unet": 3}, "network is 3: it must be an object"),
        ({"T": "1000"}, "T is '1000': it must be a whole number"),
        ({"prediction": "noise"}, "is 'noise': it must be one of eps, x_0, v"),
    ):
        with subtests.test(**change):
            path.write_text(json.dumps(flat | change))
            refused(folder, match)


def test_a_card_must_be_an_object(folder, subtests):
    for text in ("5", "null", "[]", '"tiny"'):
        with subtests.test(text):
            (folder / "card.json").write_text(text)
            refused(folder, r"card\.json is not a JSON object, but a ")


@pytest.mark.slow
def test_a_card_of_another_network_does_not_fit_the_weights(folder, subtests):
    card = json.loads((folder / "card.json").read_text())
    for changes, match in [
        ({"out_channels": 3}, r"out_2\.bias is \(6,\), wanted \(3,\); out_2\.kernel is [^;]*$"),
        ({"model_channels": 64}, r"; and \d+ more$"),
        ({"num_classes": 4}, r"network: label_emb\.embedding is \(3, 128\), wanted \(4, 128\)$"),
        ({"num_classes": None}, r"label_emb\.embedding is \(3, 128\), wanted none$"),
        ({"num_res_blocks": 2}, r"input_blocks_2_0\.\S+ is missing, wanted \(64,\); .* more$"),
    ]:
        with subtests.test(changes):
            labels = {"kind": "labels", "num_classes": changes.get("num_classes", 3)}
            told = labels if labels["num_classes"] else None
            edit(folder, network=card["network"] | changes, conditioner=told)
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
    assert skipjax.load(str(pristine)).name == "tiny"


def test_a_folder_goes_by_a_relative_path(pristine, monkeypatch):
    monkeypatch.chdir(pristine.parent)
    assert skipjax.load("tiny").name == "tiny"


def test_emoji32_is_bundled_and_as_its_card_says():
    assert "emoji32" in cards.bundled()
    folder = cards.find("emoji32")
    card = cards.read(folder / "card.json")
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in card["files"].values())
    checksums.verify(folder, card["files"])
    model = cards.model(card)
    assert model.name == "emoji32" and called(model.schedule) == "linear, T = 1000"
    assert model.process.parameterization == "v" and model.process.bounds == (-1, 1)
    assert model.shape == (32, 32, 3) and model.network.out_channels == 6
    names = model.labels.class_names
    assert len(set(names)) == model.network.num_classes == 9
    assert names[0] == "Smileys & Emotion" and names[-1] == "Flags"
    assert {"data", "licence", "training", "measured"} <= set(card)


def test_emoji32_is_small():
    folder = cards.find("emoji32")
    weights = jax.tree.leaves(ocp.metadata(str(folder / "params")).metadata)
    assert sum(math.prod(leaf.shape) for leaf in weights) <= 8_000_000
    files = (path for path in folder.rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in files) <= 16_000_000
