"""Training: what a step does, and runs that stop and go on."""

import json
import subprocess
from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from skipjax import Pretrained, placement
from skipjax.training import fit as fits
from skipjax.training import step as train
from skipjax.training.augment import look
from skipjax.training.fit import fit
from skipjax.training.objective import tables
from skipjax.training.optimiser import learning_rate
from skipjax.training.pictures import Pictures
from skipjax.training.run import Run
from skipjax.weights.checkpoint import Steps

NETWORK = replace(tiny.config(), num_res_blocks=0)
RUN = Run(
    unet=NETWORK,
    loss="hybrid",
    steps=6,
    batch=8,
    rate=1e-3,
    warmup=2,
    save_every=3,
    seed=4,
    flip=True,
    shift=2,
)


pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")


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
    images = np.broadcast_to(colours[:, None, None], (9, 8, 8, 3)).copy()
    return Pictures(images, labels.astype(np.int32), (), ("red", "green", "blue"))


@pytest.fixture(params=[1, 8])
def devices(request):
    return request.param


@pytest.fixture
def light(monkeypatch):
    """Runs train the least network."""
    monkeypatch.setattr(train, "network", lambda config, dtype: Scales(config))
    train._train_step.cache_clear()
    yield
    train._train_step.cache_clear()


def latest(out):
    checkpoints = Steps(out / "steps")
    step = checkpoints.latest
    checkpoints.close()
    return step


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def dies_after(steps, monkeypatch):
    """Makes the process die in the step that follows."""

    class Bar(fits.tqdm):
        def update(self, n=1):
            if self.n == steps:
                raise SystemExit("killed")
            return super().update(n)

    monkeypatch.setattr(fits, "tqdm", Bar)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_very_state_of_one_that_was_not(
    tmp_path, data, devices, monkeypatch
):
    whole = fit(RUN, data, tmp_path / "whole", mesh=placement.mesh(devices))
    leaf = jax.tree.leaves(whole.params)[0]
    assert len(leaf.sharding.device_set) == devices
    assert whole.step == 6
    with monkeypatch.context() as patch:
        dies_after(4, patch)
        with pytest.raises(SystemExit, match="killed"):
            fit(RUN, data, tmp_path / "parts", mesh=placement.mesh(devices))
    assert latest(tmp_path / "parts") == 3
    parts = fit(RUN, data, tmp_path / "parts", mesh=placement.mesh(devices))
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    assert latest(tmp_path / "parts") == 6


@pytest.mark.usefixtures("light")
def test_a_finished_run_is_left_as_it_is_and_a_longer_one_goes_on_from_it(tmp_path, data):
    short = replace(RUN, steps=2, decay=0.0)
    done = fit(short, data, tmp_path)
    again = fit(short, data, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again, done)
    longer = fit(replace(short, steps=3), data, tmp_path)
    assert longer.step == 3 and latest(tmp_path) == 3
    assert [row["step"] for row in log(tmp_path)] == [2, 3]
    assert json.loads((tmp_path / "run.json").read_text())["run"]["steps"] == 3


@pytest.mark.slow
def test_a_run_learns(tmp_path, data):
    run = replace(RUN, steps=150, rate=3e-3, save_every=1000, shift=0)
    state = fit(run, data, tmp_path)
    first, *_, last = log(tmp_path)
    assert (first["step"], last["step"]) == (50, 150)
    assert last["mse"] < 0.7 * first["mse"]
    assert last["total"] < first["total"]
    chex.assert_tree_all_finite(state.ema)


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("save_every", [1, 4, 1000])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    tmp_path, data, save_every, monkeypatch
):
    """From step 6 on, pictures are so bright that no square of them is finite."""
    evaluate = train.evaluate

    def evil(loss, prediction, tables, output, x_0, *rest):
        worse = jnp.where((x_0 > 0.9).all(), jnp.inf, 1.0)
        return jax.tree.map(
            lambda leaf: leaf * worse, evaluate(loss, prediction, tables, output, x_0, *rest)
        )

    monkeypatch.setattr(train, "evaluate", evil)
    plain = fits.batches.Batches.__getitem__

    def bright(self, i):
        images, labels = plain(self, i)
        return (np.full_like(images, 255), labels) if i >= 5 else (images, labels)

    monkeypatch.setattr(fits.batches.Batches, "__getitem__", bright)
    with pytest.raises(FloatingPointError, match="the loss is inf at step 6; .*lower") as end:
        fit(replace(RUN, steps=20, save_every=save_every), data, tmp_path)
    kept = latest(tmp_path)
    assert kept == {1: 5, 4: 4, 1000: None}[save_every]
    assert ("no checkpoint yet" if kept is None else f"of step {kept}.") in str(end.value)


