"""Sampling a row of the plan at a time, by a program that the host calls again and again.

It is slower by a call for each row, and can say how far it is: `generate` tells that by calling
back from inside its program, and a program that does is compiled at every start, never kept.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from skipjax.conditioners import Condition
from skipjax.denoisers import Transform
from skipjax.generation import denoiser, keys_of, prior
from skipjax.guidance import Guidance
from skipjax.plans import Plan
from skipjax.pretrained import Pretrained
from skipjax.sampling import Carry, advance, no_history


@partial(jax.jit, static_argnames="shape")
def begin(
    model: Pretrained,
    plan: Plan,
    key: jax.Array,
    ids: jax.Array,
    condition: Condition | None,
    *,
    shape: tuple[int, ...],
) -> Carry:
    """What the first row goes on from; arguments are those of `generation.program`."""
    x = prior(model, plan, keys_of(key, ids, condition), shape)
    return x, no_history(plan, x)


def step(
    carry: Carry,
    i: jax.Array,
    model: Pretrained,
    plan: Plan,
    key: jax.Array,
    ids: jax.Array,
    condition: Condition | None,
    null: Condition | None,
    ways: tuple[Guidance, ...],
    transform: Transform,
    *,
    dtype: Any,
) -> Carry:
    """Row i of a plan: what the next one goes on from. To be compiled by who calls it, so that
    it lies where the one before does.

    Args:
        carry: What the one before left.
        i: Index of the row.
        model: As in `generation.program`, like all that follow.
    """

    def of_row(column: Any) -> jax.Array:
        return jnp.asarray(column, jnp.float32)[i]

    row = jax.tree.map(of_row, plan.replace(prior_std=None))
    denoise = denoiser(
        model, condition, null=null, guidance=ways, transform=transform, dtype=dtype
    )
    return advance(carry, row, i, denoise, keys_of(key, ids, condition))[0]
