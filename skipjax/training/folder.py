"""A run's folder: what run it is, its checkpoints, and the log of its losses."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from skipjax import identity
from skipjax.files import pending
from skipjax.training.run import MAY_CHANGE, Run

# The step of the newest checkpoint, which is waited for where it is still being written.
Latest = Callable[[], int | None]


def steps(out: Path) -> Path:
    """Folder of the checkpoints."""
    return out / "steps"


def claim(out: Path, run: Run, data: str, class_names: tuple[str, ...]) -> None:
    """Makes the folder of a run, or finds that it is this run's.

    Args:
        out: The folder.
        run: What is to be done in it.
        data: Fingerprint of the pictures.
        class_names: Of the labels.

    Raises:
        ValueError: If it holds another run, or something else, or cannot be written to.
    """
    said = {"data": data, "class_names": class_names, "run": run.describe()}
    identity.claim(out / "run.json", said, [f"run.{name}" for name in MAY_CHANGE])


def read(out: Path) -> tuple[Run, tuple[str, ...]]:
    """The run of a folder, and the names of its classes.

    Raises:
        ValueError: If there is none.
    """
    if not (out / "run.json").is_file():
        raise ValueError(f"{out} holds no run: there is no run.json in it")
    found = identity.read(out / "run.json")
    if "unet" in found["run"]:
        raise ValueError(f"{out} holds a run of an older version: begin anew in another folder")
    return Run(**found["run"]), tuple(found["class_names"])


def kept(latest: int | None) -> str:
    """What an error says of the checkpoints."""
    if latest is None:
        return "there is no checkpoint yet. A lower learning rate may help"
    return f"the last checkpoint is of step {latest}. A lower learning rate may help"


class Log:
    """`log.jsonl`: a line every few steps, with means over the steps since the line before.

    Opened, it forgets the lines of steps that come after the checkpoint that a run goes on from.

    Args:
        out: The run's folder.
        done: Steps that are done.
    """

    def __init__(self, out: Path, done: int):
        self._path = out / "log.jsonl"
        rows = [row for row in rows_of(out) if row["step"] <= done]
        with pending(self._path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self._before = rows[-1]["seconds"] if rows else 0.0
        self._recent, self._first, self._began = [], done + 1, time.perf_counter()

    def __enter__(self) -> "Log":
        self._file = open(self._path, "a", encoding="utf-8")
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def add(self, metrics: Any) -> None:
        """A step's metrics; not waited for."""
        self._recent.append(metrics)

    def write(self, done: int, latest: Latest) -> dict[str, float]:
        """Writes the line of a step, and returns it.

        Raises:
            FloatingPointError: If a loss or gradient since the last line is not finite.
        """
        recent = jax.device_get(self._recent)
        for i, metrics in enumerate(recent, self._first):
            for name in ("total", "grad_norm"):
                if not math.isfinite(getattr(metrics, name)):
                    what = "loss" if name == "total" else "gradient"
                    raise FloatingPointError(
                        f"the {what} is {getattr(metrics, name)} at step {i}; {kept(latest())}"
                    )
        columns = type(recent[0])(*map(_mean, zip(*recent, strict=True)))
        row = {k: v for k, v in columns._asdict().items() if v is not None}
        seconds = self._before + time.perf_counter() - self._began
        row = {"step": done} | row | {"seconds": round(seconds, 3)}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._recent, self._first = [], done + 1
        return row


def rows_of(out: Path) -> list[dict[str, float]]:
    """The lines of a run's log; one that was cut by a kill, and what follows it, left out."""
    path = out / "log.jsonl"
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def plot(out: Path) -> Any:
    """Draws the log; needs the extra `plot`.

    Returns:
        A matplotlib `Figure`.
    """
    from matplotlib.figure import Figure

    rows = rows_of(out)
    names = [name for name in ("total", "mse", "bound", "grad_norm") if name in (rows or [{}])[0]]
    figure = Figure(figsize=(3.2 * max(len(names), 1), 2.8), layout="constrained")
    for i, name in enumerate(names, 1):
        axes = figure.add_subplot(1, len(names), i)
        axes.plot([row["step"] for row in rows], [row[name] for row in rows], linewidth=1)
        axes.set(title=name, xlabel="step", yscale="log" if rows[0][name] > 0 else "linear")
    return figure


def _mean(column: tuple) -> float | None:
    return None if column[0] is None else float(np.mean(column))
