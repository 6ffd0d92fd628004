"""Which loss a run makes small: chosen by name, and evaluated for a batch of noisy pictures."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from skipjax.process import Parameterization
from skipjax.schedules import skip_ratio, skip_scale
from skipjax.training import losses

Loss = Literal["mse", "min_snr", "hybrid", "min_snr_hybrid", "skip_step"]
LOSSES: tuple[Loss, ...] = get_args(Loss)

WEIGHTED: tuple[Loss, ...] = ("min_snr", "min_snr_hybrid")  # by `losses.min_snr_weight`
LEARN_VARIANCE: tuple[Loss, ...] = ("hybrid", "min_snr_hybrid")

# Fields of a run that are in the tables: runs that differ in them alone share a program.
IN_TABLES = ("gamma", "skip", "tau", "form")


class Tables(NamedTuple):
    """The numbers of a loss.

    Attributes:
        chain: Of the schedule.
        weight: Of each time's error, float32 [T]; of `WEIGHTED`.
        ratio: c of each time, float32 [T]; of "skip_step", as are the others.
        tau: Weight of DDPM's loss.
        skip: Times below it have DDPM's loss alone.
        independent: Whether the second term's noise is drawn anew.
    """

    chain: losses.Chain
    weight: Any = None
    ratio: Any = None
    tau: Any = None
    skip: Any = None
    independent: Any = None


def tables(run: Any) -> Tables:
    """The numbers of a run's loss."""
    schedule = run.process.schedule
    chain = losses.chain(schedule)
    if run.loss in WEIGHTED:
        return Tables(chain, losses.min_snr_weight(schedule, run.process.row, run.gamma))
    if run.loss != "skip_step":
        return Tables(chain)
    released = run.form == "released"
    return Tables(
        chain,
        None,
        jnp.asarray(skip_ratio(schedule, run.skip), jnp.float32),
        jnp.float32(run.tau),
        jnp.int32(run.skip if released else 0),
        jnp.asarray(released),
    )


def evaluate(
    loss: Loss,
    row: Parameterization,
    tables: Tables,
    output: jax.Array,
    x_0: jax.Array,
    x_t: jax.Array,
    t: jax.Array,
    eps: jax.Array,
    other: jax.Array,
) -> losses.Losses:
    """The loss of a name, per sample, of what a network said.

    - "mse": mean (target - output)^2
    - "min_snr": the same, weighted by `losses.min_snr_weight`
    - "hybrid": ADM's, with a learned variance: `losses.hybrid`
    - "min_snr_hybrid": ADM's, its squared error weighted like that of "min_snr"
    - "skip_step": S^2-DM's, of eps: `losses.skip_step`

    Args:
        loss: The name.
        row: Of `parameterizations`: what the network predicts.
        tables: The loss's numbers.
        output: What it said, [B, ..., C] or, of `LEARN_VARIANCE`, [B, ..., 2C].
        x_0: Samples, [B, ..., C] in [-1, 1].
        x_t: Noisy samples, [B, ..., C].
        t: Times, int [B] in 0 .. T-1.
        eps: The noise in x_t, [B, ..., C].
        other: Noise that is independent of x_t, [B, ..., C].
    """
    weight = tables.weight[t] if loss in WEIGHTED else 1.0
    if loss in LEARN_VARIANCE:
        return losses.hybrid(tables.chain, output, x_0, x_t, t, eps, row, weight)
    mse = losses.mse(tables.chain, output, x_0, t, eps, row)
    if loss != "skip_step":
        return losses.Losses(weight * mse, mse)
    other = jnp.where(tables.independent, other, eps)
    total = losses.skip_step(
        output, t, eps, other, tables.ratio, skip=tables.skip, tau=tables.tau, form="released"
    )
    return losses.Losses(total, mse)


def out_channels(loss: Loss, in_channels: int) -> int:
    """Channels that the network must say: twice as many where a variance is learned."""
    return 2 * in_channels if loss in LEARN_VARIANCE else in_channels


def check(run: Any) -> None:
    """Refuses a loss that cannot be taken.

    Raises:
        ValueError: For a loss that is not known or that the network does not suit, a number out
            of range, or "skip_step" of what is not eps.
    """
    loss, network = run.loss, run.network
    if loss not in LOSSES:
        raise ValueError(f"loss is {loss!r}: it must be one of {', '.join(LOSSES)}")
    channels = network.shape[-1]
    wanted = out_channels(loss, channels)
    has = getattr(network, "out_channels", wanted)
    if has != wanted:
        raise ValueError(
            f"the network has {has} output channels, and the loss {loss!r} of samples of "
            f"{channels} wants {wanted}"
        )
    if loss in WEIGHTED and not run.gamma > 0:
        raise ValueError(f"gamma is {run.gamma}: it must be above 0")
    if loss == "skip_step":
        if run.prediction != "eps":
            raise ValueError(f"S^2-DM's loss is about eps, and prediction is {run.prediction!r}")
        skip_scale(
            run.process.schedule, run.skip, run.tau, run.form
        )  # refuses what is out of range


def noise(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """eps, and the noise that "released" S^2-DM draws anew, float32 [B, ..., C] each."""
    other = jax.random.fold_in(key, 1)  # beside `key`, so that eps is what it is without
    return jax.random.normal(key, shape), jax.random.normal(other, shape)
