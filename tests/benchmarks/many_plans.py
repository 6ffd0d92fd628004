"""What `vmap` over plans saves, and how long a plan takes to write.

256 plans of 10 calls (DPM-Solver++(2M), each on a grid of its own) on a mixture in two dimensions,
the same few points each: one program for all of them under `vmap`, over the same program for one
plan run 256 times, both compiled before. Aim: at least 20 times faster, a ratio of at most 0.05.

Also every plan of the catalogue written for 50 times, the median of several; its aim is 20 ms.

    python tests/benchmarks/many_plans.py [--plans 256] [--repeats 9]
"""

import argparse
import time

import jax
import numpy as np
from measuring import interleaved, line, ratio, seconds

from skipjax import grids, plans, schedules
from skipjax.evaluation.exact import Mixture
from skipjax.sampling import integrate

LINEAR = schedules.linear()
MEANS = np.array([[1.0, 1.0], [-1.0, 0.5], [0.3, -1.0], [-0.8, -0.9]])
TARGET = Mixture([0.4, 0.3, 0.2, 0.1], MEANS, 0.35)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="What vmap over plans saves.")
    parser.add_argument("--plans", type=int, default=256, help="how many plans of 10 calls")
    parser.add_argument("--repeats", type=int, default=9, help="rounds")
    options = parser.parse_args()

    powers = np.linspace(0.5, 3, options.plans)
    written = [plans.dpmpp_2m(LINEAR, grids.power_law(1000, 10, power)) for power in powers]
    for points in (1, 4, 16, 64):
        _compare(written, points, options.repeats)

    slowest, name = max((_writing(name, options.repeats), name) for name in plans.METHODS)
    line("slowest plan to write for 50 times", slowest, 20, name, " ms")


def _compare(written: list[plans.Plan], points: int, repeats: int) -> None:
    """All plans under `vmap` over one after the other, on as many points each."""
    stacked = plans.stack(written)
    keys = jax.random.split(jax.random.key(0), points)
    x = jax.random.normal(jax.random.key(1), (points, 2))
    one = jax.jit(lambda plan: integrate(plan, TARGET.denoise, x, keys))
    every = jax.jit(jax.vmap(lambda plan: integrate(plan, TARGET.denoise, x, keys)))

    def together() -> None:
        every(stacked).block_until_ready()

    def in_turn() -> None:
        for plan in written:
            one(plan).block_until_ready()

    np.testing.assert_allclose(every(stacked)[3], one(written[3]), atol=1e-5)
    in_turn()
    both = interleaved(repeats, lambda: 1e3 * seconds(together), lambda: 1e3 * seconds(in_turn))
    ratio(f"{len(written)} plans of {points} points, vmap / one by one", *both, 1 / 20, "ms")
    if (compiled := one._cache_size() + every._cache_size()) != 2:
        raise RuntimeError(f"{compiled} programs were compiled: expected one for each way")


def _writing(name: str, repeats: int) -> float:
    """Milliseconds that a plan takes to write for 50 times."""
    times, taken = grids.trailing(1000, 50), []
    for _ in range(repeats):
        began = time.perf_counter()
        plans.write(name, LINEAR, times)
        taken.append(1e3 * (time.perf_counter() - began))
    return float(np.median(taken))


if __name__ == "__main__":
    main()
