"""What can be done with a plan without JAX's help, for tests."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from skipjax import grids, plans, schedules
from skipjax.plans import METHODS, Plan

SCHEDULES = {
    "linear": schedules.linear(),
    "scaled_linear": schedules.scaled_linear(),
    "cosine": schedules.cosine(),
    "sigmoid": schedules.sigmoid(),
    "rectified_flow": schedules.rectified_flow(shift=3.0),
    "variance_exploding": schedules.variance_exploding(),
}
COLUMNS = ("t", "alpha", "sigma", "keep", "mix", "noise")
TIMES = grids.trailing(1000, 5)
NOISY = [name for name in METHODS if plans.write(name, schedules.linear(), TIMES).noise.any()]


def in_eps(plan: Plan) -> np.ndarray:
    """`plan.matrix()` in terms of the noise at the start and predictions of eps, in any space.

    Every point as a sum, x_{i+1} = M_{i,0} x_0 + sum_j M_{i,j+1} eps_j; float64 [N, N+1].
    """
    symbols = np.eye(plan.nfe + 1)
    point, predictions, rows = symbols[0], np.zeros((plan.nfe, plan.nfe + 1)), []
    for i in range(plan.nfe):
        m = symbols[i + 1]
        predictions[i] = (point - plan.sigma[i] * m) / plan.alpha[i] if plan.space == "x_0" else m
        newest = predictions[i::-1][: plan.history]
        point = plan.keep[i] * point + plan.mix[i, : len(newest)] @ newest
        rows.append(point)
    return np.array(rows)


def loop(plan: Plan, predict: Callable, x: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """What `integrate` does, in a plain loop; `predict` is called as (x, t, alpha, sigma)."""
    predictions = []
    for i in range(plan.nfe):
        predictions.insert(0, predict(x, plan.t[i], plan.alpha[i], plan.sigma[i]))
        x = plan.keep[i] * x + plan.noise[i] * noise[i]
        for weight, m in zip(plan.mix[i], predictions, strict=False):
            x = x + weight * m
    return x


def padded(plan: Plan, rows: int, history: int = 13) -> Plan:
    """The same sampler in a table of a given size, so that one program runs many of them."""
    rows -= plan.nfe
    levels = {c: np.pad(getattr(plan, c), (0, rows), "edge") for c in ("t", "alpha", "sigma")}
    keep = np.pad(plan.keep, (0, rows), constant_values=1.0)
    mix = np.pad(plan.mix, ((0, rows), (0, history - plan.history)))
    noise = np.pad(plan.noise, (0, rows))
    guided = {
        c: np.zeros(len(keep))
        if (column := getattr(plan, c)) is None
        else np.pad(column, (0, rows))
        for c in ("guide_eps", "guide_mean")
    }
    return replace(plan, **levels, keep=keep, mix=mix, noise=noise, **guided)


def by_space(written: dict[str, Plan], rows: int) -> Iterator[tuple[list[str], Plan]]:
    """For each space the plans in it, by name and stacked in tables of a given size."""
    for space in ("x_0", "eps"):
        some = {name: plan for name, plan in written.items() if plan.space == space}
        if some:
            yield (
                list(some),
                plans.stack([padded(plan, rows, plan.history) for plan in some.values()]),
            )
