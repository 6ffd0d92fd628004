"""Networks of diffusers' kind are trained here too: from nothing, and from what others trained."""

import json
import warnings

import jax
import numpy as np
import pytest
from unet2d_cases import CASES, tensors_of

import skipjax
from skipjax import cli
from skipjax.training import fit
from skipjax.training.pictures import Pictures
from skipjax.training.run import Run
from skipjax.weights import folders, parts, unet2d

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
CONFIG = unet2d.config_of(CASES["one_level"] | {"num_class_embeds": 3, "dropout": 0.1})


def pictures(classes=2):
    rng = np.random.default_rng(0)
    names = tuple("abcdef"[:classes])
    images = rng.integers(0, 256, (16, 8, 8, 3), np.uint8)
    return Pictures(images, np.arange(16, dtype=np.int32) % classes, (), names)


@pytest.mark.slow
def test_it_trains_with_dropout_and_labels_that_are_dropped(tmp_path):
    run = Run(network=CONFIG, steps=10, batch=8, rate=1e-2, warmup=0, drop_labels=0.2)
    state = fit.fit(run, pictures(), tmp_path / "run", progress=False)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert int(state.step) == 10 and np.isfinite(rows[-1]["total"])
    trained = fit.averaged(run, state, ("a", "b"))
    assert trained.labels.null_label == 2
    options = {"plan": "ddim", "steps": 2, "num": 1, "label": "b", "guidance": 2.0}
    drawn = skipjax.sample(trained, jax.random.key(0), **options)
    assert drawn.shape == (1, 8, 8, 3)


@pytest.mark.slow
def test_the_command_goes_on_from_one_with_other_classes(work, tmp_path, capsys):
    model = unet2d.model(CONFIG, "theirs")
    model = model.replace(params=unet2d.to_params(tensors_of(CONFIG), CONFIG))
    (tmp_path / "theirs").mkdir()
    folders.save(tmp_path / "theirs", model.params, parts.describe(model), np.float32)
    data = pictures(classes=4)
    np.savez(work / "data.npz", data.images, data.labels)
    line = f"train data.npz --out run --start {tmp_path / 'theirs'} --steps 2 --batch 8"
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        cli.main(line.split())
    assert "theirs knows 3 labels, and there are 4 here" in capsys.readouterr().err
    trained = skipjax.load(work / "run" / "checkpoint")
    assert trained.labels.classes == 4 and trained.network.num_class_embeds == 4
    near = np.abs(trained.params["conv_in"]["kernel"] - model.params["conv_in"]["kernel"]).max()
    assert 0 < near < 0.01
