"""How near samplers come to laws that are known exactly, per network call.

Each plan is run on each task of `skipjax.evaluation.exact.tasks`, from the same starting noise,
at each number of calls (NFE). On Gaussians the law of the samples is computed, not sampled: their
W2 has no error and no floor. On mixtures it is measured, in independent repetitions. A table's
last rows are the floor, what two exact sets of as many points differ by, and the flow, the
probability-flow ODE solved to high accuracy. `path RMSE` is the distance to that solution point
by point, which only a plan without noise has. Bold is the best of a column, with all whose
difference to it is within two standard errors. A plan that cannot make an NFE has a blank cell.

Needs SciPy, of the extra `test`. With --out it writes results.md, results.csv, law.png and
path.png, and needs matplotlib, of the extra `plot`. Aim: under 10 minutes on two cores, with
--quick (four tasks, three NFEs) under one.

    python tests/benchmarks/exact.py [--quick] [--tasks four_wide rare] [--out FOLDER]
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from reporting import Row, draw, markdown, write

from skipjax import evaluation, grids, plans, schedules
from skipjax.evaluation import exact
from skipjax.plans import Plan
from skipjax.sampling import integrate, starting_noise
from skipjax.schedules import Schedule


def on(grid: str, name: str) -> Callable[[Schedule, int], Plan]:
    """A method on the grid with which it makes as many calls as are asked for."""

    def plan(schedule: Schedule, nfe: int) -> Plan:
        method = plans.METHODS[name]
        num, rest = divmod(nfe - method.more, method.calls)
        if rest:
            raise ValueError(f"{name} makes {method.nfe} calls: never {nfe}")
        return plans.write(name, schedule, grids.named(grid, schedule, num))

    return plan


# One that cannot make an NFE raises a ValueError.
PLANS: dict[str, Callable[[Schedule, int], Plan]] = {
    f"{name}, {grid}": on(grid, name)
    for grid, names in {
        "trailing": ("skipped", "ddim", "dpmpp_2m", "f_pndm"),
        "uniform_log_snr": (
            *("ddim", "dpmpp_2m_sde", "heun", "dpm_2s", "dpm_fast", "dpmpp_2m", "dpmpp_3m"),
            *("unipc_2", "unipc_3"),
        ),
        "quadratic": ("deis_tab3", "ipndm_4"),
    }.items()
    for name in names
}
SCHEDULE = schedules.linear()
FLOOR, FLOW = "floor", "flow"


class Scale(NamedTuple):
    """How much is measured: repetitions, points in each, and how many have their path compared."""

    nfes: tuple[int, ...]
    repetitions: int
    points: int
    path: int


FULL = Scale((5, 6, 8, 10, 12, 15, 20, 50, 100), 5, 1024, 64)
QUICK = Scale((5, 10, 20), 3, 512, 32)
QUICK_TASKS = ("gaussian", "four_wide", "ten_narrow", "rare")
Values = tuple[float, ...]  # one for each repetition; a single one is exact


class Bench:
    """One task, with what all plans share on it: noise, exact sets, flow, compiled programs."""

    def __init__(self, name: str, task: exact.Task, scale: Scale):
        self.name, self.target, self.scale = name, task.target, scale
        self.denoise = task.denoise
        self.gaussian = isinstance(task.target, exact.Gaussian)
        self.each = scale.path if self.gaussian else scale.points
        num = scale.repetitions * self.each
        self.keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(num))
        self.x = starting_noise(self.keys, (task.target.dim,)).astype(jnp.float64)
        self.solved: dict[tuple[float, float], np.ndarray] = {}
        self.diverged = (math.inf,) * scale.repetitions
        denoise = task.denoise
        self.run = jax.jit(lambda plan, x, keys: integrate(plan, denoise, x, keys))

    @property
    def metrics(self) -> dict[str, Callable[[ArrayLike, ArrayLike], float]]:
        """Metrics of samples and exact points; a Gaussian's is computed from its law instead."""
        if self.gaussian:
            return {}
        return {
            "sliced W2": exact.sliced_w2,
            "energy distance": evaluation.energy_distance,
            "mode error": lambda a, _: exact.mode_error(self.target, a),
        }

    @cached_property
    def truth(self) -> list[np.ndarray]:
        """Exact points, one set for each repetition."""
        keys = jax.random.split(jax.random.key(1), self.scale.repetitions)
        return [np.asarray(self.target.draw(key, self.each, jnp.float64)) for key in keys]

    def rows(self, table: dict[tuple[str, int], Plan]) -> list[Row]:
        """All results."""
        found = [
            Row(self.name, metric, name, nfe, values)
            for (name, nfe), plan in table.items()
            for metric, values in self.measured(plan).items()
        ]
        bounds = {FLOOR: self.floor(), FLOW: self.flow(next(iter(table.values())))}
        return found + [
            Row(self.name, metric, name, nfe, values, bound=True)
            for nfe in self.scale.nfes
            for name, measured in bounds.items()
            for metric, values in measured.items()
        ]

    def measured(self, plan: Plan) -> dict[str, Values]:
        """What one plan comes to."""
        samples = np.asarray(self.run(plan, self.x, self.keys))
        values = self.laws(samples)
        if self.gaussian:
            values["W2"] = (exact.w2(exact.law(plan, self.target), self.target),)
        if not np.any(plan.noise):
            values["path RMSE"] = self.path(plan, samples)
        return values

    def laws(self, samples: np.ndarray) -> dict[str, Values]:
        """Each metric in each repetition; infinite where a sampler has left all bounds."""
        if not np.isfinite(samples).all():
            return dict.fromkeys(self.metrics, self.diverged)
        sets = samples.reshape(self.scale.repetitions, self.each, -1)
        with ThreadPoolExecutor(2) as pool:
            return {
                name: tuple(pool.map(metric, sets, self.truth))
                for name, metric in self.metrics.items()
            }

    def path(self, plan: Plan, samples: np.ndarray) -> Values:
        """Error to the flow, of the first points of each repetition."""
        if not np.isfinite(samples).all():
            return self.diverged
        shape = (self.scale.repetitions, self.each, -1)
        ours, noise = (
            np.asarray(a).reshape(shape)[:, : self.scale.path] for a in (samples, self.x)
        )
        start = _start(plan)
        if start not in self.solved:
            flat = noise.reshape(-1, noise.shape[-1])
            self.solved[start] = exact.reference(self.denoise, flat, start).reshape(noise.shape)
        return tuple(map(exact.path_rmse, ours, self.solved[start]))

    def floor(self) -> dict[str, Values]:
        """What two exact sets differ by."""
        if self.gaussian:
            return {"W2": (0.0,)}
        key, num, times = jax.random.key(2), self.each, self.scale.repetitions
        return {
            name: exact.floor(metric, self.target, key, num, repetitions=times)
            for name, metric in self.metrics.items()
        }

    def flow(self, plan: Plan) -> dict[str, Values]:
        """What the solution of the flow comes to."""
        start = _start(plan)
        if self.gaussian:
            return {"W2": (exact.w2(exact.flow_law(self.target, start), self.target),)}
        # 1e-7 is far below what any metric of sets can see.
        return self.laws(exact.reference(self.denoise, self.x, start, rtol=1e-7, group=2048))


