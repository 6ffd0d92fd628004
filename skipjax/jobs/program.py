"""The one compiled program of a job: a batch of pictures of one shape, again and again."""

import time
from collections.abc import Sequence

import jax
import numpy as np

from skipjax.jobs.compiled import Compiled
from skipjax.jobs.job import Resolved
from skipjax.jobs.reporting import Report

PER_DEVICE = 16  # pictures at a time by default


class Program:
    """`generate`, compiled ahead of time for so many pictures, with the weights where they belong.

    Where the device has no memory for a batch, it goes on with half of it, and says so.

    Args:
        resolved: The job.
        report: Told what happens.
        batch: Pictures at a time; more where their number must divide by that of the devices.
            Default: 16 for each device, or all of them.
        devices: Where to compute, each with a copy of the weights; as in `skipjax.sample`.

    Attributes:
        batch: Pictures at a time.
        memory: Bytes that it takes on each device, weights included; None where that is not known.
        decoding: Bytes that decoding takes there, after it and not beside it; likewise.

    Raises:
        ValueError: If there is no memory for even one picture.
    """

    def __init__(
        self,
        resolved: Resolved,
        report: Report,
        batch: int | None = None,
        devices: Sequence[jax.Device] | None = None,
    ):
        self._resolved, self._report, self._devices = resolved, report, devices
        default = PER_DEVICE * len(devices or jax.devices())
        self.batch = batch or min(default, resolved.num)
        self.memory: int | None = None
        self.decoding: int | None = None
        try:
            self._compile()
        except jax.errors.JaxRuntimeError as error:
            self.shrink(error)

    def __call__(self, ids: np.ndarray) -> jax.Array:
        """Starts drawing at most `batch` pictures; float32 [batch, H, W, C], not waited for."""
        return self._compiled(self._resolved.batch(ids))

    def shrink(self, error: jax.errors.JaxRuntimeError) -> None:
        """Compiles for half as many pictures, if that is what helps against an error.

        Raises:
            JaxRuntimeError: The error, if it says something else than that memory is short.
            ValueError: If the batch cannot be made smaller.
        """
        while True:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise error
            if self.batch == 1:
                raise ValueError("there is no device memory for even one picture") from error
            before, self.batch = self.batch, self.batch // 2
            self._report.say(
                "out_of_memory",
                f"no device memory for {before} pictures at a time: going on with {self.batch}",
                batch=self.batch,
            )
            try:
                return self._compile()
            except jax.errors.JaxRuntimeError as another:
                error = another

    def _compile(self) -> None:
        began = time.perf_counter()
        resolved = self._resolved
        like = resolved.batch(np.arange(self.batch))
        self._compiled = Compiled(resolved.sampler, resolved.key, like, self._devices)
        self.batch, self.memory = self._compiled.size, self._compiled.memory
        self.decoding = getattr(self._compiled, "decoding", None)
        seconds = time.perf_counter() - began
        takes = said_memory(self.memory, self.decoding)
        self._report.say(
            "compiled",
            f"compiled in {seconds:.1f} s: {self.batch} pictures at a time, "
            f"{resolved.plan.nfe} NFE{takes}",
            seconds=seconds,
            batch=self.batch,
            nfe=resolved.plan.nfe,
            bytes=self.memory,
            decoding=self.decoding,
        )


def said_memory(drawing: int | None, decoding: int | None) -> str:
    """What is said of the bytes that drawing and decoding take."""
    if drawing is None:
        return ""
    more = "" if decoding is None else f", {decoding / 1e9:.2f} GB to decode"
    return f", {drawing / 1e9:.2f} GB on each device{more}"
