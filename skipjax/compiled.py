"""Sampling compiled ahead of time, for batches of one size, with the weights where they belong."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from skipjax import api, placement
from skipjax.generation import Guide, generate
from skipjax.plans import Plan
from skipjax.pretrained import Pretrained


class Batch(NamedTuple):
    """What is told of some pictures.

    Attributes:
        ids: Their ids, whole numbers [n].
        labels: Their labels, int32 [n]; None where there are none.
        low_res: What they enlarge, float32 [n, h, w, C]; None where they enlarge nothing.
    """

    ids: np.ndarray
    labels: np.ndarray | None = None
    low_res: np.ndarray | jax.Array | None = None

    def take(self, chosen: np.ndarray) -> "Batch":
        """Those at some places."""
        labels = None if self.labels is None else self.labels[chosen]
        low_res = None if self.low_res is None else self.low_res[chosen]
        return Batch(self.ids[chosen], labels, low_res)


class Compiled:
    """`generate` for batches like a first one, compiled ahead of time.

    Args:
        params: What `load` returned.
        plan: The sampler.
        key: Of all randomness.
        like: A batch of as many pictures as will be drawn at a time.
        devices: As in `skipjax.sample`.
        guide: How to guide, if at all.
        options: The other options of `generate`.

    Attributes:
        size: Pictures at a time: those of `like`, or more where the devices do not divide them.
        memory: Bytes that the program takes on each device, weights included; None where that is
            not known.
    """

    def __init__(
        self,
        params: Pretrained,
        plan: Plan,
        key: jax.Array,
        like: Batch,
        devices: Sequence[jax.Device] | None = None,
        guide: Guide | None = None,
        **options: Any,
    ):
        placed = api.place(
            params, plan, key, like.ids, like.labels, devices, low_res=like.low_res, guide=guide
        )
        *self._weights, ids, _, _, self._guide = placed
        self._over, self.size = ids.sharding, len(ids)
        # What is static is compiled in; only a threshold is told to each call.
        self._traced = {"threshold": options.get("threshold")}
        self._compiled = generate.lower(*placed, **options).compile()
        self.memory = _memory(self._compiled)

    def __call__(self, batch: Batch) -> jax.Array:
        """Starts drawing at most `size` pictures; float32 [size, H, W, C], not waited for.

        The last picture is drawn again where there are fewer.
        """
        full = batch.take(np.minimum(np.arange(self.size), len(batch.ids) - 1))
        full = full._replace(ids=full.ids.astype(np.uint32))
        spread = (a if a is None else placement.spread(a, self._over) for a in full)
        return self._compiled(*self._weights, *spread, self._guide, **self._traced)


def _memory(compiled: Any) -> int | None:
    try:
        said = compiled.memory_analysis()
        parts = (said.argument_size_in_bytes, said.output_size_in_bytes, said.temp_size_in_bytes)
    except (AttributeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    return int(sum(parts))
