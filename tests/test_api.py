"""What `skipjax.sample` draws."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax import monitoring

import skipjax
from skipjax import api, generation, grids, plans
from skipjax.conditioners import Labels

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")

KEY, ID = jax.random.key(5), 7
ONE = jax.local_devices()[:1]


@pytest.fixture(scope="module")
def params():
    return tiny.pretrained()


@pytest.fixture(scope="module")
def sample(params):
    """Four calls of the tiny network on one device."""
    return partial(skipjax.sample, params, KEY, skip=250, devices=ONE)


@pytest.fixture(scope="module")
def alone(sample):
    return np.asarray(sample(ids=[ID]))[0]


def test_one_line_draws_four_pictures_by_fifty_calls(params):
    images = skipjax.sample(params, KEY)
    chex.assert_shape(images, (4, 8, 8, 3))
    assert images.dtype == jnp.float32
    assert -1 <= images.min() and images.max() <= 1
    assert np.std(images, axis=(1, 2, 3)).min() > 0
    plan = plans.skipped(params.schedule, 20)
    assert plan.nfe == 50
    np.testing.assert_array_equal(skipjax.sample(params, KEY, plan=plan), images)


@pytest.mark.slow
def test_one_line_draws_four_emoji():
    emoji32 = skipjax.load("emoji32")
    images = skipjax.sample(emoji32, jax.random.key(0), skip=333)
    chex.assert_shape(images, (4, 32, 32, 3))
    assert images.dtype == jnp.float32
    assert -1 <= images.min() and images.max() <= 1
    assert np.std(images, axis=(1, 2, 3)).min() > 0
    alone = skipjax.sample(emoji32, jax.random.key(0), skip=333, ids=[3], devices=ONE)
    np.testing.assert_allclose(alone[0], images[3], rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("ids", "place", "devices"),
    [
        pytest.param(np.array([ID]), 0, None, id="alone"),
        pytest.param(np.array([5, 6, ID]), 2, ONE, id="with_others"),
        pytest.param(np.arange(64), ID, ONE, id="in_a_batch_of_64", marks=pytest.mark.slow),
        pytest.param(np.arange(64), ID, None, id="on_8_devices"),
        pytest.param(np.array([3] * 8 + [ID]), 8, None, id="on_8_devices_that_it_does_not_fill"),
    ],
)
def test_a_picture_depends_on_its_id_alone(params, alone, ids, place, devices):
    images = skipjax.sample(params, KEY, skip=250, ids=ids, devices=devices)
    assert images.shape == (len(ids), 8, 8, 3)
    np.testing.assert_allclose(images[place], alone, rtol=0, atol=1e-4)
    others = np.delete(np.asarray(images), place, axis=0)
    assert not len(others) or np.abs(others - alone).max(axis=(1, 2, 3)).min() > 0.1


def test_ids_are_0_to_num_unless_given(sample):
    np.testing.assert_array_equal(sample(num=3), sample(ids=np.arange(3)))


def test_another_key_draws_other_pictures(params, sample, alone):
    other = skipjax.sample(params, jax.random.key(6), skip=250, ids=[ID], devices=ONE)
    assert np.abs(other[0] - alone).max() > 0.1


def test_a_drawn_label_depends_on_key_and_id_alone(params):
    drawn = params.labels.encode({}, KEY, np.arange(300))["label"]
    assert np.bincount(drawn, minlength=3).min() > 60  # 100 expected, standard deviation 8
    for ids in [ID], [9, ID], np.arange(64)[::-1]:
        mine = params.labels.encode({}, KEY, np.asarray(ids))["label"]
        np.testing.assert_array_equal(mine, drawn[ids])
    assert (params.labels.encode({}, jax.random.key(6), np.arange(300))["label"] != drawn).any()


def test_the_drawn_label_is_the_one_sampled_with(params, sample, alone):
    drawn = params.labels.encode({}, KEY, np.array([ID]))["label"]
    given = np.array([sample(ids=[ID], label=label)[0] for label in range(3)])
    distance = np.abs(given - alone).max(axis=(1, 2, 3))
    assert distance.argmin() == drawn[0] and distance.min() == 0
    assert np.sort(distance)[1] > 0.01


def test_labels_go_by_number_name_or_unique_beginning(params, sample):
    ids = np.array([4, 5, 6])
    for label, numbers in (
        (2, [2, 2, 2]),
        ("cow", [1, 1, 1]),
        (" Dog ", [2, 2, 2]),
        ("d", [2, 2, 2]),
        ("1", [1, 1, 1]),
        (["dog", 0, "co"], [2, 0, 1]),
        (("cat", "cow", "dog"), [0, 1, 2]),
        (np.array([2, 0, 1]), [2, 0, 1]),
        (jnp.array([2, 0, 1]), [2, 0, 1]),
        (np.int64(1), [1, 1, 1]),
        (np.int32(2), [2, 2, 2]),
        (np.array(2), [2, 2, 2]),
        (jnp.array(2), [2, 2, 2]),
    ):
        found = params.labels.encode({"label": label}, KEY, ids)["label"]
        np.testing.assert_array_equal(found, numbers, repr(label))
        drawn = sample(ids=ids, label=label)
        np.testing.assert_array_equal(drawn, sample(ids=ids, label=numbers), repr(label))


def test_an_exact_name_wins_over_longer_ones(params):
    assert Labels(3, ("cat", "cats", "dog")).number("cat") == 0


def test_an_unconditional_network_needs_no_label():
    params = tiny.pretrained(num_classes=None)
    images = skipjax.sample(params, KEY, skip=250, num=6)
    assert images.shape == (6, 8, 8, 3) and np.isfinite(images).all()


def test_a_plan_is_what_skip_and_cutoff_stand_for(params, sample, alone):
    plan = plans.skipped(params.schedule, 250, cutoff=500)
    np.testing.assert_array_equal(
        skipjax.sample(params, KEY, plan=plan, ids=[ID], devices=ONE),
        sample(cutoff=500, ids=[ID]),
    )
    assert np.abs(sample(cutoff=500, ids=[ID])[0] - alone).max() > 0.01


def test_what_changes_no_shape_compiles_nothing_anew(params, monkeypatch):
    static = ("shape", "row", "dtype", "between", "callback", "trajectory", "on_step")
    traced_once = chex.assert_max_traces(generation.program.__wrapped__, 1)
    monkeypatch.setattr(generation, "program", jax.jit(traced_once, static_argnames=static))

    def sample(key=KEY, **arguments):
        skipjax.sample(params, key, num=3, devices=ONE, **arguments)

    schedule = params.schedule
    ddim = partial(plans.ddim, schedule, grids.trailing(1000, 4))
    sample(skip=250, label=1)
    sample(skip=300)
    compilations = []

    def listen(event, *_, **__):
        compilations.append(event)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        sample(skip=250, label=1, key=jax.random.key(1))
        sample(skip=250, label=["dog", 1, "cat"])
        sample(skip=250)
        sample(skip=333)
        for cutoff in 0, 500, 1000:
            sample(skip=300, cutoff=cutoff)
        for eta in 0.0, 0.5, [1, 0, 1, 0]:
            sample(plan=ddim(eta))
        sample(plan=plans.ddpm(schedule, np.array([900, 700, 400, 17]), "large"))
        assert not compilations
        with pytest.raises(AssertionError, match="traced > 1 times"):
            sample(skip=500)  # 2 rows: the count sees a trace where there is one
    finally:
        monitoring.unregister_event_duration_listener(listen)
    assert compilations


def test_params_stay_what_they_are(params, sample, alone):
    for name, pass_through in {
        "jit": jax.jit(lambda params: params),
        "device_put": lambda params: jax.device_put(params, jax.local_devices()[3]),
        "map": lambda params: jax.tree.map(lambda leaf: leaf * 1, params),
        "flatten": lambda params: jax.tree.unflatten(*jax.tree.flatten(params)[::-1]),
    }.items():
        passed = pass_through(params)
        assert isinstance(passed, skipjax.Pretrained), name
        known = params.replace(params=None)
        assert repr(passed.replace(params=None)) == repr(known), name
        assert passed.process == params.process and passed.network == params.network, name
        images = skipjax.sample(passed, KEY, skip=250, ids=[ID], devices=ONE)
        np.testing.assert_array_equal(images[0], alone, name)


@pytest.mark.slow
def test_generate_goes_under_jit_and_grad(params, alone):
    plan, ids = plans.skipped(params.schedule, 250), jnp.array([ID], jnp.uint32)
    label = params.labels.encode({}, KEY, np.array([ID]))["label"]

    @jax.jit
    @jax.value_and_grad
    def brightness(plan):
        return skipjax.generate(params, plan, KEY, ids, {"label": label}).mean()

    mean, slope = brightness(jax.tree.map(jnp.asarray, plan))
    np.testing.assert_allclose(mean, alone.mean(), atol=1e-5)
    assert np.isfinite(slope.noise).all() and slope.noise.any()


def test_progress_shows_a_bar_counts_each_step_once_and_draws_the_same(params, capsys):
    eight = partial(skipjax.sample, params, KEY, skip=250, num=64)  # devices
    quiet = eight()
    assert not capsys.readouterr().err
    images = eight(progress=True)
    np.testing.assert_allclose(images, quiet, rtol=0, atol=1e-5)
    shown = capsys.readouterr().err
    assert shown.lstrip("\r").startswith("compiling:   0%")
    assert "sampling: 100%" in shown and "4/4" in shown and "5/4" not in shown


def test_without_progress_nothing_calls_back(params):
    plan, label = plans.skipped(params.schedule, 500), {"label": jnp.zeros(2, jnp.int32)}
    arguments = params, plan, KEY, jnp.arange(2), label
    quiet = jax.make_jaxpr(api.generate)(*arguments)
    told = jax.make_jaxpr(partial(api.generate, on_step=print))(*arguments)
    assert "callback" not in str(quiet) and "callback" in str(told)


def test_bfloat16_is_near_float32(sample, alone):
    rough = sample(ids=[ID], dtype="bfloat16")[0]
    assert rough.dtype == jnp.float32
    error = np.abs(rough - alone)
    assert 0 < error.max() and error.mean() < 0.05 * np.std(alone)


@pytest.mark.slow
def test_clip_keeps_predictions_in_range(sample):
    assert np.abs(sample(ids=[ID])).max() <= 1
    assert np.abs(sample(ids=[ID], clip=False)).max() > 1
