"""Which of the workers of a job a process is."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skipjax.checks import whole


@dataclass(frozen=True)
class Worker:
    """One of `count` processes that draw a job's pictures, each on its own.

    Attributes:
        index: 0 .. count-1.
        count: How many workers there are.
    """

    index: int
    count: int

    def owns(self, shard: int) -> bool:
        """Whether a shard is this worker's to make: every `count`-th is."""
        return shard % self.count == self.index

    def __str__(self) -> str:
        return f"worker {self.index} of {self.count}"


def worker(
    index: int | None = None, count: int | None = None, env: Mapping[str, str] = os.environ
) -> Worker:
    """The worker that was asked for, or that the environment says.

    Known are Slurm's arrays (SLURM_ARRAY_TASK_ID, _MIN, _STEP, _COUNT), the tasks that srun starts
    (SLURM_PROCID, SLURM_STEP_NUM_TASKS), both together, and Kubernetes' Indexed Jobs
    (JOB_COMPLETION_INDEX), which do not say how many workers there are.

    Raises:
        ValueError: If only one of the two numbers is known, or they do not fit together.
    """
    source, said, of = _of(env)
    if index is None and said is not None:
        index, count = said, of if count is None else count
    else:
        source = "--worker and --num-workers"
    if index is None and count is None:
        return Worker(0, 1)
    if index is None or count is None:
        missing = "--num-workers" if count is None else "--worker"
        raise ValueError(f"{source} say only one number: give {missing} too")
    count = whole("num_workers", count, 1)
    if not 0 <= index < count:
        raise ValueError(
            f"{source} say worker {index} of {count}: workers are 0 .. {count - 1}; give --worker "
            "and --num-workers yourself"
        )
    return Worker(whole("worker", index, 0, count - 1), count)


def _of(env: Mapping[str, str]) -> tuple[str, int | None, int | None]:
    """Where the environment speaks of workers, and what it says."""

    def number(name: str, default: Any = None) -> Any:
        text = env.get(name, "")
        return int(text) if text.isdecimal() else default

    task, tasks = number("SLURM_ARRAY_TASK_ID"), number("SLURM_ARRAY_TASK_COUNT", 1)
    first, stride = number("SLURM_ARRAY_TASK_MIN", 0), number("SLURM_ARRAY_TASK_STEP", 1)
    # Not SLURM_NTASKS, which a batch script sees too, that runs but once.
    process, processes = number("SLURM_PROCID", 0), number("SLURM_STEP_NUM_TASKS", 1)
    array = 0 if task is None else (task - first) // max(stride, 1)
    if task is not None or processes > 1:
        return "SLURM_*", array * processes + process, tasks * processes
    return "JOB_COMPLETION_INDEX", number("JOB_COMPLETION_INDEX"), None
