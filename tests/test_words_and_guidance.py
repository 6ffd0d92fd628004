"""What a request makes of models of text: which words they take, and what guides them; before
anything is computed, and without weights."""

import re

import jax
import numpy as np
import pipelines
import pytest

from skipjax import SampleConfig
from skipjax.conditioners import (
    ClipText,
    EmbeddedGuidance,
    Given,
    MicroConditioning,
    part,
)
from skipjax.config import resolve
from skipjax.weights import diffusers

SIZE = pipelines.SIZE


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    def describe(folder, cls, fields):  # weights are not looked at
        said = {"architectures": [cls]} if cls.startswith("CLIP") else {"_class_name": cls}
        pipelines.put(folder / "config.json", said | fields)

    folder = tmp_path_factory.mktemp("pipelines")
    names = ("sd1", "xl", "refiner", "lcm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines, "component", describe)
        return {name: diffusers.describe(pipelines.write(folder / name, name)) for name in names}


def scales(model, **asked):
    return [float(way.scale) for way in resolve(model, SampleConfig(**asked)).guidance]


def refused(model, said, error=ValueError, words=None, **asked):
    with pytest.raises(error, match=re.escape(said)):
        resolve(model, SampleConfig(**asked)).check(words or {})


def test_a_checkpoint_is_guided_as_it_is_used_to(models):
    assert scales(models["sd1"]) == [7.5] and scales(models["xl"]) == [5.0]
    assert scales(models["sd1"], guidance=3.0) == [3.0]
    (way,) = resolve(models["sd1"], SampleConfig(guidance_rescale=0.7)).guidance
    assert float(way.scale) == 7.5 and np.isclose(way.rescale, 0.7)


def test_a_scale_that_guides_nothing_calls_the_network_once(models):
    assert scales(models["sd1"], guidance=1.0) == []
    assert scales(models["sd1"], guidance=0.5) == [0.5]  # towards what is not wanted
    turbo = models["sd1"].replace(guidance=0.0)
    assert scales(turbo) == scales(turbo, guidance=0.0) == scales(turbo, guidance=1.0) == []
    assert scales(turbo, guidance=2.0) == [2.0]
    none = models["sd1"].replace(guidance=None)
    assert scales(none) == []
    refused(none, "guidance_rescale is given without guidance", guidance_rescale=0.7)
    said = "negative is given without guidance: say its scale too, above 1"
    refused(turbo, said, words={"negative": "blurry"})


def test_a_network_may_be_told_the_scale(models):
    model = models["lcm"]

    def told(**asked):
        sampler = resolve(model, SampleConfig(**asked))
        assert sampler.guidance == ()
        found = part(sampler.model.conditioner, EmbeddedGuidance)
        return found.encode({}, jax.random.key(0), np.arange(2))["guidance"].tolist()

    assert told() == [8.5, 8.5] and told(guidance=4) == [4.0, 4.0]
    refused(model, "negative is given, and lcm is told the scale", words={"negative": "blurry"})
    refused(model, "guidance is 'x': it must be one finite number", guidance="x")
    for option in ({"guidance_rescale": 0.7}, {"guidance_interval": (0, 500)}):
        refused(model, f"{next(iter(option))} is given, and lcm is told the scale", **option)


def test_prompts_are_read_as_is_asked(models):
    asked = SampleConfig(clip_skip=1, prompt_weights=True, long_prompts=True)
    for name in ("sd1", "xl"):
        text = part(resolve(models[name], asked).model.conditioner, ClipText)
        assert (text.clip_skip, text.weighted, text.long) == (1, True, True)
        assert resolve(models[name], SampleConfig()).model is models[name]
    refused(models["sd1"], "clip_skip is 9: it must be a whole number in 0 .. ", clip_skip=9)


def test_pictures_are_decoded_as_is_asked(models):
    codec = resolve(models["sd1"], SampleConfig(tiles=16, vae_dtype="bfloat16")).model.codec
    assert (codec.tile, codec.dtype) == (16, "bfloat16")
    refused(models["sd1"], "tile is 1: it must be", tiles=1)


def test_sizes_are_multiples_of_what_latents_stand_for(models):
    model, multiple = models["sd1"], pipelines.FACTOR
    assert resolve(model, SampleConfig(size=(multiple, 3 * multiple))).shape == (1, 3, 4)
    for size in ((multiple, SIZE + 1), (multiple + 1, SIZE)):
        refused(model, f"size is {size}: height and width must be multiples of 2", size=size)
    refused(model, "size is '16 by 16': it must be (height, width)", size="16 by 16")


def test_xl_is_told_of_a_picture_s_size(models):
    key, ids = jax.random.key(0), np.arange(2)

    def told(name, words, **asked):
        sampler = resolve(models[name], SampleConfig(**asked))
        sampler.check(words)
        found = part(sampler.model.conditioner, MicroConditioning).encode(words, key, ids)
        return np.asarray(found["time_ids"]).tolist()

    assert told("xl", {}) == [[SIZE, SIZE, 0, 0, SIZE, SIZE]] * 2
    assert told("xl", {}, size=(8, 12)) == [[8, 12, 0, 0, 8, 12]] * 2
    words = {"original_size": [(1, 2), (3, 4)], "crop": (5, 6), "target_size": (7, 8)}
    assert told("xl", words) == [[1, 2, 5, 6, 7, 8], [3, 4, 5, 6, 7, 8]]
    assert told("refiner", {"aesthetic_score": 5}) == [[SIZE, SIZE, 0, 0, 5]] * 2
    said = "crop is given, and sd1 is told nothing of a picture's size"
    refused(models["sd1"], said, words={"crop": (0, 0)})
    refused(models["xl"], "aesthetic_score is given, and xl", words={"aesthetic_score": 5})


def test_words_say_how_many_samples_they_are_for(models):
    sampler = resolve(models["xl"], SampleConfig())
    for words, num in (
        ({"prompt": "fox"}, None),
        ({"prompt": "fox", "crop": (0, 0)}, None),
        ({"prompt": "fox", "crop": [(0, 0)] * 3}, 3),
        ({"prompt": ["fox"] * 2, "original_size": (9, 9)}, 2),
        ({"prompt": "fox", "negative": ("a", "b")}, 2),
    ):
        assert sampler.number_of(words) == num
    bare = models["sd1"].replace(conditioner=Given("text", (None, 8)))
    sampler = resolve(bare, SampleConfig(guidance=1.0))
    assert sampler.number_of({"text": np.zeros((77, 8))}) is None
    assert sampler.number_of({"text": np.zeros((3, 77, 8))}) == 3


def test_words_without_a_place_are_told(models):
    model = models["sd1"]
    said = "label is given, and sd1 draws what it is told in words: say it as prompt"
    refused(model, said, words={"label": 3})
    bare = model.replace(conditioner=Given("text", (None, 8)), guidance=None)
    said = "prompt is given, and sd1 has no text encoder: load the folder of its whole pipeline"
    refused(bare, said, words={"prompt": "fox"})
    said = "sd1 takes prompt, negative: did you mean negative?"
    refused(model, said, TypeError, words={"negative_prompt": "blurry"})
    refused(model, "did you mean size?", TypeError, words={"height": 512})
    refused(bare, "clip_skip is given, and sd1 reads no prompts: drop it", clip_skip=1)
