"""Runs that are killed at random moments end in the very weights of one that ran through."""

import json
import time
from functools import partial

import jax
import least
import numpy as np
import pytest
import runs
from processes import Process

from skipjax import cli
from skipjax.training.fit import last
from skipjax.training.folder import rows_of

STEPS, KILLS = 600, 5
UNET = """{"model_channels": 32, "num_res_blocks": 0, "attention_resolutions": [],
"channel_mult": [1], "use_scale_shift_norm": true, "num_head_channels": 32}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of pictures, of a network, and of compiled programs."""
    folder = tmp_path_factory.mktemp("kills")
    rng = np.random.default_rng(0)
    np.savez(folder / "noise.npz", rng.integers(0, 256, (50, 4, 4, 1), np.uint8))
    (folder / "unet.json").write_text(UNET)
    (folder / "compiled").mkdir()
    return folder


@pytest.fixture
def light(monkeypatch):
    yield from runs.light(monkeypatch)


def command(folder, out, steps, *more):
    line = ["train", folder / "noise.npz", "--unet", folder / "unet.json", "--out", out]
    return [*line, "--steps", steps, "--batch", 8, "--log-every", 5, "--seed", 3, *more]


def assert_alike(killed, through, steps):
    """Two folders hold one run: its weights, its log, and a checkpoint of it."""
    (run, one, _), (same, other, _) = last(through), last(killed)
    assert run == same and one.step == steps
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert [row["step"] for row in rows_of(killed)] == [row["step"] for row in rows_of(through)]
    assert (killed / "checkpoint" / "card.json").is_file()


@pytest.mark.usefixtures("light", "compiled_in_a_hurry")
def test_a_command_that_is_killed_and_given_again_ends_in_the_same_weights(
    folder, tmp_path, monkeypatch, capsys
):
    through, killed = tmp_path / "through", tmp_path / "killed"

    def train(out):
        cli.main(list(map(str, command(folder, out, 12, "--save-every", 5, "--shift", 1))))

    train(through)
    assert "12 steps of 8 pictures. Saved: " in capsys.readouterr().out
    with monkeypatch.context() as patch:
        runs.dies_after(8, patch)
        with pytest.raises(SystemExit, match="killed"):
            train(killed)
    assert runs.latest(killed) == 5 and not (killed / "checkpoint").exists()
    train(killed)
    assert_alike(killed, through, 12)
    card = json.loads((killed / "checkpoint" / "card.json").read_text())
    assert card["training"]["steps"] == 12 and card["network"]["in_channels"] == 1
    assert card["data"].endswith("noise.npz: 50 pictures, " + card["data"][-16:])


@pytest.mark.slow
@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("devices", [1, 8])
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_weights(folder, devices):
    through, killed = folder / f"through{devices}", folder / f"killed{devices}"

    def start(out):
        arguments = command(folder, out, STEPS, "--save-every", 50)
        run = partial(least.command, arguments, devices, str(folder / "compiled"))
        return Process.of(run, folder / f"{out.name}.log")

    process = start(through)
    assert process.wait(400) == 0, process.said
    rng, falls = np.random.default_rng(devices), []
    for kill in range(KILLS):
        process = start(killed)
        # Not before something was done since the last kill, and then at any moment.
        goal = max(done(killed), rng.integers(STEPS // KILLS) + kill * STEPS // (KILLS + 1))
        while process.alive and done(killed) <= goal:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.05))
        assert process.alive, f"it ended before kill {kill + 1}:\n{process.said}"
        process.kill()
        falls.append(done(killed))
    process = start(killed)
    assert process.wait(400) == 0, process.said
    assert falls[-1] < STEPS
    assert_alike(killed, through, STEPS)


def done(out):
    rows = rows_of(out)
    return int(rows[-1]["step"]) if rows else 0
