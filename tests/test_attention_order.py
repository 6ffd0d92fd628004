"""Weights of attention that are read in the wrong order are found out."""

from dataclasses import replace

import numpy as np
import pytest
import released_files
import tiny
from flax import traverse_util
from reference import random_params

import skipjax
from skipjax.weights import attention_order


def bundled(name):
    loaded = skipjax.load("emoji32")
    return replace(loaded, spec=replace(loaded.spec, name=name))


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
    found = marks(emoji.params, emoji.spec.unet)
    assert len(found) == 7
    assert all(old > 3 * new and old > 0.05 for old, new in found.values())


def test_weights_laid_out_anew_are_found_in_the_new_order(emoji):
    kernel = np.asarray(emoji.params["middle_block_1"]["qkv"]["kernel"])
    for heads in (2, 4):
        old = attention_order.accounted(kernel, heads, new_order=False)
        new = attention_order.accounted(turned(kernel, heads), heads, new_order=True)
        np.testing.assert_allclose(old, new, rtol=1e-5, err_msg=f"{heads} heads")


@pytest.mark.parametrize("new_order", [False, True])
def test_the_order_that_is_said_must_be_the_order_that_is_there(emoji, new_order):
    found = marks(emoji.params, emoji.spec.unet)
    if new_order:
        found = {block: shares[::-1] for block, shares in found.items()}
    right = replace(emoji.spec.unet, use_new_attention_order=new_order)
    attention_order.check(found, right)
    message = f"use_new_attention_order = {not new_order}.*Set it so in config"
    with pytest.raises(ValueError, match=message):
        attention_order.check(found, replace(right, use_new_attention_order=not new_order))


@pytest.mark.parametrize("new_order", [False, True])
def test_nothing_is_said_of_weights_that_bear_no_marks(emoji, new_order):
    random = np.random.default_rng(0)
    config = replace(emoji.spec.unet, use_new_attention_order=new_order)
    for spread in (1e-6, 1.0):
        found = {}
        for block, width in {"middle_block_1": 192, "output_blocks_3_1": 128}.items():
            kernel = np.float32(spread * random.normal(size=(width, 3 * width)))
            found |= attention_order.marks((block, "qkv", "kernel"), kernel, config)
        assert len(found) == 2 and np.max(list(found.values())) < 0.05
        attention_order.check(found, config)


def test_one_head_has_one_order(emoji):
    config = replace(emoji.spec.unet, num_head_channels=-1, num_heads=1)
    assert not marks(emoji.params, config)
    attention_order.check({}, config)


def marked(name):
    """A network of four heads, whose values are smaller than queries and keys."""
    unet = replace(tiny.config(), num_heads=4)
    params = random_params(unet)
    kernel = params["middle_block_1"]["qkv"]["kernel"]
    kernel.reshape(len(kernel), 4, 3, -1)[:, :, 2] /= 8
    return skipjax.Pretrained(params, skipjax.Spec(name, unet, variance="learned_range"))


@pytest.mark.parametrize("loaded", [marked, pytest.param(bundled, marks=pytest.mark.slow)])
def test_a_file_in_the_wrong_order_is_refused(loaded, tmp_path):
    net = loaded("mine")
    path = released_files.write(tmp_path / "mine.safetensors", net)
    assert skipjax.load(path, config=net.spec).spec == net.spec
    wrong = replace(net.spec, unet=replace(net.spec.unet, use_new_attention_order=True))
    with pytest.raises(ValueError, match="mine.safetensors: q, k and v of attention seem to be"):
        skipjax.load(path, config=wrong)
