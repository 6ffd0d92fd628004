"""Several networks one after the other, each from where the one before left off."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from skipjax import sharding as shardings
from skipjax.codecs.images import finite
from skipjax.config import SampleConfig, Sampler, ScaleLike, as_dtype, as_ids, as_key, resolve
from skipjax.generation import decode, generate
from skipjax.plans import Plan
from skipjax.pretrained import Pretrained
from skipjax.schedules import DATA


def relay(
    legs: Iterable[tuple[Pretrained, Plan]],
    key: jax.Array,
    *,
    num: int | None = None,
    ids: Sequence[int] | np.ndarray | None = None,
    guidance: ScaleLike = None,
    dtype: DTypeLike = jnp.float32,
    devices: Sequence[jax.Device] | None = None,
    **words: Any,
) -> jax.Array:
    """Draws samples by several networks: each takes over where the one before it ends.

    Skipped-step sampling, or any solver, with the network that a consistency model was distilled
    from, and below a cutoff the consistency model, in one call:

        times = grids.karras(teacher.schedule, 18)[:7]
        both = plans.split(teacher.schedule, times, cutoff=times[5], above="skipped")
        images = relay(zip((teacher, student), both), key, label=207)

    Networks that were trained for some of the levels each are drawn from likewise (Balaji et al.
    2022, arXiv:2211.01324).

    One More Step (Hu et al. 2023, arXiv:2311.15744) is of two legs, too: a network of its own
    that predicts v from noise alone, and then Stable Diffusion's.

        more = schedules.one_more_step(model.schedule)  # of T + 1 times
        first = first.replace(process=Process(more, "v", bounds=None))
        legs = [(first, plans.ddim(more, [more.T - 1], end=more.T - 2)), (model, plan)]
        images = relay(legs, key, prompt="a fox in the snow", guidance=7.5)

    A sample depends on `key` and its id alone. The noise of a row goes by its number on the whole
    way: a plan that looks at its newest prediction alone, cut in two, draws what it does whole.

    Args:
        legs: Networks, from `load`, with the plan that each runs. The first begins with noise, the
            others at the level where the one before ends, as those of `plans.split` do.
        key: From `jax.random.key`.
        num: How many samples, with ids 0 .. num-1. Default: as many as labels or prompts are
            given, or 4.
        ids: Ids of the samples instead, each in 0 .. 2^32 - 1.
        guidance: As in `sample`, of each network.
        dtype: What the networks compute in, float32 or bfloat16.
        devices: Where to compute, as in `sample`.
        words: What all of them are told, "label" and the like, as in `sample`.

    Returns:
        float32 [num, H, W, C], or what else the last network draws.

    Raises:
        ValueError: For a plan that does not begin where the one before ends, or that its network
            cannot serve; networks of other shapes; words that are out of range.
        TypeError: For a network, plan or key of another kind.
        FloatingPointError: If a sample came out NaN or infinite.
    """
    name: Any = as_dtype(dtype).name
    asked = SampleConfig(guidance=guidance, dtype=name)
    samplers = [resolve(model, replace(asked, plan=plan)) for model, plan in legs]
    _check(samplers)
    key = as_key(key)
    words = {name: value for name, value in words.items() if value is not None}
    ids = as_ids(num, ids, samplers[0].number_of(words) or 4)
    z: Any = None
    model: Any = None
    rows = 0
    for sampler in samplers:
        condition, null = sampler.condition(words, key, ids)
        drawing = sampler.model.replace(conditioner=None)
        model, ways, spread = shardings.place(drawing, sampler.guidance, len(ids), devices)
        plan = _behind(rows, sampler.plan)
        z = generate(
            model,
            plan,
            key,
            spread(ids.astype(np.uint32)),
            spread(condition),
            null=spread(null),
            guidance=ways,
            transform=sampler.transform,
            start=None if z is None else (spread(z), rows),
            dtype=sampler.dtype,
        )[: len(ids)]
        rows = plan.nfe
    return finite(decode(model, z)[: len(ids)], ids)


def _behind(rows: int, plan: Plan) -> Plan:
    """A plan behind so many rows that are never run: those of the legs before."""
    if not rows:
        return plan
    return jax.tree.map(
        lambda column: np.concatenate([np.repeat(column[:1], rows, axis=0), column]),
        plan.replace(prior_std=None),
    )


def _check(samplers: list[Sampler]) -> None:
    if not samplers:
        raise ValueError("legs is empty: give a network and a plan for each")
    for i, (one, other) in enumerate(pairwise(samplers), 2):
        if one.shape != other.shape:
            raise ValueError(
                f"leg {i} draws {other.shape}, and the one before {one.shape}: they must be alike"
            )
        if one.plan.origin is None:  # where it ends is known to its user alone
            continue
        ends = one.model.schedule.at(one.plan.origin.end)
        begins = other.plan.alpha[0], other.plan.sigma[0]
        if not np.allclose(ends, begins, rtol=1e-5, atol=1e-9):
            where = "at the data" if one.plan.origin.end == DATA else f"at {_level(ends)}"
            raise ValueError(
                f"leg {i} begins at {_level(begins)}, and the one before ends {where}: write that "
                "one with end=, the first time of the next; plans.split writes both"
            )


def _level(level: Any) -> str:
    alpha, sigma = map(float, level)
    return f"alpha {alpha:.4g}, sigma {sigma:.4g}"
