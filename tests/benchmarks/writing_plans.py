"""How long it takes to write the plan of each method for 50 times. Aim: at most 20 ms.

python tests/benchmarks/writing_plans.py
"""

from time import thread_time

from measuring import line

from skipjax import grids, schedules
from skipjax.plans import METHODS

REPEATS = 5


def main() -> None:
    """Measures and prints."""
    schedule = schedules.linear()
    times = grids.uniform_log_snr(schedule, 50)
    for name, method in METHODS.items():
        taken = []
        for _ in range(REPEATS):
            began = thread_time()
            method.write(schedule, times)
            taken.append(1e3 * (thread_time() - began))
        line(name, min(taken), 20.0, f"best of {REPEATS}", " ms")


if __name__ == "__main__":
    main()
