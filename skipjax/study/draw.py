"""Pictures of many samplers at once, by one program for all of them and all numbers of calls."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from skipjax import denoisers
from skipjax.generation import denoiser
from skipjax.plans import Plan
from skipjax.pretrained import Pretrained
from skipjax.sampling import advance, no_history, starting_noise

LONGEST, HISTORY = 1000, 5  # rows and predictions that the program has place for
ABREAST = 5  # variants computed together


class Table(NamedTuple):
    """What tells one variant from another; stacked over variants.

    Attributes:
        plan: With rows of 0 behind its own.
        in_eps: Whether its predictions are of eps, not of x_0.
        scale: What eps is multiplied by at each time, [T].
    """

    plan: Plan
    in_eps: Any
    scale: Any


def draw(
    params: Pretrained,
    plans: Sequence[Plan],
    scales: Sequence[np.ndarray],
    key: jax.Array,
    labels: np.ndarray,
    dtype: str = "float32",
) -> np.ndarray:
    """Pictures of several plans of as many calls, from the same noise.

    Args:
        params: The network.
        plans: Of one number of calls.
        scales: Of eps, [T], one for each plan.
        key: Of the noise.
        labels: One for each picture, int [B].
        dtype: What the network computes in.

    Returns:
        float32 [plans, B, H, W, C].
    """
    tables = [_table(plan, scale) for plan, scale in zip(plans, scales, strict=True)]
    nfe, drawn = plans[0].nfe, []
    for first in range(0, len(tables), ABREAST):
        # Filled up with the last, so that one program serves all.
        chosen = [tables[min(first + i, len(tables) - 1)] for i in range(ABREAST)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *chosen)
        pictures = _draw(params, stacked, nfe, key, jnp.asarray(labels), dtype)
        drawn.append(np.asarray(pictures)[: len(tables) - first])
    return np.concatenate(drawn)


def _table(plan: Plan, scale: np.ndarray) -> Table:
    wide = plan.widened(HISTORY)
    rows = [(0, LONGEST - plan.nfe)]

    def fill(column):
        return np.pad(column, rows + [(0, 0)] * (column.ndim - 1)).astype(np.float32)

    padded = jax.tree.map(fill, wide)
    return Table(replace(padded, space="x_0"), np.asarray(plan.space == "eps"), np.float32(scale))


@partial(jax.jit, static_argnames="dtype")
def _draw(
    params: Pretrained, tables: Table, nfe: Any, key: jax.Array, labels: jax.Array, dtype: str
) -> jax.Array:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(labels)))
    start = starting_noise(keys, params.shape)

    def variant(table: Table) -> jax.Array:
        denoise = denoiser(params, {"label": labels}, transform=denoisers.unchanged, dtype=dtype)
        denoise = denoisers.clip(denoisers.scale_eps(denoise, table.scale))

        def asked(x, point):
            said = denoise(x, point)
            return said._replace(x_0=jnp.where(table.in_eps, said.eps, said.x_0))

        def step(i, carry):
            row = jax.tree.map(lambda column: column[i], table.plan)
            return advance(carry, row, i, asked, keys)[0]

        carry = start, no_history(table.plan, start)
        return jax.lax.fori_loop(0, nfe, step, carry)[0]

    return jax.vmap(variant)(tables)