def _start(plan: Plan) -> tuple[float, float]:
    return float(plan.alpha[0]), float(plan.sigma[0])


def tables(nfes: tuple[int, ...]) -> dict[tuple[str, int], Plan]:
    """The plans that make their NFE, by name and NFE.

    All look as far back as the one that does so farthest, by weights of 0, which changes no value:
    plans of one NFE and space thereby share a program.
    """
    made = {}
    for name, plan_of in PLANS.items():
        for nfe in nfes:
            try:
                plan = plan_of(SCHEDULE, nfe)
            except ValueError:
                continue
            if plan.nfe == nfe:
                made[name, nfe] = plan
    most = max(plan.history for plan in made.values())
    return {key: plan.widened(most) for key, plan in made.items()}


def main() -> None:
    """Measures, prints, and writes."""
    parser = argparse.ArgumentParser(description="How near samplers come to exact laws.")
    known = exact.tasks()
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--tasks", nargs="+", choices=known, metavar="TASK", help=", ".join(known))
    parser.add_argument("--out", type=Path, help="folder for tables and pictures")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    began = time.perf_counter()
    scale = QUICK if options.quick else FULL
    table, rows, texts = tables(scale.nfes), [], []
    for name in options.tasks or (QUICK_TASKS if options.quick else known):
        ours = Bench(name, known[name], scale).rows(table)
        rows += ours
        texts.append(markdown(ours))
        print(texts[-1], flush=True)
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "results.md").write_text("\n".join(texts), encoding="utf-8")
        write(rows, options.out / "results.csv")
        draw(rows, ("W2", "sliced W2"), options.out / "law.png")
        draw(rows, ("path RMSE",), options.out / "path.png")


if __name__ == "__main__":
    main()
