"""Training: runs that stop, go on, and are refused."""

import json
import shutil
import subprocess
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from runs import LIGHT, RUN, colours, dies_after, latest, log

from skipjax import sharding
from skipjax.training import fit as fits
from skipjax.training import step as train
from skipjax.training.fit import fit

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
slow = pytest.mark.slow
DATA = colours()
# One that others go on from.
SHORT = replace(LIGHT, steps=4, decay=0.0, log_every=1)


@pytest.fixture
def light(monkeypatch):
    yield from runs.light(monkeypatch)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The folder of a short run, and the state that it ended in."""
    out = tmp_path_factory.mktemp("runs") / "short"
    with pytest.MonkeyPatch.context() as patch:
        for _ in runs.light(patch):
            state = jax.device_get(fit(SHORT, DATA, out))
    return out, state


@pytest.fixture
def copy(short, tmp_path):
    """A folder of its own with the short run."""
    return shutil.copytree(short[0], tmp_path / "copy")


@slow
@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("devices", [1, 8])
def test_a_killed_run_goes_on_to_the_very_state_of_one_that_was_not(
    tmp_path, devices, monkeypatch
):
    mesh = sharding.mesh(devices)
    whole = fit(RUN, DATA, tmp_path / "whole", mesh=mesh)
    leaf = jax.tree.leaves(whole.params)[0]
    assert len(leaf.sharding.device_set) == devices
    assert whole.step == 6
    with monkeypatch.context() as patch:
        dies_after(4, patch)
        with pytest.raises(SystemExit, match="killed"):
            fit(RUN, DATA, tmp_path / "parts", mesh=mesh)
    assert latest(tmp_path / "parts") == 3
    parts = fit(RUN, DATA, tmp_path / "parts", mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    assert latest(tmp_path / "parts") == 6


@pytest.mark.usefixtures("light")
def test_a_finished_run_is_left_as_it_is(short, copy):
    again = fit(SHORT, DATA, copy)
    jax.tree.map(np.testing.assert_array_equal, again, short[1])
    assert [row["step"] for row in log(copy)] == [1, 2, 3, 4]


@pytest.mark.usefixtures("light")
def test_a_longer_run_goes_on_and_its_log_forgets_what_comes_after_the_checkpoint(copy):
    with open(copy / "log.jsonl", "a") as file:
        file.write(json.dumps({"step": 5, "seconds": 1.0}) + "\n" + '{"step": 6, "sec')
    longer = fit(replace(SHORT, steps=6), DATA, copy)
    assert longer.step == 6 and latest(copy) == 6
    assert [row["step"] for row in log(copy)] == [1, 2, 3, 4, 5, 6]
    assert json.loads((copy / "run.json").read_text())["run"]["steps"] == 6


@slow
def test_a_run_learns(tmp_path):
    run = replace(RUN, steps=150, rate=3e-3, save_every=1000, shift=0)
    state = fit(run, DATA, tmp_path, mesh=sharding.mesh(1))
    first, *_, last = log(tmp_path)
    assert (first["step"], last["step"]) == (50, 150)
    assert last["mse"] < 0.7 * first["mse"]
    assert last["total"] < first["total"]
    chex.assert_tree_all_finite(state.ema)


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("save_every", "kept"),
    [pytest.param(1, 5, marks=slow), (4, 4), pytest.param(1000, None, marks=slow)],
)
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    tmp_path, save_every, kept, monkeypatch
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
        fit(replace(LIGHT, steps=20, save_every=save_every), DATA, tmp_path)
    assert latest(tmp_path) == kept
    assert ("no checkpoint yet" if kept is None else f"of step {kept}.") in str(end.value)


@pytest.mark.usefixtures("light")
def test_a_network_goes_on_from_another_and_leaves_it_alone(tmp_path):
    run = replace(SHORT, steps=1, rate=1e-9)
    start = run.model(train.init(replace(run, seed=9)).params)
    before = jax.device_get(start.params)
    state = fit(run, DATA, tmp_path / "run", start=start)
    jax.tree.map(np.testing.assert_array_equal, start.params, before)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, before)
    other = replace(run, network=replace(run.network, num_res_blocks=1))
    with pytest.raises(ValueError, match="another network: its .*num_res_blocks is 0, not 1"):
        fit(other, DATA, tmp_path / "other", start=start)
    assert not (tmp_path / "other").exists()


def test_another_runs_folder_is_refused_with_what_differs(tmp_path, short):
    out, dropping = short[0], replace(LIGHT.network, dropout=0.1)
    for other, match in [
        (replace(SHORT, rate=1e-2), "rate is 0.001 there, 0.01 here"),
        (replace(SHORT, network=dropping), "network.dropout is 0.0 there, 0.1 here"),
    ]:
        with pytest.raises(ValueError, match=match):
            fit(other, DATA, out)
    with pytest.raises(ValueError, match="another run: data is"):
        fit(SHORT, DATA._replace(images=255 - DATA.images), out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    with pytest.raises(ValueError, match="no folder of a run"):
        fit(SHORT, DATA, tmp_path / "mine")


MISFITS = [
    ({"labels": np.arange(9) % 4}, "labels are 0 .. 3: a network of 3 classes takes 0 .. 2"),
    ({"labels": np.zeros(4, int)}, "expected a whole number for each of 9 pictures"),
    ({"labels": np.zeros(9)}, "labels are float64"),
    ({"labels": None}, "has 3 classes, and the pictures have no labels"),
    ({"images": DATA.images[:, :4]}, r"pictures are \(4, 8, 3\), .* wants \(8, 8, 3\)"),
]


def test_pictures_and_labels_must_fit(tmp_path, subtests):
    for changes, match in MISFITS:
        with subtests.test(match), pytest.raises(ValueError, match=match):
            fit(RUN, DATA._replace(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_must_divide_over_the_devices(tmp_path):
    run = replace(RUN, batch=12)
    with pytest.raises(ValueError, match="batch is 12: it must be a multiple of the 8 devices"):
        fit(run, DATA, tmp_path / "run")
    assert not (tmp_path / "run").exists()


REFUSED = [
    ({"steps": 0}, "steps is 0"),
    ({"rate": 0.0}, "rate is 0.0"),
    ({"decay": 1.5}, "decay is 1.5"),
    ({"ema": ()}, "ema is empty"),
    ({"ema": (1.0,)}, "ema holds 1.0"),
    ({"accumulate": 3}, "batch is 8: it must be a multiple of accumulate, 3"),
    ({"drop_labels": 1.0}, "drop_labels is 1.0"),
    ({"unmirrored": (0, 3)}, "unmirrored is 3: it must be a whole number in 0 .. 2"),
    (
        {"unmirrored": (1,), "network": replace(RUN.network, num_classes=None)},
        "unmirrored is .1,., and the network has no classes",
    ),
    ({"loss": "l1"}, "loss is 'l1'"),
    ({"loss": "mse"}, "has 6 output channels, and the loss 'mse'"),
    ({"prediction": "noise"}, "parameterization is 'noise'"),
    ({"schedule": "none"}, "schedule is 'none'"),
]


def test_settings_out_of_range_are_refused(subtests):
    for changes, match in REFUSED:
        with subtests.test(match), pytest.raises(ValueError, match=match):
            replace(RUN, **changes)


# Orbax leaves coroutines behind that were never awaited.
@slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("light")
def test_a_disk_that_fills_keeps_the_last_checkpoint_and_is_enlarged(tmp_path, small_disk):
    run = replace(LIGHT, steps=12, save_every=1, keep=12)
    whole = fit(run, DATA, tmp_path / "whole")
    size = sum(path.stat().st_blocks * 512 for path in (tmp_path / "whole").rglob("*"))
    subprocess.run(["mount", "-o", f"remount,size={size // 2}", small_disk], check=True)
    out = small_disk / "run"
    with pytest.raises(
        OSError, match="cannot be written to .*(No space left|Errno 28).*; make room"
    ):
        fit(run, DATA, out)
    kept = latest(out)
    assert kept is not None and 0 < kept < 12
    subprocess.run(["mount", "-o", f"remount,size={size * 2}", small_disk], check=True)
    jax.tree.map(np.testing.assert_array_equal, fit(run, DATA, out), whole)
