"""What Stable Diffusion cannot be asked, and files of it that are not whole: said in words."""

import dataclasses
import shutil

import jax
import numpy as np
import pipelines
import pytest
import tiny
from pipelines import SIZE
from safetensors.numpy import save_file

import skipjax
from skipjax.conditioners import ClipText, part

KEY = jax.random.key(0)
FOX = {"prompt": "a fox", "skip": 500, "num": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pipelines.write(tmp_path_factory.mktemp("pipelines") / "sd1")


@pytest.fixture(scope="module")
def model(folder):
    return skipjax.load(folder)


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"prompt": None}, "draws what it is told in words: give a prompt"),
        ({"label": 3}, "label is given, and sd1 draws what it is told in words"),
        ({"prompt": 3}, "prompt is 3: it must be a text"),
        ({"prompt": ["a", "b"]}, "prompt has 2 entries for 1 samples"),
        ({"negative": "blurry", "guidance": 1.0}, "negative is given without guidance"),
        ({"negative": ["a", "b"], "guidance": 7.5}, "negative has 2 entries for 1 samples"),
        ({"size": (SIZE + 1, SIZE)}, "height and width must be multiples of 2"),
        ({"size": (0, SIZE)}, "size is"),
        ({"clip_skip": 4}, "clip_skip is 4: it must be a whole number in 0 .. 3"),
        ({"clip": True}, "has no bounds"),
        ({"crop": (0, 0)}, "crop is given, and sd1 is told nothing of a picture's size"),
    ],
    ids=str,
)
def test_what_it_cannot_be_asked(asked, said, model):
    with pytest.raises(ValueError, match=said):
        skipjax.sample(model, KEY, **FOX | asked)


def test_networks_of_classes_know_no_words():
    with pytest.raises(ValueError, match="prompt is given, and tiny knows no words but classes"):
        skipjax.sample(tiny.pretrained(), KEY, **FOX)


def test_what_others_call_a_word_is_told(model):
    with pytest.raises(TypeError, match="negative_prompt.*did you mean negative"):
        skipjax.sample(model, KEY, **FOX, guidance=7.5, negative_prompt="blurry")


def test_prompts_need_a_tokenizer(folder, tmp_path, monkeypatch):
    lacking = shutil.copytree(folder, tmp_path / "lacking")
    shutil.rmtree(lacking / "tokenizer")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))  # where one would be found
    with pytest.warns(UserWarning, match="prompts need load\\(..., tokenizer=FOLDER"):
        loaded = skipjax.load(lacking)
    with pytest.raises(ValueError, match="came without a tokenizer: load it with tokenizer="):
        skipjax.sample(loaded, KEY, **FOX)


def test_a_lora_of_another_family_is_refused(folder, tmp_path):
    file, key = tmp_path / "xl.safetensors", "lora_unet_mid_block_attentions_0_proj_in"
    down, up = np.zeros((2, 100, 1, 1), np.float32), np.zeros((100, 2, 1, 1), np.float32)
    save_file({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}, file)
    with pytest.raises(ValueError, match="xl.safetensors: .* it is made for another network"):
        skipjax.load(folder, loras={file: 1.0})


def test_prompts_too_long_are_cut_and_it_is_said(model):
    words = part(model.conditioner, ClipText)
    with pytest.warns(UserWarning, match="has 90 tokens, of which 75 are read"):
        cut = words.encode({"prompt": "fox " * 90}, KEY, np.arange(1))["text"]
    long = dataclasses.replace(words, long=True)
    whole = long.encode({"prompt": "fox " * 90}, KEY, np.arange(1))["text"]
    assert cut.shape == (1, 77, 32) and whole.shape == (1, 154, 32)
    np.testing.assert_allclose(cut, whole[:, :77], rtol=0, atol=1e-5)