def test_a_batch_must_divide_over_the_devices(tmp_path, data):
    run = replace(RUN, batch=12)
    with pytest.raises(ValueError, match="batch is 12: it must be a multiple of the 8 devices"):
        fit(run, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pictures_must_have_the_networks_shape(tmp_path, data):
    with pytest.raises(ValueError, match=r"pictures are \(4, 8, 3\), .* wants \(8, 8, 3\)"):
        fit(RUN, data._replace(images=data.images[:, :4]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("light")
def test_moving_averages_are_the_sums_they_stand_for(data):
    run = replace(RUN, batch=4, ema=(0.35, 0.1), warmup=0, decay=0.0)
    mesh = placement.mesh(1)
    step, loss = train.train_step(run, mesh), tables(run)
    state = train.init(run)
    visited = [jax.device_get(state.params)]
    jax.tree.map(np.testing.assert_array_equal, state.ema, (state.params,) * 2)
    images, labels = data.images[:4], data.labels[:4]
    for i in range(5):
        assert state.step == i
        state, _ = step(state, loss, images, labels)
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


def test_parts_of_a_batch_and_split_weights_come_to_the_same_step(data):
    run = replace(RUN, warmup=0, decay=0.0)
    images, labels = data.images[:8], data.labels[:8]

    def after(run, mesh):
        state = jax.device_put(train.init(run), train.shardings(train.init(run), mesh))
        state, metrics = train.train_step(run, mesh)(state, tables(run), images, labels)
        return state, metrics

    plain, said = after(run, placement.mesh(1))
    for other, mesh in [
        (replace(run, accumulate=2), placement.mesh(1)),
        (run, placement.mesh(2, 4)),
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
    run = replace(RUN, loss="skip_step", unet=replace(NETWORK, out_channels=3))
    mesh = placement.mesh(1)
    steps = {
        id(train.train_step(other, mesh))
        for other in (run, replace(run, seed=1), replace(run, tau=1.0, skip=49, form="paper"))
    }
    assert len(steps) == 1
    assert id(train.train_step(replace(run, rate=1e-2), mesh)) not in steps


@pytest.mark.slow
def test_labels_are_dropped_for_the_null_label(data, monkeypatch):
    """With nearly all labels dropped, a step does not depend on them."""
    run = replace(RUN, unet=replace(NETWORK, num_classes=4), drop_labels=0.999999)
    images, labels = data.images[:8], data.labels[:8]
    step, loss = train.train_step(run, placement.mesh(1)), tables(run)
    one, other = (step(train.init(run), loss, images, y)[0] for y in (labels, (labels + 1) % 3))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert run.null_label == 3 and run.spec().null_label == 3


@pytest.mark.slow
def test_a_network_goes_on_from_another_and_leaves_it_alone(tmp_path, data):
    start = Pretrained(tiny.pretrained().params, replace(RUN, unet=tiny.config()).spec())
    before = jax.device_get(start.params)
    run = replace(RUN, unet=tiny.config(), steps=1, rate=1e-9)
    state = fit(run, data, tmp_path / "run", start=start)
    jax.tree.map(np.testing.assert_array_equal, start.params, before)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, before)
    with pytest.raises(ValueError, match="another network: its .*num_res_blocks is 1, not 0"):
        fit(RUN, data, tmp_path / "other", start=start)
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("light")
def test_another_runs_folder_is_refused_with_what_differs(tmp_path, data):
    fit(replace(RUN, steps=2), data, tmp_path / "run")
    for other, match in [
        (replace(RUN, rate=1e-2), "rate is 0.001 there, 0.01 here"),
        (replace(RUN, unet=replace(NETWORK, dropout=0.1)), "unet.dropout is 0.0 there, 0.1 here"),
    ]:
        with pytest.raises(ValueError, match=match):
            fit(other, data, tmp_path / "run")
    with pytest.raises(ValueError, match="another run: data is"):
        fit(RUN, data._replace(images=255 - data.images), tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    with pytest.raises(ValueError, match="no folder of a run"):
        fit(RUN, data, tmp_path / "mine")


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (np.arange(9) % 4, "labels are 0 .. 3: a network of 3 classes takes 0 .. 2"),
        (np.zeros(4, int), "expected a whole number for each of 9 pictures"),
        (np.zeros(9), "labels are float64"),
        (None, "has 3 classes, and the pictures have no labels"),
    ],
)
def test_labels_must_fit(tmp_path, data, labels, match):
    with pytest.raises(ValueError, match=match):
        fit(RUN, data._replace(labels=labels), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"rate": 0.0}, "rate is 0.0"),
        ({"decay": 1.5}, "decay is 1.5"),
        ({"ema": ()}, "ema is empty"),
        ({"ema": (1.0,)}, "ema holds 1.0"),
        ({"accumulate": 3}, "batch is 8: it must be a multiple of accumulate, 3"),
        ({"drop_labels": 1.0}, "drop_labels is 1.0"),
        ({"unmirrored": (0, 3)}, "unmirrored is 3: it must be a whole number in 0 .. 2"),
        (
            {"unmirrored": (1,), "unet": replace(NETWORK, num_classes=None)},
            "unmirrored is .1,., and the network has no classes",
        ),
        ({"loss": "l1"}, "loss is 'l1'"),
        ({"loss": "mse"}, "has 6 output channels, and the loss 'mse'"),
        ({"prediction": "score"}, "prediction is 'score'"),
        ({"schedule": "none"}, "schedule is 'none'"),
    ],
)
def test_settings_out_of_range_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        replace(RUN, **changes)


