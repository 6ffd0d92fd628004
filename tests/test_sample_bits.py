"""What `skipjax.sample` draws to the last bit, however it is compiled."""

import dataclasses

import compiling
import jax
import numpy as np
import pytest
import tiny

import skipjax
from skipjax import plans, sampling

KEY, ID = jax.random.key(5), 7
ONE = jax.local_devices()[:1]


@pytest.fixture(scope="module", autouse=True, params=compiling.EACH_WAY)
def way(request):
    with compiling.WAYS[request.param]():
        yield


@pytest.fixture(scope="module")
def params():
    return tiny.pretrained()


@pytest.mark.parametrize(
    ("ids", "place", "devices"),
    [(np.array([ID]), 0, ONE), (np.arange(64), ID, None)],
    ids=["alone", "on_8_devices"],
)
def test_the_noise_of_a_picture_is_bit_equal(params, ids, place, devices):
    own, plan = jax.random.fold_in(KEY, ID), plans.skipped(params.schedule, 250)
    # Plans that end in the starting noise, and in the noise of their last step.
    for keep, folded in (1.0, sampling.START), (0.0, 3):
        columns = {"keep": keep, "mix": 0.0, "noise": 1 - keep}
        columns = {name: np.full_like(getattr(plan, name), x) for name, x in columns.items()}
        plan = dataclasses.replace(plan, **columns)
        images = skipjax.sample(params, KEY, ids=ids, plan=plan, devices=devices)
        noise = jax.random.normal(jax.random.fold_in(own, folded), (8, 8, 3))
        np.testing.assert_array_equal(images[place], noise)


def test_one_program_draws_bit_equal_pictures_wherever_they_lie_in_the_batch(params):
    def sample(ids):
        return np.asarray(skipjax.sample(params, KEY, skip=250, ids=ids))

    ids = np.arange(64)  # on eight devices
    images = sample(ids)
    np.testing.assert_array_equal(sample(ids), images)
    np.testing.assert_array_equal(sample(ids[::-1]), images[::-1])
    np.testing.assert_array_equal(sample(np.roll(ids, 3)), np.roll(images, 3, axis=0))
