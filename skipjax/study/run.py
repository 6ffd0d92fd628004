"""Runs the study, unit by unit, and goes on where it was."""

import json
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from skipjax.checks import whole
from skipjax.files import pending
from skipjax.identity import claim
from skipjax.models import param_shapes
from skipjax.study import design, measure
from skipjax.study.design import Study, Unit
from skipjax.training import classify
from skipjax.training.fit import averaged, fit
from skipjax.training.pictures import Pictures
from skipjax.weights import checkpoint


def run(study: Study, out: str | Path, worker: int = 0, num_workers: int = 1) -> None:
    """Trains, samples and measures all networks of a study that are not done yet.

    Killed at any moment and called again, it goes on: a network from its last checkpoint, its
    samples from the first. Several processes may share a folder.

    Args:
        study: What to do.
        out: Folder: `study.json` (what it is), `classifier/`, `floor.json`, and for each unit a
            folder with its training, `cells.json` and `samples.npz`.
        worker: Which process this is; it takes every n-th unit.
        num_workers: How many there are.

    Raises:
        ValueError: If a size is out of range, or `out` holds another study, or something else;
            nothing was written then.
    """
    num_workers = whole("num_workers", num_workers, 1)
    worker = whole("worker", worker, 0, num_workers - 1)
    out = Path(out)
    design.check(study)
    seen, held = design.pictures(study)
    said = {"pictures": [seen.fingerprint, held.fingerprint], "study": asdict(study)}
    claim(out / "study.json", said, ["study.seeds"])
    classifier = _classifier(study, out, seen, held)
    for unit in list(design.units(study))[worker::num_workers]:
        if not (out / unit.name / "cells.json").exists():
            _unit(study, unit, out / unit.name, classifier, seen, held)


def _classifier(study: Study, out: Path, seen: Pictures, held: Pictures) -> Any:
    """Params of the study's classifier: trained, or read."""
    folder = out / "classifier"
    like = param_shapes(study.classifier)
    if folder.exists() and (out / "floor.json").exists():
        return checkpoint.restore(folder, like)
    run = study.run
    trained = classify.train(
        study.classifier, seen, held, study.classifier_steps, shift=run.shift, flip=run.flip
    )
    if not folder.exists():
        checkpoint.save(folder, trained.params)
    found = {"accuracy_held_out": trained.accuracy}
    found |= measure.floor(study, trained.params, seen, held)
    _write(out / "floor.json", found)
    return trained.params


def _unit(
    study: Study, unit: Unit, out: Path, classifier: Any, seen: Pictures, held: Pictures
) -> None:
    began = time.perf_counter()
    training = design.training(study, unit)
    state = fit(training, seen, out / "training", progress=False)
    params = averaged(training, state, seen.class_names)
    trained = time.perf_counter()
    held_out = measure.likelihood(study, params, held)
    rows, shown = measure.cells(study, unit, params, classifier, seen)
    done = time.perf_counter()
    with pending(out / "samples.npz") as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **shown)
    found = {
        "unit": unit._asdict(),
        "steps": training.steps,
        "batch": training.batch,
        "machine": f"{jax.devices()[0].device_kind}, {platform.machine()}",
        "seconds": {"training": round(trained - began, 1), "cells": round(done - trained, 1)},
        "held_out": held_out,
        "cells": rows,
    }
    _write(out / "cells.json", found)
    print(f"{study.data} {unit.name}: {found['seconds']} s, {held_out}", flush=True)


def _write(path: Path, found: Any) -> None:
    with pending(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
