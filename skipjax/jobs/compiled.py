"""Sampling compiled ahead of time, for batches of one size, with the weights where they belong."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from skipjax import sharding
from skipjax.conditioners import Condition
from skipjax.config import Sampler
from skipjax.generation import decode, program
from skipjax.jobs import stepping


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
    """`generate` and `decode` for batches like a first one, the former compiled ahead of time.

    Args:
        sampler: What is drawn, and how.
        key: Of all randomness.
        like: A batch of as many samples as will be drawn at a time.
        devices: Where to compute, each with a copy of the weights; default: where they lie if that
            is a mesh, all local devices otherwise.
        by_steps: Whether a program runs a row of the plan at a time, of which `diffuse` can tell.

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
        *,
        by_steps: bool = False,
    ):
        # What encodes words has done its part, and stays where it is.
        drawing = sampler.model.replace(conditioner=None)
        placed = sharding.place(drawing, sampler.guidance, len(like.ids), devices)
        self._model, guidance, self._spread = placed
        self._before = self._model.core, sampler.plan, key
        self._after = guidance, sampler.transform
        self._nfe, self._by_steps = sampler.plan.nfe, by_steps
        batch = self._on_devices(like)
        self.size = len(batch.ids)
        if by_steps:
            self._begin = partial(stepping.begin, *self._before, shape=sampler.shape)
            carry = self._begin(batch.ids, batch.condition)
            each = jax.jit(
                partial(stepping.step, dtype=sampler.dtype),
                out_shardings=jax.tree.map(lambda x: x.sharding, carry),
                donate_argnums=0,
            )
            lowered = each.lower(carry, jnp.int32(0), *self._before, *batch, *self._after)
        else:
            options: dict[str, Any] = {"shape": sampler.shape, "dtype": sampler.dtype}
            lowered = program.lower(*self._before, *batch, *self._after, None, **options)
        self._compiled = lowered.compile()
        self.memory = sharding.memory(self._compiled)
        self._shape = self.size, *sampler.shape

    def __call__(self, batch: Batch) -> jax.Array:
        """Starts drawing at most `size` samples; float32 [size, ...], not waited for.

        The last sample is drawn again where there are fewer.
        """
        return self.decode(self.diffuse(batch))

    def diffuse(self, batch: Batch, on_step: Callable[[], object] | None = None) -> jax.Array:
        """What is diffused of at most `size` samples, likewise.

        Args:
            batch: What is told of them.
            on_step: Called when a row of the plan is done, by steps.
        """
        full = batch.take(np.minimum(np.arange(self.size), len(batch.ids) - 1))
        told = self._on_devices(full)
        if not self._by_steps:
            return self._compiled(*self._before, *told, *self._after, None)
        carry = self._begin(told.ids, told.condition)
        for i in range(self._nfe):
            carry = self._compiled(carry, jnp.int32(i), *self._before, *told, *self._after)
            if on_step is not None:
                jax.block_until_ready(carry)
                on_step()
        return carry[0]

    def decode(self, z: jax.Array) -> jax.Array:
        """Samples of what is diffused, where the weights are."""
        return decode(self._model, z)

    @property
    def decoding(self) -> int | None:
        """Bytes that decoding takes on each device, likewise; its program is compiled for that."""
        memory = getattr(self._model.codec, "memory", None)
        return None if memory is None else memory(self._shape)

    def _on_devices(self, batch: Batch) -> Batch:
        return self._spread(batch._replace(ids=batch.ids.astype(np.uint32)))
