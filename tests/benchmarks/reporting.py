"""Tables, CSV and pictures of plans that were measured on tasks."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skipjax.evaluation.exact import estimate


class Row(NamedTuple):
    """One result: a cell of a table, and a line of the CSV.

    Attributes:
        task: On what.
        metric: What was measured.
        plan: Of which plan, or bound.
        nfe: Number of function evaluations.
        values: One for each repetition; a single one is exact. Repetition i of all plans has the
            same starting noise.
        bound: Whether this is no plan, but what plans are to be held against.
    """

    task: str
    metric: str
    plan: str
    nfe: int
    values: tuple[float, ...]
    bound: bool = False

    @property
    def mean(self) -> float:
        """The mean over repetitions; infinite where a sampler has left all bounds."""
        return float(np.mean(self.values))

    @property
    def standard_error(self) -> float:
        """Of the mean; 0 where it is exact."""
        if len(self.values) < 2 or not math.isfinite(self.mean):
            return 0.0
        return estimate(self.values).standard_error


def markdown(rows: list[Row]) -> str:
    """The tables of one task, one for each metric: plans, and below them the bounds."""
    blocks = []
    nfes = sorted({row.nfe for row in rows})
    for metric in dict.fromkeys(row.metric for row in rows):
        shown = [row for row in rows if row.metric == metric]
        lines = [f"| {metric} | " + " | ".join(f"{nfe} NFE" for nfe in nfes) + " |"]
        lines.append("|---" * (len(nfes) + 1) + "|")
        for name in dict.fromkeys(row.plan for row in sorted(shown, key=lambda row: row.bound)):
            cells = {row.nfe: row for row in shown if row.plan == name}
            texts = [_text(cells[nfe], shown) if nfe in cells else "" for nfe in nfes]
            lines.append(f"| {name} | " + " | ".join(texts) + " |")
        blocks.append("\n".join(lines))
    return f"## {rows[0].task}\n\n" + "\n\n".join(blocks) + "\n"


def write(rows: list[Row], path: Path) -> None:
    """A CSV, one line for each result."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "metric", "plan", "nfe", "mean", "standard_error"])
        writer.writerows((*row[:4], row.mean, row.standard_error) for row in rows)


def draw(rows: list[Row], metrics: Iterable[str], path: Path) -> None:
    """The metrics over NFE on logarithmic axes, a panel for each task."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row.metric in metrics]
    tasks = list(dict.fromkeys(row.task for row in rows))
    across = min(4, len(tasks))
    down = math.ceil(len(tasks) / across)
    figure = Figure(figsize=(3.6 * across, 3.2 * down + 1.2), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for panel in panels[len(tasks) :]:
        panel.set_visible(False)
    styles, lines = _styles(rows), {}
    for panel, task in zip(panels, tasks, strict=False):
        shown = [row for row in rows if row.task == task]
        for name, style in styles.items():
            curve = [row for row in shown if row.plan == name and 0 < row.mean < math.inf]
            if not curve:
                continue
            if curve[0].bound:
                mean, error = curve[0].mean, curve[0].standard_error
                lines[name] = panel.axhline(mean, **style)
                panel.axhspan(mean - error, mean + error, color=style["color"], alpha=0.1, lw=0)
            else:
                points = ((row.nfe, row.mean, row.standard_error) for row in curve)
                lines[name] = panel.errorbar(*zip(*points, strict=True), **style)
        panel.set(title=task, xscale="log", yscale="log", xlabel="NFE", ylabel=shown[0].metric)
        ticks = sorted({row.nfe for row in shown})
        # Beside their neighbours the labels of these two would overlap.
        panel.set_xticks(ticks, [str(nfe) if nfe not in (6, 12) else "" for nfe in ticks])
        panel.set_xticks([], minor=True)
        panel.grid(alpha=0.3)
    figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=across + 1)
    figure.savefig(path, dpi=120)


def _styles(rows: list[Row]) -> dict[str, dict]:
    """How each plan's curve looks, and each bound's."""
    names = dict.fromkeys(row.plan for row in rows if not row.bound)
    bounds = dict.fromkeys(row.plan for row in rows if row.bound)
    styles = {
        name: {"color": f"C{i % 10}", "marker": "os^Dv"[i % 5], "ls": ("-", "--")[i // 10 % 2]}
        for i, name in enumerate(names)
    }
    dashes = zip(bounds, (":", "--", "-."), strict=False)
    return styles | {name: {"color": "black", "ls": ls} for name, ls in dashes}


def _text(row: Row, rows: list[Row]) -> str:
    """A cell, bold where no plan of as many calls is known to be better.

    What counts is the difference to the best in each repetition: chance that both share, such as
    how many points fell to which mode, drops out of it.
    """
    if not math.isfinite(row.mean):
        return "diverged"
    text = f"{row.mean:.3g}"
    if row.standard_error:
        text += f"±{row.standard_error:.1g}"
    if row.bound:
        return text
    best = min((r for r in rows if r.nfe == row.nfe and not r.bound), key=lambda r: r.mean)
    behind = row._replace(values=tuple(np.subtract(row.values, best.values)))
    alike = behind.mean <= 2 * behind.standard_error + 1e-9 * abs(best.mean)
    return f"**{text}**" if alike else text
