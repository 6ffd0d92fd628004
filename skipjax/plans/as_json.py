"""Plans as JSON: exact, since every float64 is written with as many digits as tell it apart."""

import json
from dataclasses import fields
from typing import Any

import numpy as np

from skipjax.plans.plan import Origin, Plan

KIND, VERSION = "skipjax plan", 1
COLUMNS = {  # name: axes
    "t": 1,
    "alpha": 1,
    "sigma": 1,
    "keep": 1,
    "mix": 2,
    "noise": 1,
    "guide_eps": 1,
    "guide_mean": 1,
    "log_variance": 2,
    "prior_std": 0,
    "excess": 1,
}
OPTIONAL = {"guide_eps", "guide_mean", "log_variance", "prior_std", "excess"}
OLDER = {"steer": "guide_eps", "shift": "guide_mean"}  # names in files of earlier releases


def dumps(plan: Plan) -> str:
    """The text of a plan, one column a line.

    Raises:
        ValueError: If several plans are stacked, or a number is not finite.
    """
    if plan.keep.ndim != 1:
        raise ValueError(f"JSON holds one plan, and here are {plan.keep.shape[:-1]} stacked")
    content: dict[str, Any] = {"kind": KIND, "version": VERSION, "space": plan.space}
    if plan.origin is not None:
        origin = {field.name: getattr(plan.origin, field.name) for field in fields(Origin)}
        content |= {name: value for name, value in origin.items() if value is not None}
    for name in COLUMNS:
        if (column := getattr(plan, name)) is not None:
            column = np.asarray(column, np.float64)
            if not np.isfinite(column).all():
                raise ValueError(f"{name} holds {column}: a plan has finite numbers alone")
            content[name] = column.tolist()
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in content.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def loads(text: str) -> Plan:
    """The plan that `dumps` wrote, bit by bit.

    Raises:
        ValueError: If the text is something else, of a later version, or not whole.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"this is no JSON: {error}") from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise ValueError('this is no plan: one is an object with "kind": "skipjax plan"')
    return _plan({name: value for name, value in content.items() if name != "kind"})


def _plan(content: dict[str, Any]) -> Plan:
    if (version := content.pop("version", None)) != VERSION:
        raise ValueError(f"the plan is of version {version}, and version {VERSION} is read here")
    space = content.pop("space", None)
    if space not in ("x_0", "eps"):
        raise ValueError(f"the plan's space is {space!r}: it must be 'x_0' or 'eps'")
    origin = _origin(content)
    content = {OLDER.get(name, name): value for name, value in content.items()}
    columns = {name: _column(content, name) for name in COLUMNS}
    if content:
        raise ValueError(f"the plan holds {', '.join(map(repr, content))}, which nothing reads")
    lengths = {len(column) for column in columns.values() if column is not None and column.ndim}
    if len(lengths) != 1:
        raise ValueError("the plan's columns have different lengths")
    return Plan(**columns, space=space, origin=origin)


def _origin(content: dict[str, Any]) -> Origin | None:
    parts = {name: content.pop(name, None) for name in ("method", "schedule", "end")}
    tuned = content.pop("tuned", None)
    if all(part is None for part in (*parts.values(), tuned)):
        return None
    method, schedule, end = parts.values()
    if not isinstance(method, str) or not _numbers(schedule, 1) or not _numbers(end, 0):
        raise ValueError("the plan's origin is not whole: method, schedule and end go together")
    if not isinstance(tuned, dict | None):
        raise ValueError(f"the plan's tuned is {tuned!r}: it must be an object, or left out")
    level = tuple(np.asarray(schedule, float).tolist())
    return Origin(method, level, float(np.asarray(end)), tuned)


def _column(content: dict[str, Any], name: str) -> np.ndarray | None:
    if name in OPTIONAL and content.get(name) is None:
        content.pop(name, None)
        return None
    column: Any = content.pop(name, ())
    fits = _numbers(column, COLUMNS[name]) and np.size(column) > 0
    if not fits or name == "log_variance" and np.shape(column)[1] != 2:
        axes = ("[]", "[N]", "[N, 2]" if name == "log_variance" else "[N, K]")[COLUMNS[name]]
        raise ValueError(f"the plan's {name} must be finite numbers, {axes}")
    return np.array(column, np.float64)


def _numbers(value: Any, axes: int) -> bool:
    """Whether a value is finite numbers in nested lists of one shape."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return False
    return array.ndim == axes and array.dtype.kind in "if" and bool(np.isfinite(array).all())
