"""Released files that are damaged, or not what they are said to be: refused, with what to do."""

import dataclasses
import re
from itertools import product

import jax
import numpy as np
import pytest
import released_files
import tiny
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

import skipjax
from skipjax import sharding
from skipjax.models import UNetConfig
from skipjax.weights import cards, registry

KEY = jax.random.key(0)
DEVICE = SingleDeviceSharding(jax.local_devices()[0])
each_suffix = pytest.mark.parametrize("suffix", ["pt", "safetensors"])


@pytest.fixture(scope="module")
def net():
    return tiny.pretrained(variance="learned_range")


@pytest.fixture(scope="module")
def guide():
    return tiny.classifier()


@pytest.fixture(autouse=True)
def shelf(tmp_path, monkeypatch, net, guide):
    """Cards that know the two networks' files."""
    known = released_files.card(net), released_files.card(guide)
    monkeypatch.setattr(cards, "RELEASED", (released_files.shelve(tmp_path / "cards", *known),))


@pytest.fixture
def path(tmp_path, net):
    return released_files.write(tmp_path / "tiny.pt", net)


@pytest.fixture
def unknown(tmp_path, net):
    """A file of a name that no card has."""
    return released_files.write(tmp_path / "mine.pt", net)


def refused(message, checkpoint, lines=1, **options):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        skipjax.load(checkpoint, **options)
    said = str(caught.value)
    assert len(said.splitlines()) <= lines
    return said


def test_weights_are_kept_in_floats_that_networks_take(path, subtests):
    for dtype in ("float64", "int8", "uint16", "float8_e4m3fn", bool, None):
        with subtests.test(dtype):
            message = refused("it must be float32, bfloat16 or float16", path, dtype=dtype)
            assert message.startswith("dtype is ")


def test_a_file_of_unknown_name_needs_to_be_described(unknown):
    said = refused("no card knows a file of this name", unknown)
    assert str(unknown) in said and "tiny, tiny_classifier" in said and "config=" in said


def test_a_file_is_described_once(net, path):
    refused("card and config both say what the file holds", path, card="tiny", config=net.network)


def test_a_card_goes_by_its_name(path, subtests):
    for card in ("tinny", "", "../cards/tiny", "tiny.pt", "missing.json"):
        with subtests.test(card):
            said = refused(f"card is {card!r}: it must be ", path, card=card)
            assert "one of tiny, tiny_classifier" in said


def test_a_config_is_one(path, unknown, subtests):
    known = ", ".join(network.__name__ for network in registry.MODELS)
    for file in (path, unknown):
        for config in (3, "tiny", {"image_size": 8}, UNetConfig, object()):
            with subtests.test(file=file.name, config=config):
                words = f"it must be a {known}, or a Pretrained or"
                said = refused(words, file, config=config)
                assert said.startswith(f"config is a {type(config).__name__}:")


def test_only_a_file_is_described(tmp_path, net):
    for options in ({"card": "tiny"}, {"config": net.network}):
        for checkpoint in ("emoji32", tmp_path, tmp_path / "missing.pt"):
            refused("is not a file: card, config and key say what a .pt", checkpoint, **options)


def test_a_missing_file_that_a_card_knows_is_said_to_be_fetched(tmp_path, monkeypatch, subtests):
    monkeypatch.chdir(tmp_path)
    fetch = "does not come with the package: fetch https://example.org/tiny"
    for checkpoint in ("tiny", "tiny.pt", "nowhere/tiny.pt", "tiny.safetensors"):
        with subtests.test(checkpoint):
            said = refused(fetch, checkpoint)
            assert said.startswith(f"'{checkpoint}'") and "give the path of the file" in said


def test_a_missing_file_that_no_card_knows_is_not(tmp_path):
    refused("is not a bundled name, a folder or a file", tmp_path / "missing.pt")


def test_a_wrong_number_of_classes_is_told(net, unknown):
    wrong = dataclasses.replace(net.network, num_classes=4)
    refused("the file has 3 classes, the config num_classes = 4", unknown, 3, config=wrong)
    wrong = dataclasses.replace(net.network, num_classes=None)
    refused("the file has 3 classes, the config num_classes = None", unknown, 3, config=wrong)


def test_a_classifier_is_no_network_nor_the_other_way_round(tmp_path, net, guide):
    other = released_files.write(tmp_path / "tiny.pt", guide)
    for how in ({}, {"card": "tiny"}, {"config": net.network}):
        said = refused("the state dict is a classifier's, the config a U-Net's", other, 24, **how)
        assert said.startswith(f"{other}: ")
    other = released_files.write(tmp_path / "tiny_classifier.pt", net)
    for how in ({}, {"card": "tiny_classifier"}, {"config": guide.network}):
        refused("the state dict is a U-Net's, the config a classifier's", other, 24, **how)


def test_sample_takes_each_in_its_place(tmp_path, net, guide):
    path = released_files.write(tmp_path / "tiny_classifier.pt", guide)
    loaded = skipjax.load(path)
    with pytest.raises(TypeError, match="params is tiny_classifier, a classifier, which draws"):
        skipjax.sample(loaded, KEY)
    loaded = skipjax.load(released_files.write(tmp_path / "tiny.pt", net))
    with pytest.raises(TypeError, match="classifier is tiny, a network that denoises"):
        skipjax.sample(loaded, KEY, classifier=loaded)


