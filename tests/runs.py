"""The least runs of training, and what is found in their folders."""

import json
from dataclasses import replace

import least
import numpy as np

from skipjax.training import fit as fits
from skipjax.training import step as train
from skipjax.training.pictures import Pictures
from skipjax.training.run import Run
from skipjax.weights.checkpoint import Steps

NETWORK = least.config()
RUN = Run(
    network=NETWORK,
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
# What compiles in less time.
LIGHT = replace(RUN, loss="mse", network=replace(NETWORK, out_channels=3), flip=False, shift=0)


def colours() -> Pictures:
    """One plain colour per class."""
    labels = np.arange(9) % 3
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)[labels]
    images = np.broadcast_to(colours[:, None, None], (9, 8, 8, 3)).copy()
    return Pictures(images, labels.astype(np.int32), (), ("red", "green", "blue"))


def light(monkeypatch):
    """A fixture's work: no program of another test is taken for this one's."""
    train._train_step.cache_clear()
    yield
    train._train_step.cache_clear()


def latest(out):
    """The step of the newest checkpoint."""
    checkpoints = Steps(out / "steps")
    step = checkpoints.latest
    checkpoints.close()
    return step


def log(out):
    """The lines of a run's log."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def dies_after(steps, monkeypatch):
    """Makes the process die in the step that follows."""

    class Bar(fits.tqdm):
        def update(self, n=1):
            if self.n == steps:
                raise SystemExit("killed")
            return super().update(n)

    monkeypatch.setattr(fits, "tqdm", Bar)
