"""Runs that are killed at random moments end in the very weights of one that ran through."""

import time

import jax
import numpy as np
import pytest
from processes import Process

from skipjax.training.fit import last
from skipjax.training.folder import rows_of

STEPS, KILLS = 200, 5
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


def start(folder, out, devices):
    line = ["train", folder / "noise.npz", "--unet", folder / "unet.json", "--out", out]
    line += ["--steps", STEPS, "--batch", 8, "--save-every", 20, "--log-every", 5, "--seed", 3]
    log = folder / f"{out.name}.log"
    return Process(line, log, devices=devices, cache=folder / "compiled")


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_weights(folder, devices):
    through, killed = folder / f"through{devices}", folder / f"killed{devices}"
    process = start(folder, through, devices)
    assert process.wait(400) == 0, process.said
    rng, kills, falls = np.random.default_rng(devices), 0, []
    while kills < KILLS:
        process = start(folder, killed, devices)
        # Not before something was done since the last kill, and then at any moment.
        before, goal = done(killed), min(STEPS - 20, 30 * (kills + 1))
        while process.alive and done(killed) <= max(before, goal - 30):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        assert process.alive, f"it ended before kill {kills + 1}:\n{process.said}"
        process.kill()
        kills += 1
        falls.append(done(killed))
    process = start(folder, killed, devices)
    assert process.wait(400) == 0, process.said
    assert falls[-1] < STEPS
    (run, one, _), (same, other, _) = last(through), last(killed)
    assert run == same and one.step == STEPS
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert [row["step"] for row in rows_of(killed)] == [row["step"] for row in rows_of(through)]
    assert (killed / "checkpoint" / "card.json").is_file()


def done(out):
    rows = rows_of(out)
    return int(rows[-1]["step"]) if rows else 0
