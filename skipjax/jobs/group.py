"""Several processes as one worker, by jax.distributed: where a model is split over hosts, or a TPU
slice demands it.

All of them run the same batches over one mesh. The first leads: it alone reads and writes the
job's folder, and the others are told what is left to do. None can go on without the others: where
one is gone, what they do together fails, or jax.distributed misses it, and they end.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

GONE = 75  # exit code where another process is gone: to be tried again
FAILED = 2
HEARTBEAT = 30  # seconds of silence after which jax.distributed takes a process for dead


def distribute(
    coordinator: str | None = None, process: int | None = None, num: int | None = None
) -> None:
    """Joins the processes of a job, before anything is computed.

    Args:
        coordinator: HOST:PORT of process 0. Default: as jax.distributed finds it.
        process: Which this is, likewise.
        num: How many there are, likewise.

    Raises:
        ValueError: If something is not known.
    """
    try:
        jax.distributed.initialize(coordinator, num, process, heartbeat_timeout_seconds=HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"distributed: {error} Give --coordinator, --process and --num-processes"
        ) from None
    # Where a process is gone, JAX aborts the others from C++. Of that signal Python's own handlers
    # are not told before the process has ended.
    ctypes.CDLL(None).signal(signal.SIGABRT, _ABORTED)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _ABORTED(_: int) -> None:
    _end_as_another_is_gone("jax.distributed misses it")


def _end_as_another_is_gone(why: str) -> NoReturn:
    _end(
        f"another process of the job is gone ({why}): finished shards are kept, start the job "
        "again",
        GONE,
    )


def _end(said: str, code: int) -> NoReturn:
    """Ends this process here and now: the others wait for it, and it must not wait for them."""
    os.write(sys.stderr.fileno(), f"\nskipjax: {said}\n".encode())
    os._exit(code)


class Group:
    """The processes that work as one while the block lasts; most often only this one.

    Where they are several, an error ends the process, with a line and an exit code, since the
    others cannot be told to go on without it.
    """

    def __init__(self) -> None:
        self.count = jax.process_count()

    @property
    def leads(self) -> bool:
        """Whether this process reads and writes the job's folder."""
        return jax.process_index() == 0

    def most(self, number: int) -> int:
        """The largest of the processes' numbers."""
        if self.count == 1:
            return number
        return int(multihost_utils.process_allgather(np.array(number)).max())

    def told(self, numbers: Sequence[int]) -> list[int]:
        """The leader's numbers."""
        if self.count == 1:
            return list(numbers)
        many = int(multihost_utils.broadcast_one_to_all(np.array(len(numbers))))
        sent = np.resize(np.array(numbers, np.int64), many) if self.leads else np.zeros(many, int)
        return multihost_utils.broadcast_one_to_all(sent).tolist()

    def on_host(self, array: jax.Array) -> np.ndarray:
        """The whole of an array that is spread over the processes; waits for it."""
        if self.count == 1:
            return np.asarray(array)
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if self.count == 1:
            return
        if isinstance(error, jax.errors.JaxRuntimeError):
            _end_as_another_is_gone(str(error).splitlines()[0])
        if isinstance(error, Exception):
            _end(str(error), FAILED)
        if error is None:
            multihost_utils.sync_global_devices("the end")
            jax.distributed.shutdown()
