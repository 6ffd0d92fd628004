"""Plans that are learned, against the best of all fixed ones, on laws that are known exactly.

For each task of `skipjax.evaluation.exact.tasks` and each number of calls: the root mean square of
the distance to where the flow goes, on noise that nothing was chosen by, of the learned plan over
that of the best fixed plan (of some 190, on all grids), and the energy distance of both to the law
itself; mean and standard error over tunings from other noise. Aim: at most 0.3 at 5 calls, 0.4 at
10. Beside it DPM-Solver-v3 with statistics of the same denoiser, on its best grid, from which
learning starts too, and what it cost. Then the calls that the learned plan needs for the path of
20 calls of DPM-Solver++ 2M and of 50 of DDIM, each on its best grid, and for the law of 50 calls
of skipped-step sampling.

    python tests/benchmarks/tuning.py [--tasks gaussian four_wide] [--nfe 5 10] [--seeds 3]
        [--starts 6] [--out results.json]
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from skipjax import evaluation, grids, plans, schedules
from skipjax.evaluation import exact
from skipjax.plans import Plan
from skipjax.tuning import Examples, Objective, Outcome, TuneConfig, search, statistics
from skipjax.tuning.baselines import Score
from skipjax.tuning.examples import Denoiser, draw, draw_all

SCHEDULE = schedules.linear()
TEACHER = plans.dpmpp_3m(SCHEDULE, grids.uniform_log_snr(SCHEDULE, 200))
# Noises that are learned from, that choose, and that decide, by dimension. Single points that go
# to another mode make most of the error, and few noises hold few of these.
SIZES = {2: (16384, 8192, 8192), 64: (6144, 4096, 4096), 1024: (256, 128, 256)}
BATCH, LAW = 1024, 4096
MAX_ITERS = 16
PATH = Objective()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Learned plans over the best fixed ones.")
    tasks = exact.tasks()
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=[*tasks])
    parser.add_argument("--nfe", nargs="+", type=int, default=[4, 5, 6, 8, 10, 15, 20])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--starts", type=int, default=6, help="from which each tuning learns")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    found = {}
    for name in options.tasks:
        found[name] = measure(name, tasks[name], options.nfe, options.seeds, options.starts)
        if options.out is not None:
            options.out.write_text(json.dumps(found, indent=1))


def measure(
    name: str, task: exact.Task, numbers: list[int], seeds: int, starts: int
) -> dict[str, Any]:
    """A line for each number of calls, and the calls that others' errors need."""
    denoiser: Denoiser = Partial(lambda some: task.denoise)
    sets = [examples(denoiser, task.target.dim, seed) for seed in range(seeds)]
    about = statistics(denoiser, SCHEDULE, sets[0][0].take(np.arange(256)), batch=256)
    law = np.asarray(task.target.draw(jax.random.key(1), LAW, jnp.float64))
    held = sets[0][2]

    def energy(plan: Plan, some: Examples = held) -> float:
        (values,) = draw_all(
            denoiser, [plan], some.take(np.arange(min(LAW, len(some.x)))), batch=BATCH
        )
        return evaluation.energy_distance(values, law)

    rows = {}
    for nfe in numbers:
        found = []
        for some in sets:
            config = TuneConfig(
                nfe,
                start=third_version(about, nfe),
                starts=starts,
                max_iters=MAX_ITERS,
                batch=min(BATCH, len(some[0].x)),
            )
            found.append(search(denoiser, SCHEDULE, *some, PATH, config, least=64))
        score = Score(denoiser, held, PATH, BATCH)
        v3 = score(third_version(about, nfe)).min()
        energies = [
            [energy(plan, some[2]) for plan in (one.learned or one.plan, one.fixed[0])]
            for one, some in zip(found, sets, strict=True)
        ]
        rows[nfe] = row = summary(found, energies) | {"dpm_v3": v3, "starts": starts}
        print(
            f"{name}, {nfe} calls: learned / best fixed {row['ratio']:.3f} ± {row['error']:.3f} "
            f"({row['learned']:.2g} / {row['fixed']:.2g}, {row['best_fixed']}; {row['won']} of "
            f"{seeds} won); energy {row['energy'][0]:.2g} / {row['energy'][1]:.2g}; "
            f"dpm_v3 {v3:.2g}; {row['seconds']:.0f} s, {row['calls'] / 1e6:.1f} million calls",
            flush=True,
        )
    rivals = {}
    for method, nfe in (("dpmpp_2m", 20), ("ddim", 50)):
        some = [plans.write(method, SCHEDULE, grids.named(g, SCHEDULE, nfe)) for g in grids.GRIDS]
        best = Score(denoiser, held, PATH, BATCH)(some).min()
        rivals[f"{nfe} of {method}"] = fewest(best, {n: row["learned"] for n, row in rows.items()})
    best = energy(plans.skipped(SCHEDULE, 20))
    rivals["50 of skipped"] = fewest(best, {n: row["energy"][0] for n, row in rows.items()})
    floor = np.mean(exact.floor(evaluation.energy_distance, task.target, jax.random.key(2), LAW))
    print(f"  calls for the error of {rivals}; 50 of skipped: energy {best:.2g}", flush=True)
    return {"rows": rows, "rivals": rivals, "skipped_energy": best, "floor": float(floor)}


def summary(found: list[Outcome], energies: list[list[float]]) -> dict[str, Any]:
    """Means over tunings."""
    ratios = [one.errors[0] / one.errors[1] for one in found]
    origin: Any = found[0].fixed[0].origin
    return {
        "ratio": float(np.mean(ratios)),
        "error": float(np.std(ratios, ddof=1) / math.sqrt(len(found))) if len(found) > 1 else 0.0,
        "learned": float(np.mean([one.errors[0] for one in found])),
        "fixed": float(np.mean([one.errors[1] for one in found])),
        "best_fixed": origin.method,
        "won": sum(one.won for one in found),
        "energy": np.mean(energies, axis=0).tolist(),
        "seconds": float(np.mean([one.seconds for one in found])),
        "calls": float(np.mean([one.calls for one in found])),
    }


def third_version(about: plans.Statistics, nfe: int) -> list[Plan]:
    """DPM-Solver-v3 on all grids that lie within its statistics."""
    found = []
    for grid in grids.GRIDS:
        try:
            found.append(plans.dpm_v3(SCHEDULE, grids.named(grid, SCHEDULE, nfe), about))
        except ValueError:  # the grid has no such number of times, or others
            continue
    return found


def fewest(error: float, learned: dict[int, float]) -> int | str:
    """The least number of calls whose error is no greater."""
    return min((nfe for nfe, mine in learned.items() if mine <= error), default="more")


def examples(denoiser: Denoiser, dim: int, seed: int) -> list[Examples]:
    """What is learned from, what chooses, and what decides."""
    found = []
    for part, num in enumerate(SIZES[dim]):
        key = jax.random.fold_in(jax.random.key(seed), part)
        x = jax.random.normal(key, (num, dim), jnp.float64)
        some = Examples(x, jax.random.split(key, num))
        values = [draw(denoiser, TEACHER, one) for one in some.batches(min(BATCH, num))]
        found.append(some._replace(target=np.concatenate(jax.device_get(values))[:num]))
    return found


if __name__ == "__main__":
    main()
