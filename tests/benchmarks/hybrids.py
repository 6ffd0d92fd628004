"""Which hybrid is the best: its cutoff, its noise, and how its calls are divided.

A hybrid adds noise, eta times the posterior's, in steps that begin above a cutoff, and none below:
cutoff 0 with eta 1 is skipped-step sampling, cutoff 1 (of T) is DDIM. For each task of
`skipjax.evaluation.exact.tasks`, some with a denoiser that errs, and each number of calls: how far
the law of the samples is from that of the data, by cutoff and eta on evenly spaced times (the W2
distance of Gaussians is exact, mixtures have the energy distance of samples, and a floor); then
the best of all ways to divide the calls between the parts, and the same times without noise. What
is chosen on some points is judged on others, with the standard error of what it gains on DDIM.

With a checkpoint, the same for a network, with eta 1 alone, against the pictures that it was
trained on and those that were held out.

    python tests/benchmarks/hybrids.py [--tasks gaussian rare] [--nfe 5 10] [--out hybrids.json]
    python tests/benchmarks/hybrids.py --checkpoint emoji32 --data emoji --nfe 5 10 20
        [--points 256] [--out emoji32.json]
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import skipjax
from skipjax import plans, schedules
from skipjax.evaluation import exact
from skipjax.evaluation.exact import Task
from skipjax.plans import Plan
from skipjax.schedules import Schedule
from skipjax.training import sources
from skipjax.tuning import Problem
from skipjax.tuning.baselines import CUTOFFS, ETAS, hybrid, hybrids
from skipjax.tuning.examples import Denoiser, Examples, draw_all
from skipjax.tuning.loss import energy

FEW = 512  # samples that each way to divide the calls is tried on
DIVIDED = 10  # calls up to which all divisions are tried
ERRS = (0.1, 0.2)  # size of the bias of denoisers that err


def main() -> None:
    """Measures and prints."""
    tasks = all_tasks()
    parser = argparse.ArgumentParser(description="The best cutoff and eta of hybrids.")
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=[*tasks])
    parser.add_argument("--nfe", nargs="+", type=int, default=[5, 10, 20, 50])
    parser.add_argument("--checkpoint", help="a network, in place of the tasks")
    parser.add_argument("--data", help="pictures of the network's law, as `skipjax train` has it")
    parser.add_argument("--points", type=int, default=2048, help="samples of each distance")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.checkpoint is not None and options.data is None:
        parser.error("--checkpoint takes --data: pictures that its samples should be like")
    etas, divided = ETAS, DIVIDED
    if options.checkpoint is None:
        jax.config.update("jax_enable_x64", True)
        cases = {name: partial(exactly, tasks[name], options.points) for name in options.tasks}
    else:
        etas, divided = (1.0,), 0
        made = partial(network, options.checkpoint, options.data, options.points)
        cases = {options.checkpoint: made}
    found: dict[str, Any] = {"cutoffs": CUTOFFS, "etas": etas, "tasks": {}}
    for name, made in cases.items():
        case = made()
        found["tasks"][name] = {
            nfe: measure(name, case, nfe, etas, divided) for nfe in options.nfe
        }
        if options.out is not None:
            options.out.write_text(json.dumps(found, indent=1))


class Case(NamedTuple):
    """Where hybrids are used.

    Attributes:
        schedule: The forward process.
        denoiser: Of the network, or of a law that is known.
        sets: Twice some examples, with data as their targets.
        floor: Distance of other data to the data of the first.
        gaussian: The law, where its distances are known without samples.
    """

    schedule: Schedule
    denoiser: Denoiser
    sets: list[Examples]
    floor: float
    gaussian: exact.Gaussian | None = None

    def distance(self, plan: Plan, num: int | None = None) -> float:
        """From a plan's samples, the first `num` of the first set, to the data."""
        if self.gaussian is not None:
            return exact.w2(exact.law(plan, self.gaussian), self.gaussian)
        return energy.error(self.samples(plan, 0, num), self.sets[0].target)

    def judged(self, *some: Plan) -> tuple[list[float], list[tuple[float, float]]]:
        """Distances of plans on the other set, and by how much each is farther than the last, with
        the standard error.
        """
        if self.gaussian is not None:
            found = [self.distance(plan) for plan in some]
            return found, [(value - found[-1], 0.0) for value in found]
        values, law = [self.samples(plan, 1) for plan in some], self.sets[1].target
        found = [energy.error(one, law) for one in values]
        return found, [energy.compare(one, values[-1], law) for one in values]

    def samples(self, plan: Plan, half: int, num: int | None = None) -> np.ndarray:
        """What a plan draws."""
        some = self.sets[half].take(slice(num))
        batch = 512 if some.x.ndim == 2 else 16
        return draw_all(self.denoiser, [plan], some, batch=batch)[0]


