"""The one compiled program of a job: a batch of pictures of one shape, again and again."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skipjax import api, placement
from skipjax.generation import generate
from skipjax.jobs.job import Resolved
from skipjax.jobs.reporting import Report

PER_DEVICE = 16  # pictures at a time, unless told


class Program:
    """`generate`, compiled ahead of time for so many pictures, with the weights where they belong.

    Where the device has no memory for a batch, it goes on with half of it, and says so.

    Args:
        resolved: The job.
        report: Told what happens.
        batch: Pictures at a time; more where their number must divide by that of the devices.
            16 for each device, unless told.
        devices: Where to compute, each with a copy of the weights; as in `skipjax.sample`.

    Attributes:
        batch: Pictures at a time.
        memory: Bytes that it takes on each device, weights included; None where that is not known.

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
        self._options: dict[str, Any] = {"threshold": resolved.job.threshold}
        self.batch = batch or PER_DEVICE * len(devices or jax.devices())
        self.memory: int | None = None
        try:
            self._compile()
        except jax.errors.JaxRuntimeError as error:
            self.shrink(error)

    def __call__(self, ids: np.ndarray, labels: np.ndarray | None) -> jax.Array:
        """Starts drawing at most `batch` pictures; float32 [batch, H, W, C], not waited for.

        The last picture is drawn again where there are fewer.
        """
        fill = np.minimum(np.arange(self.batch), len(ids) - 1)
        spread = placement.spread(ids[fill].astype(np.uint32), self._over)
        y = None if labels is None else placement.spread(labels[fill], self._over)
        arguments = (*self._weights, spread, y, None, self._guide)
        return self._compiled(*arguments, **self._options)

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
        resolved, ids = self._resolved, np.arange(self.batch)
        placed = api.place(
            resolved.params,
            resolved.plan,
            resolved.key,
            ids,
            resolved.labels(ids),
            self._devices,
            guide=resolved.guide,
        )
        *self._weights, ids, _, _, self._guide = placed
        self._over, self.batch = ids.sharding, len(ids)
        lowered = generate.lower(*placed, **self._options, dtype=jnp.dtype(resolved.job.dtype))
        self._compiled = lowered.compile()
        self.memory = _memory(self._compiled)
        seconds = time.perf_counter() - began
        takes = "" if self.memory is None else f", {self.memory / 1e9:.2f} GB on each device"
        self._report.say(
            "compiled",
            f"compiled in {seconds:.1f} s: {self.batch} pictures at a time, "
            f"{resolved.plan.nfe} NFE{takes}",
            seconds=seconds,
            batch=self.batch,
            nfe=resolved.plan.nfe,
            bytes=self.memory,
        )


def _memory(compiled: Any) -> int | None:
    try:
        said = compiled.memory_analysis()
        parts = (said.argument_size_in_bytes, said.output_size_in_bytes, said.temp_size_in_bytes)
    except (AttributeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    return int(sum(parts))