@pytest.mark.parametrize("whole", [False, True])
def test_the_order_of_attention_is_that_of_the_card(tmp_path, net, guide, path, whole):
    """Which nothing else tells: a network with one head looks the same in both."""
    other = released_files.write(tmp_path / "tiny_classifier.pt", guide)
    for file, loaded in ((path, net), (other, guide)):
        known = loaded.network
        turned = dataclasses.replace(known, use_new_attention_order=True)
        spec = dataclasses.replace(loaded, params=None, network=turned)
        message = "config says use_new_attention_order = True, the card of "
        said = refused(message, file, config=spec if whole else turned)
        assert f"{loaded.name} says False" in said and "samples noise" in said
        assert skipjax.load(file, config=known).params.keys() == loaded.params.keys()


LEAVES = {"out.2.bias": "out_2.bias", "middle_block.1.qkv.weight": "middle_block_1.qkv.kernel"}


@each_suffix
def test_weights_that_are_not_finite_are_named(tmp_path, net, suffix, subtests):
    config = dataclasses.replace(net.network, num_heads=2)
    for i, (name, bad) in enumerate(product(LEAVES, (np.nan, np.inf, -np.inf))):
        arrays = {key: array.copy() for key, array in released_files.arrays(net).items()}
        arrays[name].flat[1] = bad
        path = released_files.write_arrays(tmp_path / f"mine{i}.{suffix}", arrays)
        with subtests.test(name=name, bad=bad):
            said = f"{path}: weights are NaN or infinite in {LEAVES[name]}"
            refused(said, path, config=config)


def test_weights_too_large_for_the_dtype_are_named(tmp_path, net, subtests):
    large = ("float32", 1e6, "float16"), ("float32", 3.4e38, "bfloat16")
    for stored, value, dtype in (*large, ("float64", 1e300, "float32")):
        arrays = {key: array.copy() for key, array in released_files.arrays(net, stored).items()}
        arrays["out.2.bias"][1] = value
        path = released_files.write_arrays(tmp_path / "tiny.pt", arrays)
        with subtests.test(dtype):
            refused(f"{path}: weights are NaN or infinite in out_2.bias", path, dtype=dtype)


def test_weights_are_real_numbers(tmp_path, net, subtests):
    for kind in (np.complex64, np.int32):
        arrays = released_files.arrays(net)
        arrays["out.2.bias"] = arrays["out.2.bias"].astype(kind)
        path = released_files.write_arrays(tmp_path / "tiny.pt", arrays)
        with subtests.test(kind):
            refused(f"out_2.bias is {np.dtype(kind)}: weights are real numbers", path)


def test_several_bad_weights_are_counted(tmp_path, net):
    arrays = {
        name: array * np.float32(np.nan) for name, array in released_files.arrays(net).items()
    }
    path = released_files.write_arrays(tmp_path / "tiny.pt", arrays)
    said = refused("weights are NaN or infinite in ", path)
    assert re.search(rf"(\S+, ){{2}}\S+ and {len(arrays) - 3} more$", said)


def test_a_flipped_bit_is_found(path):
    said = refused("the file is damaged or cut short: download", released_files.damaged(path))
    assert said.startswith(f"{path}: ")


@each_suffix
def test_a_file_that_is_cut_short_is_refused(tmp_path, net, suffix, subtests):
    path = released_files.write(tmp_path / f"tiny.{suffix}", net)
    content = path.read_bytes()
    for part in (0.0, 0.3, 0.999):
        with subtests.test(part):
            path.write_bytes(content[: int(part * len(content))])
            refused(f"{path}: ", path)


def test_a_web_page_in_place_of_the_file_is_told(path, subtests):
    for head in (b"<!DOCTYPE html>", b"\n<html>", b'<?xml version="1.0"?>'):
        with subtests.test(head):
            path.write_bytes(head + b"<p>404</p>" * 200)
            refused(f"{path}: is a web page, so the download failed", path)


def test_a_web_page_is_no_safetensors_either(tmp_path):
    (tmp_path / "tiny.safetensors").write_bytes(b"<!DOCTYPE html>" * 20)
    refused("is a web page, so the download failed", tmp_path / "tiny.safetensors")


def test_shardings_must_fit(path, subtests):
    structure = "sharding does not have the structure of the weights"
    uneven = NamedSharding(sharding.mesh(), PartitionSpec("data"))
    for name, placed, message in [
        ("a part", {"out_2": DEVICE}, structure),
        ("a list", [DEVICE], structure),
        (
            "nothing",
            lambda shape: None,
            "sharding holds a NoneType: it must be a Sharding, a Mesh",
        ),
        ("text", "cpu", "sharding holds a str: it must be a Sharding, a Mesh"),
        ("uneven", uneven, "should evenly divide the shape"),
    ]:
        with subtests.test(name):
            refused(message, path, 20, sharding=placed)
