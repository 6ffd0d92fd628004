"""Sampling compiled ahead of time, for batches of one size, with the weights where they belong."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from skipjax import sharding
from skipjax.conditioners import Condition
from skipjax.config import Sampler
from skipjax.generation import decode, program


class Batch(NamedTuple):
    """What is told of some samples.

    Attributes:
        ids: Their ids, whole numbers [n].
        condition: What the network is told, leaves [n, ...]; None where it is told nothing.
        null: What stands for no condition, likewise; None where nothing needs it.
    """

    ids: np.ndarray
    condition: Condition | None = None
    null: Condition | None = None

    def take(self, chosen: np.ndarray) -> "Batch":
        """Those at some places."""
        return jax.tree.map(lambda array: array[chosen], self)


class Compiled:
    """`generate` and `decode` for batches like a first one, compiled ahead of time.

    Args:
        sampler: What is drawn, and how.
        key: Of all randomness.
        like: A batch of as many samples as will be drawn at a time.
        devices: Where to compute, each with a copy of the weights; default: where they lie if that
            is a mesh, all local devices otherwise.

    Attributes:
        size: Samples at a time: those of `like`, or more where the devices do not divide them.
        memory: Bytes that the program takes on each device, weights included; None where that is
            not known.
    """

    def __init__(
        self,
        sampler: Sampler,
        key: jax.Array,
        like: Batch,
        devices: Sequence[jax.Device] | None = None,
    ):
        placed = sharding.place(sampler.model, sampler.guidance, len(like.ids), devices)
        self._model, guidance, self._spread = placed
        self._before = self._model.core, sampler.plan, key
        self._after = guidance, sampler.transform, None
        batch = self._on_devices(like)
        self.size = len(batch.ids)
        options: dict[str, Any] = {"shape": sampler.shape, "dtype": sampler.dtype}
        lowered = program.lower(*self._before, *batch, *self._after, **options)
        self._compiled = lowered.compile()
        self.memory = _memory(self._compiled)

    def __call__(self, batch: Batch) -> jax.Array:
        """Starts drawing at most `size` samples; float32 [size, ...], not waited for.

        The last sample is drawn again where there are fewer.
        """
        full = batch.take(np.minimum(np.arange(self.size), len(batch.ids) - 1))
        z = self._compiled(*self._before, *self._on_devices(full), *self._after)
        return decode(self._model, z)

    def _on_devices(self, batch: Batch) -> Batch:
        return self._spread(batch._replace(ids=batch.ids.astype(np.uint32)))


def _memory(compiled: Any) -> int | None:
    try:
        said = compiled.memory_analysis()
        parts = (said.argument_size_in_bytes, said.output_size_in_bytes, said.temp_size_in_bytes)
    except (AttributeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    return int(sum(parts))
