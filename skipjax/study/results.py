"""The study's results: put together from its units, and what they come to over seeds."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from skipjax.files import pending
from skipjax.study import control, design
from skipjax.study.design import Study, Unit

METRICS = ("energy", "frechet", "precision", "recall")


class Cell(NamedTuple):
    """One way to train and sample."""

    loss: str  # "ddpm", or form and skip: "released_9"
    sampler: str
    cutoff: float | None
    scaling: str
    nfe: int


class Mean(NamedTuple):
    """A mean over seeds, and its standard error (NaN of one seed alone)."""

    mean: float
    standard_error: float
    seeds: int


def gather(study: Study, out: str | Path) -> dict[str, Any]:
    """Everything that was measured in a folder, as JSON has it.

    Raises:
        ValueError: If no unit is done there.
    """
    out = Path(out)
    there = [unit for unit in design.units(study) if (out / unit.name / "cells.json").exists()]
    if not there:
        raise ValueError(f"{out} holds no unit that is done: run the study on {study.data} first")
    units = [json.loads((out / unit.name / "cells.json").read_text()) for unit in there]
    return {
        "data": study.data,
        "machines": sorted({unit["machine"] for unit in units}),
        "seconds": round(sum(sum(unit["seconds"].values()) for unit in units)),
        "steps": units[0]["steps"],
        "batch": units[0]["batch"],
        "dtype": study.run.dtype,
        "floor": json.loads((out / "floor.json").read_text()),
        "exact_eps": {"columns": control.COLUMNS, "cells": control.cells(study)},
        "columns": ["sampler", "cutoff", "scaling", "nfe", "pictures", *METRICS],
        "units": [
            unit["unit"]
            | {
                "held_out": unit["held_out"],
                "cells": [list(cell.values()) for cell in unit["cells"]],
            }
            for unit in units
        ],
    }


def write(path: str | Path, results: dict[str, Any]) -> None:
    """Writes results, a line for each cell."""
    lines = json.dumps(results, separators=(",", ":")).replace("],[", "],\n[")
    lines = lines.replace('{"form"', '\n{"form"')
    with pending(path) as temporary:
        temporary.write_text(lines + "\n", encoding="utf-8")


def by_seed(results: dict[str, Any], metric: str) -> dict[Cell, dict[int, float]]:
    """A metric of every cell, by seed."""
    columns = results["columns"]
    found: dict[Cell, dict[int, float]] = defaultdict(dict)
    for unit in results["units"]:
        loss = Unit(unit["form"], unit["skip"], unit["seed"]).loss
        for row in unit["cells"]:
            cell = dict(zip(columns, row, strict=True))
            where = Cell(loss, *(cell[name] for name in Cell._fields[1:]))
            found[where][unit["seed"]] = cell[metric]
    return dict(found)


def means(results: dict[str, Any], metric: str) -> dict[Cell, Mean]:
    """A metric of every cell: its mean over seeds, and the mean's standard error."""
    return {cell: mean(list(of.values())) for cell, of in by_seed(results, metric).items()}


def difference(results: dict[str, Any], metric: str, a: Cell, b: Cell) -> Mean:
    """How much larger a metric is of cell a than of b, seed by seed.

    Networks of one seed begin with the same weights and see the same pictures, and their samples
    begin with the same noise: what is common to both cells drops out.
    """
    found = by_seed(results, metric)
    both = sorted(found[a].keys() & found[b].keys())
    return mean([found[a][seed] - found[b][seed] for seed in both])


def mean(values: list[float]) -> Mean:
    """Of a few seeds."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return Mean(float(np.mean(values)), float(error), len(values))
