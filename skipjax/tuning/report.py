"""What a tuning came to, for people: beside the plan, a table and pictures."""

import json
from pathlib import Path
from typing import Any

from skipjax.files import pending
from skipjax.plans import Plan
from skipjax.tuning.search import Outcome

SHOWN = 8  # fixed plans of the table


def write(out: Path, plan: Plan, outcome: Outcome, curve: dict[int, float]) -> None:
    """Writes plan.json, report.md and, with the extra `plot`, before.png, after.png and error.png.

    Args:
        out: Folder.
        plan: What is returned.
        outcome: How it came about.
        curve: Held-out error of the best fixed method by number of calls.
    """
    _text(out / "plan.json", plan.to_json())
    _text(out / "report.md", markdown(plan, outcome, curve))
    try:
        pictures = {"before": outcome.fixed[0].plot(), "after": plan.plot()}
        pictures["error"] = _error(plan, outcome, curve)
    except ImportError:
        return
    for name, figure in pictures.items():
        with pending(out / f"{name}.png") as temporary:
            figure.savefig(temporary)


def markdown(plan: Plan, outcome: Outcome, curve: dict[int, float]) -> str:
    """A table of the figures, the error by rounds, and the levels before and after."""
    origin: Any = plan.origin
    (ours, theirs), (mean, error) = outcome.errors, outcome.difference
    names = [p.origin.method if p.origin else "a plan" for p in outcome.fixed[:SHOWN]]
    verdict = (
        f"The learned plan wins: {ours / theirs:.3f} of the best fixed plan's error."
        if outcome.won
        else "The learned plan does not win by two standard errors: the fixed one is kept."
    )
    rows = [
        f"# {origin.method}: {plan.nfe} calls",
        "",
        verdict,
        "",
        "| held-out root mean square | |",
        "|---|---|",
        f"| learned | {ours:.5g} |",
        *(f"| {names[0]}, {nfe} calls | {error:.5g} |" for nfe, error in curve.items()),
        f"| difference of squares | {mean:.3g} ± {error:.2g} |",
        "",
        f"Best fixed plans: {', '.join(names)}.",
        f"Error by rounds: {', '.join(f'{value:.4g}' for value in outcome.rounds)}.",
        f"{outcome.calls} network calls of one picture, {outcome.seconds:.0f} s.",
        "",
        "| call | t before | t after |",
        "|---|---|---|",
        *(
            f"| {i} | {before:.1f} | {after:.1f} |"
            for i, (before, after) in enumerate(zip(outcome.fixed[0].t, plan.t, strict=True))
        ),
        "",
        "```json",
        json.dumps(origin.tuned, indent=1),
        "```",
        "",
    ]
    return "\n".join(rows)


def _error(plan: Plan, outcome: Outcome, curve: dict[int, float]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    name = outcome.fixed[0].origin.method if outcome.fixed[0].origin else "fixed"
    axes.loglog(list(curve), list(curve.values()), marker="o", label=name)
    axes.loglog([plan.nfe], [outcome.errors[0]], marker="*", markersize=12, label="learned")
    axes.set(xlabel="network calls", ylabel="held-out error", xticks=list(curve))
    axes.set_xticks([], minor=True)
    axes.set_xticklabels(map(str, curve))
    axes.legend()
    return figure


def _text(path: Path, text: str) -> None:
    with pending(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