# Orbax leaves coroutines behind that were never awaited.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("light")
def test_a_disk_that_fills_keeps_the_last_checkpoint_and_is_enlarged(tmp_path, data, small_disk):
    run = replace(RUN, steps=12, save_every=1, keep=12)
    whole = fit(run, data, tmp_path / "whole")
    size = sum(path.stat().st_blocks * 512 for path in (tmp_path / "whole").rglob("*"))
    subprocess.run(["mount", "-o", f"remount,size={size // 2}", small_disk], check=True)
    out = small_disk / "run"
    with pytest.raises(
        OSError, match="cannot be written to .*(No space left|Errno 28).*; make room"
    ):
        fit(run, data, out)
    kept = latest(out)
    assert kept is not None and 0 < kept < 12
    subprocess.run(["mount", "-o", f"remount,size={size * 2}", small_disk], check=True)
    jax.tree.map(np.testing.assert_array_equal, fit(run, data, out), whole)


@pytest.mark.usefixtures("light")
def test_the_log_forgets_what_comes_after_the_checkpoint(tmp_path, data):
    run = replace(RUN, steps=4, log_every=1)
    fit(run, data, tmp_path)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write(json.dumps({"step": 5, "seconds": 1.0}) + "\n" + '{"step": 6, "sec')
    fit(replace(run, steps=6), data, tmp_path)
    assert [row["step"] for row in log(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_the_learning_rate_rises_stays_and_falls_to_0():
    rate = learning_rate(2e-3, steps=100, warmup=10, decay=0.4)
    rates = np.array([rate(i) for i in range(101)])
    expected = np.interp(np.arange(101), [0, 10, 60, 100], [0, 2e-3, 2e-3, 0])
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-9)


def test_the_constant_part_does_not_know_how_long_the_run_will_be():
    short, long = (learning_rate(1e-3, steps, 5, 0.5) for steps in (40, 80))
    assert [short(i) for i in range(20)] == [long(i) for i in range(20)]


@pytest.fixture(scope="module")
def pictures():
    """Two pictures of which no two pixels are the same."""
    return jnp.linspace(-1, 0.9, 2 * 4 * 4 * 3).reshape(2, 4, 4, 3)


def moves(picture, pixels):
    """Every picture that a shift on white, with or without a flip, makes of one."""
    sides = range(2 * pixels + 1)
    for seen in picture, picture[:, ::-1]:
        rim = np.pad(seen, [(pixels, pixels), (pixels, pixels), (0, 0)], constant_values=1)
        yield from (rim[top : top + 4, left : left + 4] for top in sides for left in sides)


@pytest.mark.parametrize("pixels", [0, 1, 2])
def test_pictures_are_shifted_on_white_and_flipped_and_nothing_else(pictures, pixels):
    batch = jnp.repeat(pictures, 1500, axis=0)
    moved = np.asarray(jax.jit(partial(look, shift=pixels, flip=True))(jax.random.key(0), batch))
    for of_one, picture in zip(np.split(moved, 2), np.asarray(pictures), strict=True):
        known = np.stack(list(moves(picture, pixels)))
        found, count = np.unique(of_one, axis=0, return_counts=True)
        assert {x.tobytes() for x in found} == {x.tobytes() for x in known}
        # Each as often as any other, within 5 standard deviations.
        expected = 1500 / len(known)
        assert np.abs(count - expected).max() < 5 * np.sqrt(expected)


def test_flips_and_shifts_are_drawn_apart(pictures):
    first, second = (look(jax.random.key(i), pictures, 2, True) for i in range(2))
    assert (first != second).any()
    np.testing.assert_array_equal(look(jax.random.key(0), pictures, 2, True), first)


def test_pictures_that_are_not_mirrored_are_left_alone_and_the_rest_as_it_was(pictures):
    batch, sided = jnp.tile(pictures, (50, 1, 1, 1)), jnp.arange(100) % 3 == 0
    free, held = (look(jax.random.key(0), batch, 0, True, which) for which in (None, sided))
    np.testing.assert_array_equal(held[sided], batch[sided])
    np.testing.assert_array_equal(held[~sided], free[~sided])
    assert (free != batch).any((1, 2, 3)).mean() > 0.3


@pytest.mark.usefixtures("light")
def test_a_step_mirrors_no_picture_of_an_unmirrored_label(data):
    """Then its loss is that of a step without mirrors."""
    images = data.images[:8].copy()
    images[:, :, :4] = 0
    run = replace(RUN, shift=0, unmirrored=(1,))

    def loss(run, label):
        step = train.train_step(run, placement.mesh(1))
        _, metrics = step(train.init(run), tables(run), images, np.full(8, label, np.int32))
        return metrics.total

    assert loss(run, 1) == loss(replace(run, flip=False), 1)
    assert loss(run, 2) != loss(replace(run, flip=False), 2)
