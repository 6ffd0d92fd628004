"""Plans that are learned, against the best of all fixed ones, on laws that are known exactly.

For each task of `skipjax.evaluation.exact.tasks` and each number of calls: the root mean square of
the distance to where the flow goes, on noise that nothing was chosen by, of the learned plan over
that of the best fixed plan (of some 190, on all grids); mean and standard error over tunings from
other noise. Aim: at most 0.3 at 5 calls, 0.4 at 10. Then what learning cost, and the calls that
the learned plan needs for the error of 20 calls of DPM-Solver++ 2M and of 50 of DDIM, each on its
best grid.

    python tests/benchmarks/tuning.py [--tasks gaussian four_wide] [--nfe 5 10] [--seeds 3]
"""

import argparse
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from skipjax import grids, plans, schedules
from skipjax.evaluation import exact
from skipjax.tuning import Examples, search
from skipjax.tuning.examples import Denoiser, drawn, rmse, squares

SCHEDULE = schedules.linear()
TEACHER = plans.dpmpp_3m(SCHEDULE, grids.uniform_log_snr(SCHEDULE, 400))
NUM, DECIDE, HELD, BATCH = 4096, 2048, 4096, 1024


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Learned plans over the best fixed ones.")
    tasks = exact.tasks()
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=[*tasks])
    parser.add_argument("--nfe", nargs="+", type=int, default=[4, 5, 6, 8, 10, 15, 20])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    for name in options.tasks:
        measure(name, tasks[name], options.nfe, options.seeds)


def measure(name: str, task: exact.Task, numbers: list[int], seeds: int) -> None:
    """A line for each number of calls, and the calls that others' errors need."""
    denoiser: Denoiser = Partial(lambda labels: task.denoise)
    sets = [examples(denoiser, task.target.dim, seed) for seed in range(seeds)]
    learned: dict[int, float] = {}
    for nfe in numbers:
        found = [
            search(denoiser, SCHEDULE, nfe, *some, rounds=12, least=64, batch=BATCH)
            for some in sets
        ]
        ratios = [one.errors[0] / one.errors[1] for one in found]
        learned[nfe] = float(np.mean([one.errors[one.won is False] for one in found]))
        error = np.std(ratios, ddof=1) / math.sqrt(seeds) if seeds > 1 else math.nan
        wins = sum(one.won for one in found)
        print(
            f"{name}, {nfe} calls: learned / best fixed {np.mean(ratios):.3f} ± {error:.3f} "
            f"({found[0].errors[0]:.2g} / {found[0].errors[1]:.2g}, "
            f"{found[0].fixed[0].origin.method}; {wins} of {seeds} won; "
            f"{np.mean([one.seconds for one in found]):.0f} s, "
            f"{np.mean([one.calls for one in found]) / 1e6:.1f} million calls)",
            flush=True,
        )
    held = sets[0][2]
    for method, nfe in (("dpmpp_2m", 20), ("ddim", 50)):
        rivals = [
            plans.write(method, SCHEDULE, grids.named(grid, SCHEDULE, nfe)) for grid in grids.GRIDS
        ]
        best = rmse(squares(denoiser, rivals, held, batch=BATCH)).min()
        enough = [n for n, error in learned.items() if error <= best]
        print(f"  {best:.2g}, of {method} with {nfe} calls: {min(enough, default='more')} calls")


def examples(denoiser: Denoiser, dim: int, seed: int) -> list[Examples]:
    """What is learned from, what chooses, and what decides."""
    found = []
    for part, num in enumerate((NUM, DECIDE, HELD)):
        key = jax.random.fold_in(jax.random.key(seed), part)
        x = jax.random.normal(key, (num, dim), jnp.float64)
        some = Examples(x, jax.random.split(key, num))
        pictures = [drawn(denoiser, TEACHER, one) for one in some.batches(BATCH)]
        found.append(some._replace(target=np.concatenate(jax.device_get(pictures))[:num]))
    return found


if __name__ == "__main__":
    main()
