"""What `skipjax.sample` draws of small pictures, and cascades."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from told import Told

import skipjax
from skipjax import denoisers, generation, guidance, plans

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def params():
    return tiny.pretrained()


@pytest.fixture(scope="module")
def upsampler():
    return tiny.upsampler()


@pytest.fixture(scope="module")
def small(params):
    return np.asarray(sample(params, num=3))


def sample(params, **options):
    """Pictures by four calls on one device."""
    return skipjax.sample(params, KEY, skip=250, devices=jax.local_devices()[:1], **options)


def test_pictures_are_drawn_alike_from_bytes_and_numbers(upsampler, small):
    as_bytes = np.asarray(skipjax.to_uint8(small))
    ours = sample(upsampler, low_res=as_bytes)
    assert ours.shape == (3, 16, 16, 3)
    as_numbers = as_bytes.astype(np.float32) / 127.5 - 1
    forms = [as_numbers, jnp.asarray(as_numbers), as_numbers.astype(float), as_numbers.tolist()]
    for same in forms:
        np.testing.assert_allclose(sample(upsampler, low_res=same), ours, rtol=0, atol=1e-5)
    assert np.abs(sample(upsampler, low_res=-as_numbers) - ours).max((1, 2, 3)).min() > 1e-3


def test_pictures_to_enlarge_say_how_many_and_ids_say_which(upsampler, small):
    for ids, num in ((None, {}), ([7, 8, 9], {"ids": [7, 8, 9]}), (None, {"num": 3})):
        images = sample(upsampler, low_res=small, label=0, **num)
        turned = sample(upsampler, low_res=small[::-1], label=0, ids=(ids or [0, 1, 2])[::-1])
        np.testing.assert_allclose(turned[::-1], images, rtol=0, atol=1e-5)


def test_stages_of_a_cascade_share_labels(params, upsampler, small):
    drawn = params.labels.encode({}, KEY, np.arange(3))["label"]
    np.testing.assert_array_equal(drawn, upsampler.labels.encode({}, KEY, np.arange(3))["label"])
    np.testing.assert_array_equal(
        sample(upsampler, low_res=sample(params, num=3)),
        sample(upsampler, low_res=small, label=drawn),
    )


def test_the_noise_of_a_cascade_s_stages_is_independent(params):
    square = dataclasses.replace(params.network, low_res_channels=3)
    enlarging = tiny.model(square, "same_size")
    ones, zeros = np.ones(2), np.zeros(2)
    ids = jnp.arange(64, dtype=jnp.uint32)
    drawn = [
        noise_alone(model, condition)
        for model, condition in ((params, {}), (enlarging, {"low_res": np.zeros((64, 4, 4, 3))}))
    ]
    for keep in (ones, zeros):  # ends in the starting noise, or in that of the second step
        plan = plans.Plan(ones, ones, ones, keep, zeros[:, None], 1 - keep)
        flat = [np.ravel(draw(plan, KEY, ids)) for draw in drawn]
        correlation = np.corrcoef(flat)[0, 1]
        assert abs(correlation) < 4 / np.sqrt(flat[0].size)
        assert abs(np.std(flat[1]) - 1) < 0.03


def noise_alone(model, condition):
    """What a plan without predictions makes of the noise: no network need be there."""

    @jax.jit
    def draw(plan, key, ids):
        with pytest.MonkeyPatch.context() as patch:
            Told(patch)
            labelled = {"label": jnp.zeros(64, int)} | condition
            return generation.generate(model, plan, key, ids, labelled)

    return draw


def test_guided_without_a_classifier_each_picture_is_enlarged_twice(monkeypatch):
    told = Told(monkeypatch)
    params = tiny.upsampler(null_label=2, class_names=())
    low_res = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1) * np.ones((1, 8, 8, 3))

    denoise = generation.denoiser(
        params,
        {"label": jnp.array([0, 1, 0]), "low_res": low_res},
        guidance=guidance.ClassifierFree(2.0),
    )
    point = denoisers.Point(5.0, 0.8, 0.6)
    said = told.of(denoise, np.ones((3, 16, 16, 3)), point)["UNetConfig", 6]
    assert said["low_res"][:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert said["y"].tolist() == [0, 2, 1, 2, 0, 2]
