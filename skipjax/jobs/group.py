"""Several processes as one worker, by jax.distributed: where a model is split over hosts, or a TPU
slice demands it.

All of them run the same batches over one mesh. The first leads: it alone reads and writes the
job's folder, and the others are told what is left to do. None can go on without the others, so
that each watches the rest, and ends when one is gone.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from skipjax.jobs import locks
from skipjax.jobs.locks import Owner
from skipjax.jobs.storage import Store

GONE = 75  # exit code where another process is gone: to be tried again


def distribute(
    coordinator: str | None = None, process: int | None = None, num: int | None = None
) -> None:
    """Joins the processes of a job, before anything is computed.

    Args:
        coordinator: HOST:PORT of process 0; found by jax.distributed, unless told.
        process: Which this is, likewise.
        num: How many there are, likewise.

    Raises:
        ValueError: If something is not known.
    """
    # A process that loses another is to say so and end, and not be ended with a core dump.
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(coordinator, num, process)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"distributed: {error} Give --coordinator, --process and --num-processes"
        ) from None
    # Where the first process is gone, JAX aborts the others in the same instant, from C++. Of that
    # signal Python's own handlers are not told before the process has ended.
    ctypes.CDLL(None).signal(signal.SIGABRT, _ABORTED)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _ABORTED(_: int) -> None:
    _end("most likely the first")


def _end(which: str) -> None:
    """Ends this process, since another is gone."""
    line = (
        f"\nskipjax: another process of the job is gone ({which}): finished shards are kept, "
        "start the job again\n"
    )
    os.write(sys.stderr.fileno(), line.encode())
    os._exit(GONE)


class Group:
    """The processes that work as one; most often only this one."""

    def __init__(self) -> None:
        self.index, self.count = jax.process_index(), jax.process_count()

    @property
    def leads(self) -> bool:
        """Whether this process reads and writes the job's folder."""
        return self.index == 0

    def name(self, worker: int, index: int | None = None) -> str:
        """Under what name a process of the group shows signs of life; this one, unless told."""
        index = self.index if index is None else index
        return f"{worker}-{index}" if index else f"{worker}"

    def others(self, worker: int) -> list[str]:
        """The names of the other processes."""
        return [self.name(worker, i) for i in range(self.count) if i != self.index]

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

    def meet(self) -> None:
        """Waits until all are here."""
        if self.count > 1:
            multihost_utils.sync_global_devices("meet")

    def part(self, store: Store, worker: int) -> None:
        """Takes leave of the others; the leader, whom they would miss, last of all."""
        if self.count == 1:
            return
        self.meet()
        names = {f"{locks.FOLDER}/{name}.json" for name in self.others(worker)}
        until = time.monotonic() + locks.BEAT
        while self.leads and names & store.sizes(locks.FOLDER).keys():
            if time.monotonic() > until:
                break
            time.sleep(0.05)
        jax.distributed.shutdown()


class Watch:
    """Watches the other processes of a group while the block lasts, and ends this one with a line
    when one of them is gone.

    Args:
        store: Of the job.
        names: Under which the others show signs of life.
    """

    def __init__(self, store: Store, names: Sequence[str]):
        self._store, self._files = store, [f"{locks.FOLDER}/{name}.json" for name in names]
        self._known = [locks.owner(store, file) for file in self._files]
        self._over = threading.Event()

    def __enter__(self) -> "Watch":
        if self._files:
            threading.Thread(target=self._watching, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if self._files and kind is not None and issubclass(kind, jax.errors.JaxRuntimeError):
            # What failed is most likely the word of one that is gone: soon this is known.
            time.sleep(locks.EXPIRES + locks.BEAT)
        self._over.set()

    def _watching(self) -> None:
        # The more there are, the less often: each reads the files of all others.
        while not self._over.wait(locks.BEAT / 10 * max(1, len(self._files) / 8)):
            for file, known in zip(self._files, self._known, strict=True):
                now = locks.owner(self._store, file)
                if not self._over.is_set() and (now is None or now.dead or not _same(now, known)):
                    gone = now or known
                    _end("unknown" if gone is None else f"process {gone.pid} on {gone.host}")


def _same(now: Owner, known: Owner | None) -> bool:
    return known is None or now.token == known.token
