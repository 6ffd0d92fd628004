"""What single samples owe to the columns of a plan, by pulling vectors back along its rows.

A row at a time, and not through a scan: XLA's convolutions for CPUs are several times slower in
the backward pass of a loop. One program serves all rows of all plans of one K, and remembers of a
row its point and predictions alone; what the network computed there is computed again.

A vector at a time, and not by `vmap`: where residuals have no axis of vectors, XLA for CPUs gives
wrong results for all but the first vector behind a group norm of groups of one (jaxlib 0.10.2).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from skipjax.plans import Plan
from skipjax.sampling import advance, no_history
from skipjax.tuning.examples import Denoiser, Examples

Carry = tuple[jax.Array, tuple[jax.Array, ...]]  # x_i, and the predictions before


class Vectors(NamedTuple):
    """S vectors for each of B samples.

    Attributes:
        x: At a point, [S, B, ...].
        alpha: At the level that it stands at, [S, B]; default: 0.
        sigma: Likewise.
    """

    x: jax.Array
    alpha: jax.Array | float = 0.0
    sigma: jax.Array | float = 0.0


def forward(denoiser: Denoiser, plan: Plan, examples: Examples) -> list[Carry]:
    """What a plan carries into each of its rows, and out of the last, N + 1 of them."""
    x = jnp.asarray(examples.x, jnp.promote_types(examples.x.dtype, jnp.float32))
    found: list[Carry] = [(x, no_history(plan, x))]
    for i in range(plan.nfe):
        found.append(_ahead(denoiser, _row(plan, i), jnp.int32(i), found[-1], examples))
    return found


def pull_back(
    denoiser: Denoiser,
    plan: Plan,
    examples: Examples,
    carries: list[Carry],
    vectors: Callable[[int], Vectors | None],
) -> Plan:
    """J^T v, J the derivatives of points x_i by the columns of a plan of each sample's own.

    Args:
        denoiser: Of the network.
        plan: The same for all samples.
        examples: B of them.
        carries: What `forward` gives.
        vectors: v at x_i, i = 1 .. N, S for each sample; None for 0.

    Returns:
        A plan whose columns are what is owed to them, with axes [S, B] behind.
    """
    end = vectors(plan.nfe)
    assert end is not None
    nothing = tuple(jnp.zeros_like(end.x[0]) for _ in range(plan.history - 1))
    backs: list[Carry] = [(v, nothing) for v in end.x]
    owed: list[Plan] = []
    for i in reversed(range(plan.nfe)):
        pull = _linear(denoiser, _row(plan, i), jnp.int32(i), carries[i], examples)
        found = [_pull(pull, back) for back in backs]
        to_rows, backs = [row for row, _ in found], [carry for _, carry in found]
        here = jax.tree.map(lambda *columns: jnp.stack(columns, axis=-2), *to_rows)
        more = vectors(i) if i else None
        if more is not None:
            backs = [(x + v, older) for (x, older), v in zip(backs, more.x, strict=True)]
            here = replace(here, alpha=here.alpha + more.alpha, sigma=here.sigma + more.sigma)
        owed.append(here)
    return jax.tree.map(lambda *columns: jnp.stack(columns), *reversed(owed))


def _row(plan: Plan, i: int) -> Plan:
    return jax.tree.map(lambda column: column[i], plan)


@jax.jit
def _ahead(denoiser: Denoiser, row: Plan, i: jax.Array, carry: Carry, examples: Examples) -> Carry:
    return advance(carry, row, i, denoiser(examples), examples.keys)[0]


@jax.jit
def _linear(
    denoiser: Denoiser, row: Plan, i: jax.Array, carry: Carry, examples: Examples
) -> Callable[[Carry], tuple[Plan, Carry]]:
    """What pulls a vector back along a row, with all that it remembers of it."""
    num, inner = len(examples.x), (1,) * (examples.x.ndim - 1)

    def step(columns: Plan, carry: Carry) -> Carry:
        # The network's time has no axes of a sample.
        own = jax.tree.map(lambda column: column.reshape(*column.shape, *inner), columns)
        row = replace(own, t=columns.t)
        return advance(carry, row, i, denoiser(examples), examples.keys)[0]

    each = jax.tree.map(
        lambda column: jnp.broadcast_to(column[..., None], (*column.shape, num)), row
    )
    return jax.vjp(step, each, carry)[1]


@jax.jit
def _pull(pull: Callable[[Carry], tuple[Plan, Carry]], back: Carry) -> tuple[Plan, Carry]:
    return pull(back)