def all_tasks() -> dict[str, Task]:
    """Those of the library, but for the largest, and some whose denoiser errs more."""
    tasks = exact.tasks()
    del tasks["low_rank"]  # as `gaussian`, a hundred times as slow
    for size in ERRS:
        for name in ("four_wide", "ten_wide"):
            denoise = exact.perturbed(tasks[name].target.denoise, size)
            tasks[f"{name}, errs {size:g}"] = Task(tasks[name].target, denoise)
    return tasks


def exactly(task: Task, points: int) -> Case:
    """A law that is known."""
    sets, data = [], []
    for seed in range(3):
        key, other, law = jax.random.split(jax.random.key(seed), 3)
        x = jax.random.normal(key, (points, task.target.dim), jnp.float64)
        some = Examples(x, jax.random.split(other, points))
        data.append(np.asarray(task.target.draw(law, points, jnp.float64)))
        sets.append(some._replace(target=data[-1]))
    exactly_known = isinstance(task.target, exact.Gaussian) and task.denoise is task.target.denoise
    return Case(
        schedules.linear(),
        Partial(lambda some: task.denoise),
        sets[:2],
        0.0 if exactly_known else abs(energy.error(data[2], data[0])),
        task.target if exactly_known else None,
    )


def network(checkpoint: str, data: str, points: int) -> Case:
    """A network, and three parts of the pictures that it should draw."""
    params = skipjax.load(checkpoint)
    known = sources.read(data)
    chosen = np.random.default_rng(0).permutation(known.images.shape[0])[: 3 * points]
    parts = [known.take(some) for some in np.split(chosen, 3)]
    plan, sets = plans.skipped(params.schedule, 20), []
    for seed, part in enumerate(parts):
        labels = None if part.labels is None else part.labels.tolist()
        # `points` of them in all.
        sizes = {"num": points - 2 * (points // 4), "held_out": points // 4}
        problem = Problem(params, jax.random.key(seed), label=labels, **sizes)
        of, some, *_ = problem.prepare(plan)
        real = np.asarray(part.images, np.float32).reshape(points, -1) / 127.5 - 1
        sets.append(some._replace(target=real))
    floor = abs(energy.error(sets[2].target, sets[0].target))
    return Case(params.schedule, of, sets[:2], floor)


def measure(
    name: str, case: Case, nfe: int, etas: tuple[float, ...], divided: int
) -> dict[str, Any]:
    """Distances by eta and cutoff, and the best way to divide the calls."""
    schedule = case.schedule

    def even(cutoff: float, eta: float = 1.0) -> Plan:
        plan = hybrid(schedule, nfe, cutoff, eta)
        assert plan is not None
        return plan

    table = [[case.distance(even(cutoff, eta)) for cutoff in CUTOFFS] for eta in etas]
    i, j = np.unravel_index(np.argmin(table), np.shape(table))
    best = even(CUTOFFS[j], etas[i])
    (again, skipped, ddim), ((more, error), *_) = case.judged(best, even(0.0), even(1.0))
    found = {
        "table": table,
        "floor": case.floor,
        "best": {"cutoff": CUTOFFS[j], "eta": etas[i]},
        "again": again,
        "ddim": ddim,
        "skipped": skipped,
        "more_than_ddim": (more, error),
    }
    if nfe <= divided:
        best = min(hybrids(schedule, nfe), key=lambda plan: case.distance(plan, FEW))
        origin: Any = best.origin
        (noisy, quiet), _ = case.judged(best, plans.ddim(schedule, best.t))
        found["divided"] = origin.method, noisy, quiet
    print(
        f"{name}, {nfe} calls: best cutoff {CUTOFFS[j]:g}, eta {etas[i]:g}: {again:.3g} "
        f"(DDIM {ddim:.3g}, skipped {skipped:.3g}, floor {case.floor:.2g}), "
        f"{more:.2g} ± {error:.2g} more than DDIM; divided, and without its noise: "
        f"{found.get('divided')}",
        flush=True,
    )
    return found


if __name__ == "__main__":
    main()
