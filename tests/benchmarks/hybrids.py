"""Which hybrid is the best: its cutoff, its noise, and how its calls are divided.

A hybrid adds noise, eta times the posterior's, in steps that begin above a cutoff, and none below:
cutoff 0 with eta 1 is skipped-step sampling, cutoff 1 (of T) is DDIM. For each task of
`skipjax.evaluation.exact.tasks`, some with a denoiser that errs, and each number of calls: how far
the law of the samples is from that of the data, by cutoff and eta on evenly spaced times (the W2
distance of Gaussians is exact, mixtures have the energy distance of samples, and a floor); then
the best of all ways to divide the calls between the parts, and the same times without noise. What
is chosen on some points is judged on others.

    python tests/benchmarks/hybrids.py [--tasks gaussian rare] [--nfe 5 10] [--out hybrids.json]
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from skipjax import evaluation, plans, schedules
from skipjax.evaluation import exact
from skipjax.evaluation.exact import Task
from skipjax.plans import Plan
from skipjax.tuning.examples import Examples, pictures
from skipjax.tuning.fixed import CUTOFFS, ETAS, hybrid, hybrids

SCHEDULE = schedules.linear()
POINTS, FEW, BATCH = 2048, 512, 512
DIVIDED = 10  # calls up to which all divisions are tried
ERRS = (0.1, 0.2)  # size of the bias of denoisers that err


def main() -> None:
    """Measures and prints."""
    tasks = all_tasks()
    parser = argparse.ArgumentParser(description="The best cutoff and eta of hybrids.")
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=[*tasks])
    parser.add_argument("--nfe", nargs="+", type=int, default=[5, 10, 20, 50])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    found = {"cutoffs": CUTOFFS, "etas": ETAS, "tasks": {}}
    for name in options.tasks:
        found["tasks"][name] = {nfe: measure(name, tasks[name], nfe) for nfe in options.nfe}
        if options.out is not None:
            options.out.write_text(json.dumps(found, indent=1))


def all_tasks() -> dict[str, Task]:
    """Those of the library, but for the largest, and some whose denoiser errs more."""
    tasks = exact.tasks()
    del tasks["low_rank"]  # as `gaussian`, a hundred times as slow
    for size in ERRS:
        for name in ("four_wide", "ten_wide"):
            denoise = exact.perturbed(tasks[name].target.denoise, size)
            tasks[f"{name}, errs {size:g}"] = Task(tasks[name].target, denoise)
    return tasks


def measure(name: str, task: Task, nfe: int) -> dict[str, Any]:
    """Distances by eta and cutoff, and the best way to divide the calls."""
    distance = to_law(task)
    table = [
        [distance(plan, 0) for plan in (even(nfe, cutoff, eta) for cutoff in CUTOFFS)]
        for eta in ETAS
    ]
    i, j = np.unravel_index(np.argmin(table), np.shape(table))
    found = {
        "table": table,
        "floor": distance(None, 0),
        "best": {"cutoff": CUTOFFS[j], "eta": ETAS[i]},
        "again": distance(even(nfe, CUTOFFS[j], ETAS[i]), 1),
        "ddim": distance(even(nfe, 1.0, 1.0), 1),
        "skipped": distance(even(nfe, 0.0, 1.0), 1),
    }
    if nfe <= DIVIDED:
        best = min(hybrids(SCHEDULE, nfe), key=lambda plan: distance(plan, 0, FEW))
        origin: Any = best.origin
        quiet = plans.ddim(SCHEDULE, best.t)
        found["divided"] = origin.method, distance(best, 1), distance(quiet, 1)
    print(
        f"{name}, {nfe} calls: best cutoff {CUTOFFS[j]:g}, eta {ETAS[i]:g}: {found['again']:.3g} "
        f"(DDIM {found['ddim']:.3g}, skipped {found['skipped']:.3g}, floor {found['floor']:.2g}); "
        f"divided, and without its noise: {found.get('divided')}",
        flush=True,
    )
    return found


def even(nfe: int, cutoff: float, eta: float) -> Plan:
    """A hybrid on one evenly spaced grid."""
    plan = hybrid(SCHEDULE, nfe, cutoff, eta)
    assert plan is not None
    return plan


def to_law(task: Task) -> Callable[..., float]:
    """The distance of a plan's samples to the data, by plan, which points, and how many of them;
    that of other data for no plan.
    """
    if isinstance(task.target, exact.Gaussian) and task.denoise is task.target.denoise:
        target = task.target
        return lambda plan, *_: 0.0 if plan is None else exact.w2(exact.law(plan, target), target)
    denoiser = Partial(lambda some: task.denoise)
    sets = []
    for half in range(2):
        key, other, data = jax.random.split(jax.random.key(half), 3)
        x = jax.random.normal(key, (POINTS, task.target.dim), jnp.float64)
        some = Examples(x, jax.random.split(other, POINTS))
        sets.append((some, np.asarray(task.target.draw(data, POINTS, jnp.float64))))
    more = np.asarray(task.target.draw(jax.random.key(9), POINTS, jnp.float64))

    def distance(plan: Plan | None, half: int, num: int = POINTS) -> float:
        some, law = sets[half][0].take(np.arange(num)), sets[half][1]
        if plan is None:
            return abs(evaluation.energy_distance(more, law))
        (values,) = pictures(denoiser, [plan], some, batch=BATCH)
        return evaluation.energy_distance(values, law)

    return distance


if __name__ == "__main__":
    main()
