"""Which loss a run makes small: chosen by name, and evaluated for a batch of noisy pictures."""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from skipjax.models import UNetConfig
from skipjax.schedules import Form, Schedule, skip_ratio, skip_scale
from skipjax.training import losses

Loss = Literal["mse", "min_snr", "hybrid", "skip_step"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
PREDICTIONS: tuple[losses.Prediction, ...] = get_args(losses.Prediction)

# (output, x_0, x_t, t, eps, other) -> Losses; see `losses.hybrid` and `losses.skip_step`.
Objective = Callable[..., losses.Losses]


def objective(
    loss: Loss,
    prediction: losses.Prediction,
    schedule: Schedule,
    *,
    gamma: float = 5.0,
    skip: int = 9,
    tau: float = 0.99,
    form: Form = "released",
) -> Objective:
    """The loss of a name, as a function of what the network said.

    - "mse": mean (target - output)^2, of eps, x_0 or v
    - "min_snr": the same, weighted by `losses.min_snr_weight`
    - "hybrid": ADM's, with a learned variance: `losses.hybrid`
    - "skip_step": S^2-DM's, of eps: `losses.skip_step`

    Args:
        loss: The name.
        prediction: What the network predicts: "eps", "x_0" or "v".
        schedule: The forward process.
        gamma: Largest SNR that "min_snr" tells from larger ones.
        skip: Steps that "skip_step" jumps over.
        tau: Weight of DDPM's loss in "skip_step", in (0, 1].
        form: Of "skip_step": "released" or "paper".

    Raises:
        ValueError: For another name, a number out of range, or "skip_step" of what is not eps.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss is {loss!r}: it must be one of {', '.join(LOSSES)}")
    if prediction not in PREDICTIONS:
        raise ValueError(
            f"prediction is {prediction!r}: it must be one of {', '.join(PREDICTIONS)}"
        )
    chain = losses.chain(schedule)
    if loss == "hybrid":

        def hybrid(output, x_0, x_t, t, eps, other):
            return losses.hybrid(chain, output, x_0, x_t, t, eps, prediction)

        return hybrid
    if loss == "skip_step":
        if prediction != "eps":
            raise ValueError(f"S^2-DM's loss is about eps, and prediction is {prediction!r}")
        skip_scale(schedule, skip, tau, form)  # refuses what is out of range
        ratio = jnp.asarray(skip_ratio(schedule, skip), jnp.float32)

        def skip_step(output, x_0, x_t, t, eps, other):
            mse = losses.mse(chain, output, x_0, t, eps)
            total = losses.skip_step(output, t, eps, other, ratio, skip=skip, tau=tau, form=form)
            return losses.Losses(total, mse)

        return skip_step
    if not gamma > 0:
        raise ValueError(f"gamma is {gamma}: it must be above 0")
    weight = losses.min_snr_weight(schedule, prediction, gamma)

    def mse(output, x_0, x_t, t, eps, other):
        mse = losses.mse(chain, output, x_0, t, eps, prediction)
        total = weight[t] * mse if loss == "min_snr" else mse
        return losses.Losses(total, mse)

    return mse


def out_channels(loss: Loss, in_channels: int) -> int:
    """Channels that the network must say: twice as many where a variance is learned."""
    return 2 * in_channels if loss == "hybrid" else in_channels


def check(loss: Loss, unet: UNetConfig) -> None:
    """Refuses a network that the loss cannot be taken of.

    Raises:
        ValueError: If it has another number of output channels, or enlarges pictures.
    """
    wanted = out_channels(loss, unet.in_channels)
    if unet.out_channels != wanted:
        raise ValueError(
            f"the network has {unet.out_channels} output channels, and the loss {loss!r} of "
            f"pictures of {unet.in_channels} wants {wanted}"
        )
    if unet.low_res_channels:
        raise ValueError("networks that enlarge pictures cannot be trained here: no low_res")


def noise(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """eps, and the noise that "released" S^2-DM draws anew, float32 [B, H, W, C] each."""
    other = jax.random.fold_in(key, 1)  # beside `key`, so that eps is what it is without
    return jax.random.normal(key, shape), jax.random.normal(other, shape)
