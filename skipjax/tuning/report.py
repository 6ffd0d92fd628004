"""What a tuning came to, for people: beside the plan, a table and pictures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from skipjax import evaluation
from skipjax.files import pending
from skipjax.plans import Plan
from skipjax.schedules import Schedule
from skipjax.tuning.baselines import Score, with_more_calls
from skipjax.tuning.search import Outcome

SHOWN = 8  # baselines of the table
ENOUGH = 32  # samples, below which an energy distance says nothing


def sign(outcome: Outcome, about: dict[str, Any], target: np.ndarray) -> Plan:
    """The plan of an outcome, with what is known of it from held-out noise, as JSON has it.

    Args:
        outcome: Of a search.
        about: For what, and how, it was learned.
        target: Of the held-out examples.
    """
    (ours, theirs), (mean, error) = outcome.errors, outcome.difference
    first, plan = outcome.fixed[0], outcome.plan
    assert first.origin is not None and plan.origin is not None
    found = {
        "won": outcome.won,
        "error": {"tuned": ours, "fixed": theirs, "ratio": ours / theirs},
        "difference": {"mean": mean, "standard_error": error},
        "best_fixed": first.origin.method,
        "calls": outcome.calls,
        "seconds": round(outcome.seconds, 1),
    }
    half = len(target) // 2
    if half >= ENOUGH:  # of one half, drawn by the plan, to the targets of the other
        others = target[half:].reshape(len(target) - half, -1)
        found["energy_distance"] = {
            name: evaluation.energy_distance(values[:half], others)
            for name, values in zip(("tuned", "fixed"), outcome.drawn, strict=True)
        }
    return replace(plan, origin=replace(plan.origin, tuned=about | found))


def curve(score: Score, schedule: Schedule, outcome: Outcome) -> dict[int, float]:
    """Error of the best baseline by number of calls, up to three times as many."""
    more = with_more_calls(schedule, outcome.fixed[0])
    return {plan.nfe: float(score([plan])[0]) for plan in more}


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
    """A table of the figures, the error by iterations, and the levels before and after."""
    origin: Any = plan.origin
    (ours, theirs), (mean, error) = outcome.errors, outcome.difference
    names = [p.origin.method if p.origin else "a plan" for p in outcome.fixed[:SHOWN]]
    verdict = (
        f"The learned plan wins: {ours:.3g} instead of the best fixed plan's {theirs:.3g}."
        if outcome.won
        else "The learned plan does not win by two standard errors: the fixed one is kept."
    )
    rows = [
        f"# {origin.method}: {plan.nfe} calls",
        "",
        verdict,
        "",
        f"| held-out {origin.tuned['loss']} | |",
        "|---|---|",
        f"| learned | {ours:.5g} |",
        *(f"| {names[0]}, {nfe} calls | {error:.5g} |" for nfe, error in curve.items()),
        f"| difference | {mean:.3g} ± {error:.2g} |",
        "",
        f"Best fixed plans: {', '.join(names)}.",
        f"Error by iterations: {', '.join(f'{value:.4g}' for value in outcome.rounds)}.",
        f"{outcome.calls} network calls of one sample, {outcome.seconds:.0f} s.",
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
    axes.plot(list(curve), list(curve.values()), marker="o", label=name)
    axes.plot([plan.nfe], [outcome.errors[0]], marker="*", markersize=12, label="learned")
    # An energy distance near its floor falls below 0.
    scale = "log" if min(*curve.values(), outcome.errors[0]) > 0 else "linear"
    axes.set(xscale="log", yscale=scale, xlabel="network calls", ylabel="held-out error")
    axes.set_xticks(list(curve))
    axes.set_xticks([], minor=True)
    axes.set_xticklabels(map(str, curve))
    axes.legend()
    return figure


def _text(path: Path, text: str) -> None:
    with pending(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
