"""What a step of training does."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import runs
from runs import LIGHT, NETWORK, RUN, colours

from skipjax import sharding
from skipjax.training import step as train
from skipjax.training.objective import tables
from skipjax.training.optimiser import learning_rate

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
DATA = colours()
IMAGES, LABELS = DATA.images[:8], DATA.labels[:8]


@pytest.fixture
def light(monkeypatch):
    yield from runs.light(monkeypatch)


def begun(run, mesh):
    """The state before the first step, where it is to lie."""
    state = train.init(run)
    return jax.device_put(state, train.shardings(state, mesh))


@pytest.mark.usefixtures("light")
def test_moving_averages_are_the_sums_they_stand_for():
    run = replace(LIGHT, batch=4, ema=(0.35, 0.1), warmup=0, decay=0.0)
    mesh = sharding.mesh(1)
    step, loss, state = train.train_step(run, mesh), tables(run), begun(run, mesh)
    visited = [jax.device_get(state.params)]
    jax.tree.map(np.testing.assert_array_equal, state.ema, (state.params,) * 2)
    for i in range(5):
        assert state.step == i
        state, _ = step(state, loss, IMAGES[:4], {"label": LABELS[:4]})
        visited.append(jax.device_get(state.params))
    # The decay starts at 1/10, 2/11, 3/12, 4/13 and is held at 0.35 from 5/14 on.
    decays = {0.35: [1 / 10, 2 / 11, 3 / 12, 4 / 13, 0.35], 0.1: [0.1] * 5}
    for held, ema in zip(run.ema, state.ema, strict=True):
        d = np.array(decays[held])
        weights = np.append(1, 1 - d) * np.append(np.cumprod(d[::-1])[::-1], 1)
        np.testing.assert_allclose(weights.sum(), 1)

        def close(ema, *visited, weights=weights):
            expected = np.tensordot(weights, np.stack(visited).astype(np.float64), 1)
            np.testing.assert_allclose(ema, expected, rtol=1e-5, atol=1e-6)

        jax.tree.map(close, ema, *visited)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), visited[0], visited[-1])
    assert max(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.parametrize("network", ["least", pytest.param("U-Net", marks=pytest.mark.slow)])
def test_parts_of_a_batch_and_split_weights_come_to_the_same_step(network, request):
    run = replace(RUN, warmup=0, decay=0.0)
    if network == "least":
        request.getfixturevalue("light")
        run = replace(LIGHT, warmup=0, decay=0.0)

    def after(run, mesh):
        return train.train_step(run, mesh)(
            begun(run, mesh), tables(run), IMAGES, {"label": LABELS}
        )

    plain, said = after(run, sharding.mesh(1))
    for other, mesh in [
        (replace(run, accumulate=2), sharding.mesh(1)),
        (run, sharding.mesh(2, 4)),
    ]:
        state, metrics = after(other, mesh)
        np.testing.assert_allclose(metrics.total, said.total, rtol=1e-5)
        np.testing.assert_allclose(metrics.grad_norm, said.grad_norm, rtol=1e-4)
        # Adam's first step is the sign of the gradient: where that is nearly 0, anything goes.
        near = [
            np.mean(np.abs(np.asarray(a) - np.asarray(b)) < 1e-5)
            for a, b in zip(*map(jax.tree.leaves, (state.params, plain.params)), strict=True)
        ]
        assert np.mean(near) > 0.99
    split = [leaf for leaf in jax.tree.leaves(state.opt_state) if not leaf.is_fully_replicated]
    assert split


def test_runs_that_differ_in_seed_and_numbers_of_the_loss_share_a_program():
    run = replace(RUN, loss="skip_step", network=replace(NETWORK, out_channels=3))
    mesh = sharding.mesh(1)
    steps = {
        id(train.train_step(other, mesh))
        for other in (run, replace(run, seed=1), replace(run, tau=1.0, skip=49, form="paper"))
    }
    assert len(steps) == 1
    assert id(train.train_step(replace(run, rate=1e-2), mesh)) not in steps


@pytest.mark.usefixtures("light")
def test_labels_are_dropped_for_the_null_label():
    """With nearly all labels dropped, a step does not depend on them."""
    unet = replace(LIGHT.network, num_classes=4)
    run = replace(LIGHT, network=unet, drop_labels=0.999999, warmup=0)
    mesh = sharding.mesh(1)
    step, loss = train.train_step(run, mesh), tables(run)
    one, other = (
        step(begun(run, mesh), loss, IMAGES, {"label": y})[0] for y in (LABELS, (LABELS + 1) % 3)
    )
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    before, after = (
        np.asarray(of.params["label_emb"]["embedding"]) for of in (train.init(run), one)
    )
    moved = np.abs(after - before)
    assert (moved.max(axis=1) > 0).tolist() == [False, False, False, True]
    assert run.null_label == 3 and run.model().labels.null_label == 3


def test_the_learning_rate_rises_stays_and_falls_to_0():
    rate = jax.jit(learning_rate(2e-3, steps=100, warmup=10, decay=0.4))
    rates = np.array([rate(i) for i in range(101)])
    expected = np.interp(np.arange(101), [0, 10, 60, 100], [0, 2e-3, 2e-3, 0])
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-9)


def test_the_constant_part_does_not_know_how_long_the_run_will_be():
    short, long = (learning_rate(1e-3, steps, 5, 0.5) for steps in (40, 80))
    assert [short(i) for i in range(20)] == [long(i) for i in range(20)]


@pytest.mark.slow
@pytest.mark.usefixtures("light")
def test_a_step_mirrors_no_picture_of_an_unmirrored_label():
    """Then its loss is that of a step without mirrors."""
    images = IMAGES.copy()
    images[:, :, :4] = 0
    run, mesh = replace(LIGHT, flip=True, unmirrored=(1,)), sharding.mesh(1)

    def loss(run, label):
        step = train.train_step(run, mesh)
        labels = np.full(8, label, np.int32)
        return float(step(begun(run, mesh), tables(run), images, {"label": labels})[1].total)

    still = replace(run, flip=False)
    assert loss(run, 1) == pytest.approx(loss(still, 1), rel=1e-6)
    assert abs(loss(run, 2) - loss(still, 2)) > 1e-4
