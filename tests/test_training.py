"""Training: what a step does, and runs that stop and go on."""

import json
from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from skipjax import schedules
from skipjax.training import run as runs
from skipjax.training import step as train
from skipjax.training.augment import shift_and_flip
from skipjax.training.run import Run, fit
from skipjax.weights.checkpoint import Steps

NETWORK = replace(tiny.config(), num_res_blocks=0)
RUN = Run(NETWORK, steps=6, batch=8, rate=1e-3, warmup=2, save_every=3, seed=4)


@pytest.fixture(scope="module", autouse=True)
def _compiled_in_a_hurry():
    """Steps of training take longer to compile than all of these tests to run them."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


class Scales:
    """The least that training takes for a network: a weight per channel."""

    def __init__(self, config):
        self.config = config

    def init(self, key, x, t, y):
        return {"params": {"scale": jax.random.normal(key, (6,))}}

    def apply(self, variables, x, t, y, *, train, rngs):
        return jnp.concatenate([x, x], axis=-1) * variables["params"]["scale"][None, None, None]


@pytest.fixture(scope="module")
def data():
    """One plain colour per class."""
    labels = np.arange(9) % 3
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)[labels]
    return np.broadcast_to(colours[:, None, None], (9, 8, 8, 3)), labels


@pytest.fixture(params=[1, 8])
def devices(request, monkeypatch):
    """As if there were so many devices."""
    monkeypatch.setattr(jax, "device_count", lambda: request.param)
    return request.param


@pytest.fixture
def light(monkeypatch):
    """Runs train the least network."""
    monkeypatch.setattr(runs, "UNet", Scales)


@pytest.fixture
def compiled_once(monkeypatch):
    """All runs of a test are of one program, which takes long to compile."""
    made, build = [], train.train_step

    def train_step(*arguments, **options):
        made.append(made[0] if made else build(*arguments, **options))
        return made[0]

    monkeypatch.setattr(train, "train_step", train_step)


def latest(out):
    checkpoints = Steps(out / "steps")
    step = checkpoints.latest
    checkpoints.close()
    return step


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def dies_after(steps, monkeypatch):
    """Makes the process die in the step that follows."""

    class Bar(runs.tqdm):
        def update(self, n=1):
            if self.n == steps:
                raise SystemExit("killed")
            return super().update(n)

    monkeypatch.setattr(runs, "tqdm", Bar)


@pytest.mark.usefixtures("compiled_once")
def test_a_killed_run_goes_on_to_the_very_state_of_one_that_was_not(
    tmp_path, data, devices, monkeypatch
):
    whole = fit(RUN, *data, tmp_path / "whole")
    leaf = jax.tree.leaves(whole.params)[0]
    assert len(leaf.sharding.device_set) == devices
    assert whole.step == 6
    with monkeypatch.context() as patch:
        dies_after(4, patch)
        with pytest.raises(SystemExit, match="killed"):
            fit(RUN, *data, tmp_path / "parts")
    assert latest(tmp_path / "parts") == 3
    parts = fit(RUN, *data, tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    assert latest(tmp_path / "parts") == 6


@pytest.mark.usefixtures("light")
def test_a_finished_run_is_left_as_it_is_and_a_longer_one_goes_on_from_it(tmp_path, data):
    short = replace(RUN, steps=2, decay=0.0)
    done = fit(short, *data, tmp_path)
    again = fit(short, *data, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again, done)
    longer = fit(replace(short, steps=3), *data, tmp_path)
    assert longer.step == 3 and latest(tmp_path) == 3
    assert [row["step"] for row in log(tmp_path)] == [2, 3]
    assert json.loads((tmp_path / "run.json").read_text())["steps"] == 3


def test_a_run_learns(tmp_path, data):
    run = replace(RUN, steps=150, rate=3e-3, save_every=1000, shift=0)
    state = fit(run, *data, tmp_path)
    first, *_, last = log(tmp_path)
    assert (first["step"], last["step"]) == (50, 150)
    assert last["mse"] < 0.7 * first["mse"]
    assert last["total"] < first["total"]
    chex.assert_tree_all_finite(state.ema)


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("save_every", [1, 4, 1000])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path, data, save_every):
    fit(replace(RUN, steps=2), *data, tmp_path)
    wild = replace(RUN, steps=20, rate=1e30, save_every=save_every)
    with pytest.raises(FloatingPointError, match="the last checkpoint is of step .*lower") as end:
        fit(wild, *data, tmp_path)
    kept = latest(tmp_path)
    assert f"of step {kept}." in str(end.value)
    # A step of finite loss may have made the params of the next infinite.
    assert kept == 2 or (save_every == 1 and kept == 3)


def test_a_batch_must_divide_over_the_devices(tmp_path, data):
    run = replace(RUN, batch=12)
    with pytest.raises(ValueError, match="batch is 12: it must be a multiple of the 8 devices"):
        fit(run, *data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pictures_must_have_the_networks_shape(tmp_path, data):
    images, labels = data
    with pytest.raises(ValueError, match=r"pictures are \(4, 8, 3\), .* wants \(8, 8, 3\)"):
        fit(RUN, images[:, :4], labels, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_moving_average_is_the_sum_it_stands_for(data):
    net, mesh = Scales(RUN.unet), jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,))
    tx = train.optimiser(lambda _: 1e-3)
    step = train.train_step(
        net,
        tx,
        schedules.linear(),
        prediction="eps",
        batch=4,
        ema_decay=0.35,
        shift=1,
        mesh=mesh,
    )
    state = train.init(net, tx, jax.random.key(0))
    visited = [jax.device_get(state.params)]
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.params)
    for i in range(5):
        assert state.step == i
        state, _ = step(state, *data, jax.random.key(1))
        visited.append(jax.device_get(state.params))
    # The decay starts at 1/10, 2/11, 3/12, 4/13 and is held at 0.35 from 5/14 on.
    decays = np.array([1 / 10, 2 / 11, 3 / 12, 4 / 13, 0.35])
    weights = np.append(1, 1 - decays) * np.append(np.cumprod(decays[::-1])[::-1], 1)

    def close(ema, *visited):
        expected = np.tensordot(weights, np.stack(visited).astype(np.float64), 1)
        np.testing.assert_allclose(ema, expected, rtol=1e-5, atol=1e-6)

    np.testing.assert_allclose(weights.sum(), 1)
    jax.tree.map(close, state.ema, *visited)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), visited[0], visited[-1])
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_the_learning_rate_rises_stays_and_falls_to_0():
    rate = train.learning_rate(2e-3, steps=100, warmup=10, decay=0.4)
    rates = np.array([rate(i) for i in range(101)])
    expected = np.interp(np.arange(101), [0, 10, 60, 100], [0, 2e-3, 2e-3, 0])
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-9)


def test_the_constant_part_does_not_know_how_long_the_run_will_be():
    short, long = (train.learning_rate(1e-3, steps, 5, 0.5) for steps in (40, 80))
    assert [short(i) for i in range(20)] == [long(i) for i in range(20)]


@pytest.fixture(scope="module")
def pictures():
    """Two pictures of which no two pixels are the same."""
    return jnp.linspace(-1, 0.9, 2 * 4 * 4 * 3).reshape(2, 4, 4, 3)


def moves(picture, pixels):
    """Every picture that a shift on white, with or without a flip, makes of one."""
    sides = range(2 * pixels + 1)
    for look in picture, picture[:, ::-1]:
        rim = np.pad(look, [(pixels, pixels), (pixels, pixels), (0, 0)], constant_values=1)
        yield from (rim[top : top + 4, left : left + 4] for top in sides for left in sides)


@pytest.mark.parametrize("pixels", [0, 1, 2])
def test_pictures_are_shifted_on_white_and_flipped_and_nothing_else(pictures, pixels):
    batch = jnp.repeat(pictures, 1500, axis=0)
    moved = np.asarray(jax.jit(partial(shift_and_flip, pixels=pixels))(jax.random.key(0), batch))
    for of_one, picture in zip(np.split(moved, 2), np.asarray(pictures), strict=True):
        known = np.stack(list(moves(picture, pixels)))
        found, count = np.unique(of_one, axis=0, return_counts=True)
        assert {x.tobytes() for x in found} == {x.tobytes() for x in known}
        # Each as often as any other, within 5 standard deviations.
        expected = 1500 / len(known)
        assert np.abs(count - expected).max() < 5 * np.sqrt(expected)


def test_flips_and_shifts_are_drawn_apart(pictures):
    first, second = (shift_and_flip(jax.random.key(i), pictures, 2) for i in range(2))
    assert (first != second).any()
    np.testing.assert_array_equal(shift_and_flip(jax.random.key(0), pictures, 2), first)
