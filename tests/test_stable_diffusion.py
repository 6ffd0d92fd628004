"""Stable Diffusion, tiny: from folders of diffusers' to pictures, in Python and by the command."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pipelines
import pytest
from jax import monitoring
from PIL import Image
from pipelines import SIDE, SIZE

import skipjax
from skipjax import cli, grids, plans
from skipjax.weights import diffusers

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
KEY, ONE = jax.random.key(0), jax.local_devices()[:1]
FOX = {"prompt": "a fox in the snow", "negative": "blurry", "guidance": 7.5, "skip": 250}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pipelines.write(tmp_path_factory.mktemp("pipelines") / "sd1")


@pytest.fixture(scope="module")
def model(folder):
    return skipjax.load(folder)


@pytest.fixture(scope="module")
def sample(model):
    """Two pictures, by default of a fox; the same program wherever nothing else is said."""
    return lambda **asked: skipjax.sample(model, KEY, devices=ONE, **{"num": 2} | FOX | asked)


@pytest.fixture(scope="module")
def foxes(sample):
    return sample()


def test_a_pipeline_is_all_of_its_parts(model, folder):
    assert model.name == "sd1" and model.guidance == 7.5 and model.scheduler.steps == 50
    assert model.shape == (SIDE, SIDE, 4) and model.process.bounds is None
    for part in (model.params, model.conditioner.params, model.codec.params):
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(part))


def test_an_autoencoder_alone_is_a_codec(folder):
    codec, rng = skipjax.load(folder / "vae"), np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2, SIZE, 2 * SIZE, 3)).astype(np.float32)
    mean, logvar = codec.encode_moments(x)
    assert mean.shape == logvar.shape == (2, SIDE, 2 * SIDE, 4)
    scale = pipelines.VAE["scaling_factor"]
    np.testing.assert_allclose(codec.encode(x), scale * mean, rtol=1e-5, atol=1e-6)
    noise = (codec.encode(x, KEY) / scale - mean) / np.exp(logvar / 2)
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
    assert codec.decode(scale * mean).shape == x.shape
    one = codec.decode(scale * mean[1:])
    np.testing.assert_allclose(codec.decode(scale * mean)[1:], one, rtol=0, atol=1e-5)


def test_a_text_encoder_alone_takes_tokens(folder):
    encoder = skipjax.load(folder / "text_encoder")
    ids = np.random.default_rng(0).integers(0, 500, (2, 77))
    text, pooled = encoder.apply(ids), encoder.pooled(ids)
    assert text.shape == (2, 77, 32) and pooled.shape == (2, 32)
    np.testing.assert_allclose(encoder.apply(ids[:, :5]), text[:, :5], rtol=0, atol=1e-5)
    last = np.argmax(ids, axis=1)
    np.testing.assert_allclose(pooled, text[np.arange(2), last], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_network_alone_is_told_of_text_as_arrays(model, folder, foxes, sample):
    alone = skipjax.load(folder / "unet")
    told = model.conditioner.encode({"prompt": FOX["prompt"]}, KEY, np.arange(2))
    null = model.conditioner.null(told, FOX["negative"])
    plan = plans.skipped(alone.schedule, FOX["skip"])
    ways = skipjax.guidance.ClassifierFree(FOX["guidance"])
    z = skipjax.generate(alone, plan, KEY, jnp.arange(2), told, null=null, guidance=ways)
    np.testing.assert_allclose(z, sample(latents=True), rtol=0, atol=1e-4)
    np.testing.assert_allclose(skipjax.decode(model, z), foxes, rtol=0, atol=1e-4)


def test_words_make_the_picture(foxes, sample):
    assert foxes.shape == (2, SIZE, SIZE, 3) and foxes.dtype == jnp.float32
    np.testing.assert_array_equal(sample(), foxes)
    both = sample(prompt=[FOX["prompt"], "the cat"])
    np.testing.assert_allclose(both[0], foxes[0], rtol=0, atol=1e-4)
    for other in (
        both[1],
        sample(negative=None)[1],
        sample(negative=["", "snow"])[1],
        sample(guidance=2.0)[1],
        sample(guidance_rescale=0.7)[1],
        sample(clip_skip=1)[1],
        sample(cutoff=500)[1],
    ):
        assert np.abs(other - foxes[1]).max() > 1e-3
    np.testing.assert_array_equal(sample(negative=None), sample(negative=""))
    np.testing.assert_allclose(sample(num=None, ids=[1, 7])[0], foxes[1], rtol=0, atol=1e-5)


def test_the_default_is_the_checkpoints_own_sampler_and_guidance(model, sample):
    drawn = sample(skip=None, guidance=None, steps=3)
    plan = model.scheduler.plan(model.schedule, 3)
    assert plan.nfe == 4 and plan.t[0] == 667  # PNDM, which makes one call more
    np.testing.assert_array_equal(sample(skip=None, plan=plan), drawn)


@pytest.mark.slow
def test_sizes_are_in_pixels(sample):
    assert sample(size=(SIZE, 2 * SIZE)).shape == (2, SIZE, 2 * SIZE, 3)
    z = sample(size=(SIZE, 2 * SIZE), latents=True)
    assert z.shape == (2, SIDE, 2 * SIDE, 4)


def test_skipped_step_is_ddim_with_eta_1_and_ddpm_on_the_respaced_chain(model, foxes, sample):
    times = grids.skipped(model.schedule.T, FOX["skip"])
    np.testing.assert_array_equal(sample(eta=1.0), foxes)
    ddpm = plans.ddpm(model.schedule, times)
    np.testing.assert_allclose(sample(skip=None, plan=ddpm), foxes, rtol=0, atol=1e-5)
    ddim = sample(cutoff=1000)
    np.testing.assert_array_equal(sample(eta=0.0), ddim)
    hybrid = plans.ddim(model.schedule, times, eta=(times >= 500).astype(float))
    np.testing.assert_array_equal(sample(skip=None, plan=hybrid), sample(cutoff=500))


def test_what_changes_no_shape_compiles_nothing_anew(model, sample, foxes):
    # Prompts are encoded by two, and by two layers less, in programs of their own.
    sample(prompt=["a", "b"], clip_skip=2)
    sample(prompt=["a", "b"], negative=["c", "d"])
    seen = []

    def listen(event, *_, **__):
        seen.append(event)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        sample(prompt=["the cat in snow", "fox"], negative=["a", "b"], guidance=5.0)
        sample(prompt="another", negative=None, guidance=3.0, cutoff=700)
        sample(prompt=["snow", "ice"], clip_skip=2, skip=300)
        heavier = jax.tree.map(lambda w: 1.01 * np.asarray(w), model.params)
        skipjax.sample(model.replace(params=heavier), KEY, devices=ONE, num=2, **FOX)
    finally:
        monitoring.unregister_event_duration_listener(listen)
    assert not [event for event in seen if "compile" in event], seen


def test_pictures_that_overflow_are_refused(model):
    params = jax.tree.map(lambda w: np.full_like(w, np.inf), model.codec.params)
    broken = model.replace(codec=dataclasses.replace(model.codec, params=params))
    with pytest.raises(
        FloatingPointError, match="NaN or infinite.*float16 is too narrow for some"
    ):
        skipjax.sample(broken, KEY, devices=ONE, num=2, **FOX)


COMMAND = ["--prompt", FOX["prompt"], "--negative", FOX["negative"], "--guidance", "7.5"]
COMMAND += ["--skip", "250", "--cutoff", "500", "--num", "2"]


def test_the_command_draws_the_hybrid_too(folder, sample, work):
    line = ["sample", "--checkpoint", str(folder), *COMMAND, "--size", f"{SIZE}x{SIZE}"]
    cli.main([*line, "--out", "fox.png"])
    drawn = skipjax.grid(sample(cutoff=500))
    with Image.open("fox.png") as picture:
        assert picture.size == drawn.size
        difference = np.asarray(picture).astype(int) - np.asarray(drawn)
        assert np.abs(difference).max() <= 1
        assert FOX["prompt"] in picture.info["skipjax"]


@pytest.mark.slow
def test_a_job_draws_the_same_of_a_file_of_prompts(folder, sample, work):
    Path("prompts.txt").write_text(f"{FOX['prompt']}\nthe cat\n")
    line = [word for word in COMMAND if word not in ("--num", "2", "--prompt", FOX["prompt"])]
    line = ["generate", "--checkpoint", str(folder), "--prompts", "prompts.txt", *line]
    cli.main([*line, "--out", "job"])
    drawn = skipjax.to_uint8(sample(prompt=[FOX["prompt"], "the cat"], cutoff=500))
    (shard,) = Path("job", "shards").glob("*.npz")
    with np.load(shard) as found:
        assert np.abs(found["images"].astype(int) - drawn).max() <= 1
        assert [*found["captions"]] == [FOX["prompt"], "the cat"]


def test_what_is_saved_is_loaded_again(model, folder, tmp_path):
    diffusers.save(model, tmp_path / "again")
    again = skipjax.load(tmp_path / "again")
    assert jax.tree.structure(again.core) == jax.tree.structure(model.core)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.conditioner.tokenizers == model.conditioner.tokenizers
    assert again.scheduler == model.scheduler and again.guidance == model.guidance
