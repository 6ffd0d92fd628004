"""Weights of attention that are read in the wrong order are found out."""

from dataclasses import replace

import numpy as np
import pytest
import released_files
import tiny
from flax import traverse_util
from reference import CASES, Case, random_params

import skipjax
from skipjax.weights import attention_order


def bundled(name):
    loaded = skipjax.load("emoji32")
    return replace(loaded, name=name)


@pytest.fixture(scope="module")
def emoji():
    return bundled("emoji32")


def marks(params, config):
    flat = traverse_util.flatten_dict(params)
    found = (attention_order.marks(path, np.asarray(leaf), config) for path, leaf in flat.items())
    return {block: shares for each in found for block, shares in each.items()}


def turned(kernel, heads):
    """The same attention in the new order: q, k, v, then heads."""
    channels = len(kernel)
    kernel = kernel.reshape(channels, heads, 3, -1)
    return np.swapaxes(kernel, 1, 2).reshape(channels, 3 * channels)


def test_a_trained_network_is_found_in_its_own_order_in_every_block(emoji):
    found = marks(emoji.params, emoji.network)
    assert len(found) == 7
    assert all(old > 3 * new and old > 0.05 for old, new, _ in found.values())


def test_weights_laid_out_anew_are_found_in_the_new_order(emoji):
    kernel = np.asarray(emoji.params["middle_block_1"]["qkv"]["kernel"])
    for heads in (2, 4):
        old = attention_order.accounted(kernel, heads, new_order=False)
        new = attention_order.accounted(turned(kernel, heads), heads, new_order=True)
        np.testing.assert_allclose(old, new, rtol=1e-5, err_msg=f"{heads} heads")


@pytest.mark.parametrize("new_order", [False, True])
def test_the_order_that_is_said_must_be_the_order_that_is_there(emoji, new_order):
    found = marks(emoji.params, emoji.network)
    if new_order:
        found = {block: (new, old, n) for block, (old, new, n) in found.items()}
    right = replace(emoji.network, use_new_attention_order=new_order)
    attention_order.check(found, right)
    message = f"use_new_attention_order = {not new_order}.*Set it so in config"
    with pytest.raises(ValueError, match=message):
        attention_order.check(found, replace(right, use_new_attention_order=not new_order))


@pytest.mark.parametrize("new_order", [False, True])
def test_nothing_is_said_of_weights_that_bear_no_marks(emoji, new_order):
    random = np.random.default_rng(0)
    config = replace(emoji.network, use_new_attention_order=new_order)
    for spread in (1e-6, 1.0):
        found = {}
        for block, width in {"middle_block_1": 192, "output_blocks_3_1": 128}.items():
            kernel = np.float32(spread * random.normal(size=(width, 3 * width)))
            found |= attention_order.marks((block, "qkv", "kernel"), kernel, config)
        assert len(found) == 2 and max(max(old, new) for old, new, _ in found.values()) < 0.05
        attention_order.check(found, config)


@pytest.mark.parametrize("new_order", [False, True])
def test_nothing_is_said_of_narrow_weights_that_bear_no_marks(emoji, new_order):
    """Of 96 columns, chance alone often accounts for more than `CLEAR`."""
    random = np.random.default_rng(0)
    config = replace(emoji.network, use_new_attention_order=new_order, num_head_channels=8)
    shares = []
    for _ in range(1000):
        kernel = random.normal(size=(32, 96)).astype(np.float32)
        found = attention_order.marks(("middle_block_1", "qkv", "kernel"), kernel, config)
        shares += [max(old, new) for old, new, _ in found.values()]
        attention_order.check(found, config)
    assert np.mean(np.array(shares) > attention_order.CLEAR) > 0.1


def test_chance_is_what_random_weights_do():
    random = np.random.default_rng(0)
    chances = []
    for _ in range(2000):
        kernels = {b: random.normal(size=(16, 3 * c)) for b, c in {"a": 16, "b": 32}.items()}
        accounted = {
            b: (attention_order.accounted(k, 4, True), k.shape[1]) for b, k in kernels.items()
        }
        chances.append(attention_order.chance(accounted))
    for level in (0.5, 0.1, 0.02):
        assert np.mean(np.array(chances) < level) == pytest.approx(level, rel=0.3)


def test_a_narrow_network_without_marks_loads_as_a_file(goldens, tmp_path):
    case = Case(goldens / CASES["classifier_g"])
    path = released_files.write_arrays(tmp_path / "g.pt", case.state_dict)
    assert skipjax.load(path, config=case.config).network == case.config


def test_one_head_has_one_order(emoji):
    config = replace(emoji.network, num_head_channels=-1, num_heads=1)
    assert not marks(emoji.params, config)
    attention_order.check({}, config)


def marked(name):
    """A network of four heads, whose values are smaller than queries and keys."""
    unet = replace(tiny.config(), num_heads=4)
    params = random_params(unet)
    kernel = params["middle_block_1"]["qkv"]["kernel"]
    kernel.reshape(len(kernel), 4, 3, -1)[:, :, 2] /= 8
    return tiny.model(unet, name, params, variance="learned_range")


@pytest.mark.parametrize("loaded", [marked, pytest.param(bundled, marks=pytest.mark.slow)])
def test_a_file_in_the_wrong_order_is_refused(loaded, tmp_path):
    net = loaded("mine")
    path = released_files.write(tmp_path / "mine.safetensors", net)
    known = replace(net, params=None)
    assert tiny.card(skipjax.load(path, config=known)) == tiny.card(net)
    wrong = replace(known, network=replace(net.network, use_new_attention_order=True))
    with pytest.raises(ValueError, match="mine.safetensors: q, k and v of attention seem to be"):
        skipjax.load(path, config=wrong)
