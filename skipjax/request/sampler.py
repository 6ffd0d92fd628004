"""Which sampler is asked for."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from skipjax import grids, plans
from skipjax.checks import whole
from skipjax.plans import Plan
from skipjax.pretrained import Pretrained
from skipjax.request.guide import called
from skipjax.schedules import Variance


def plan(
    params: Pretrained,
    skip: int = 20,
    cutoff: int = 0,
    steps: str | int | None = None,
    variance: Variance | None = None,
    plan: Plan | str | None = None,
    grid: str | None = None,
) -> Plan:
    """The sampler that is asked for in one of four ways."""
    if isinstance(plan, str):
        if cutoff != 0 or variance is not None:
            raise ValueError(
                f"plan is {plan!r}, and cutoff or variance is given too, which it replaces: drop "
                "one"
            )
        return _fit(params, plans.write(plan, params.schedule, _times(params, skip, steps, grid)))
    if grid is not None:
        raise ValueError(f"grid is {grid!r}: it goes with the name of a plan, and steps")
    if plan is not None:
        if (skip, cutoff, steps, variance) != (20, 0, None, None):
            raise ValueError(
                "plan is given, and skip, cutoff, steps or variance too, which it replaces: "
                "drop one"
            )
        return _fit(params, plan)
    variance = variance or params.spec.variance
    if steps is None:
        return _fit(params, plans.skipped(params.schedule, skip, cutoff, variance))
    if (skip, cutoff) != (20, 0):
        raise ValueError("steps is given, and skip or cutoff too, which it replaces: drop one")
    return _fit(params, plans.respaced(params.schedule, _respacing(steps), variance))


def plan_or_name(text: str) -> Plan | str:
    """The plan that `Plan.to_json` wrote, as its text or in a .json; any other text is the name of
    one.
    """
    if text.lstrip().startswith("{"):
        return Plan.from_json(text)
    if not text.endswith(".json"):
        return text
    try:
        return Plan.from_json(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"plan: {text} holds none ({error})") from None


def _times(params: Pretrained, skip: int, steps: str | int | None, grid: str | None) -> np.ndarray:
    """The grid of a plan that is named: by skip, by a number of steps, or by ADM's strings."""
    T = params.schedule.T
    if steps is None:
        if grid is not None:
            raise ValueError(f"grid is {grid!r}: say in steps how many times it should have")
        return grids.skipped(T, skip)
    if skip != 20:
        raise ValueError("steps is given, and skip too, which it replaces: drop one")
    steps = _respacing(steps)
    if steps.isdecimal():
        return grids.named(grid or "trailing", params.schedule, int(steps))
    if grid is not None:
        raise ValueError(f"steps is {steps!r}: with a grid it must be a whole number of times")
    return grids.respaced(T, steps)


def _respacing(steps: Any) -> str:
    """steps as one of ADM's strings."""
    if isinstance(steps, str):
        return steps
    try:
        return str(whole("steps", steps, 1))
    except ValueError:
        raise ValueError(
            f"steps is {steps!r}: it must be a whole number from 1 on, or a string of ADM's such "
            "as 'ddim25'"
        ) from None


def _fit(params: Pretrained, plan: Plan) -> Plan:
    """The plan, if it was written for the network's schedule, and the network can serve it."""
    spec = params.spec
    if not isinstance(plan, Plan):
        raise TypeError(
            f"plan is a {type(plan).__name__}: give a Plan, as skipjax.plans.ddim(...) is one, or "
            "the name of one"
        )
    if not plan.belongs(params.schedule):
        raise ValueError(
            f"the plan was written for another schedule than {spec.name}'s ({called(spec)}, T = "
            f"{params.schedule.T}): write it with params.schedule"
        )
    tuned = plan.origin.tuned if plan.origin else None
    if tuned is not None and tuned.get("checkpoint") != params.fingerprint:
        warnings.warn(
            f"the plan was tuned for {tuned.get('name')}, and these are other weights, "
            f"{spec.name}: it may be worse here than a fixed one",
            stacklevel=4,
        )
    if plan.log_variance is not None and spec.unet.out_channels != 2 * spec.unet.in_channels:
        raise ValueError(
            f"the plan asks for a learned variance, and {spec.name} predicts none: take variance "
            "'small' or 'large'"
        )
    if spec.prediction in ("eps", "score") and np.any(np.asarray(plan.alpha) == 0):
        raise ValueError(
            f"the plan calls the network where x is noise alone (zero SNR), and {spec.name} "
            f"predicts {spec.prediction}, which says nothing of x_0 there: give a plan that "
            f"starts at time {spec.T - 2} or below; or a Spec with prediction 'v', 'x_0' or "
            "'velocity', if that is what it was trained for"
        )
    return plan
