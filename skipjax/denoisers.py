"""What a sampler asks of a network: x_0 and eps at a point; and what changes the answer.

A denoiser reads a network's output by a row of `parameterizations`. What changes a prediction,
such as clipping or guidance, wraps a denoiser and is one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from skipjax.process import PARAMETERIZATIONS, Parameterization, eps_of
from skipjax.process import Point as Point


class Prediction(NamedTuple):
    """What a denoiser says at one point; x = alpha x_0 + sigma eps holds between the first two.

    Attributes:
        x_0: The data, [B, ...].
        eps: The noise, [B, ...].
        log_variance: Where the log of the variance lies between its smallest, at -1, and its
            largest, at 1; [B, ...], of a network that learns it.
        gradient: What guides, the scaled gradient of log p(y | x), [B, ...]. x_0 and eps do not
            contain it: a plan applies it, through them (`steered`) or through the mean of a step.
        excess: What clipping or thresholding took off: x_0 as the network says it, less x_0 as it
            is here, [B, ...]. A plan may undo some of it.
    """

    x_0: jax.Array
    eps: jax.Array
    log_variance: jax.Array | None = None
    gradient: jax.Array | None = None
    excess: jax.Array | None = None


# (x [B, ..., C], t [B]) -> [B, ..., C], or [B, ..., 2C] where a variance is learned.
Function = Callable[[jax.Array, jax.Array], jax.Array]
Denoise = Callable[[jax.Array, Point], Prediction]
Transform = Callable[[Denoise], Denoise]


def of(row: Parameterization, network: Callable[[jax.Array, Point], jax.Array]) -> Denoise:
    """A denoiser of a network whose output is read by a row of `parameterizations`.

    Args:
        row: What the output means.
        network: (x [B, ..., C], point) -> [B, ..., C]; or [B, ..., 2C], where the second half says
            the variance.

    Raises:
        ValueError: When called, if the output has another shape.
    """

    def denoise(x: jax.Array, point: Point) -> Prediction:
        output, log_variance = _split(network(x, point), x)
        return Prediction(*row.predict(output, x, point), log_variance)

    return denoise


def from_eps(network: Function) -> Denoise:
    """A denoiser of a function (x, t [B]) that predicts the noise: x_0 = (x - sigma eps) / alpha.

    Here and below, one that gives twice the channels of x says with the second half the variance.
    """
    return _read("eps", network)


def from_x_0(network: Function) -> Denoise:
    """A denoiser of a function (x, t [B]) that predicts the data.

    eps = (x - alpha x_0) / sigma.
    """
    return _read("x_0", network)


def from_score(network: Function) -> Denoise:
    """A denoiser of a function (x, t [B]) that predicts the score, grad log p(x).

    eps = -sigma score and x_0 = (x + sigma^2 score) / alpha, Tweedie's formula.
    """
    return _read("score", network)


def from_v(network: Function) -> Denoise:
    """A denoiser of a function (x, t [B]) that predicts v = alpha eps - sigma x_0.

    x_0 = alpha x - sigma v and eps = sigma x + alpha v: of variance-preserving schedules alone,
    alpha^2 + sigma^2 = 1.
    """
    return _read("v", network)


def from_velocity(network: Function) -> Denoise:
    """A denoiser of a function (x, t [B]) that predicts the velocity eps - x_0, of any schedule.

    x_0 = (x - sigma velocity) / (alpha + sigma), eps = (x + alpha velocity) / (alpha + sigma).
    Where alpha = 1 - u and sigma = u, as in rectified flow, the velocity is dx / du.
    """
    return _read("velocity", network)


def clip(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Keeps x_0 within low .. high, and makes eps agree with it, as ADM does.

    Without the second half a sampler that uses eps (DDIM) would undo the clipping.
    """

    def clipped(x: jax.Array, point: Point) -> Prediction:
        prediction = denoise(x, point)
        return _limited(prediction, jnp.clip(prediction.x_0, low, high), x, point)

    return clipped


def threshold(
    denoise: Denoise, quantile: jax.Array | float = 0.995, largest: jax.Array | float = jnp.inf
) -> Denoise:
    """Dynamic thresholding: brings x_0 within -1 .. 1, a picture with much outside as a whole.

        s = min(max(1, quantile of |x_0|), largest)
        x_0 <- clip(x_0, -s, s) / s

    with one s for each picture, and eps to agree with x_0. Where s = 1 it is `clip`.

    Args:
        denoise: What to change.
        quantile: Part of a picture's values that s is not exceeded by, in 0 .. 1.
        largest: Bound of s, at least 1; diffusers' `sample_max_value`, where it is 1 by default.

    Source: Saharia et al. 2022 (Imagen, arXiv:2205.11487), section 2.3.
    """

    def thresholded(x: jax.Array, point: Point) -> Prediction:
        prediction = denoise(x, point)
        picture = tuple(range(1, x.ndim))
        s = jnp.quantile(jnp.abs(prediction.x_0), quantile, axis=picture, keepdims=True)
        s = jnp.clip(s, 1, largest)
        return _limited(prediction, jnp.clip(prediction.x_0, -s, s) / s, x, point)

    return thresholded


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Clip:
    """`clip`, as a value that programs take: static.

    Args:
        low: Least value of x_0.
        high: Largest.
    """

    low: float = field(default=-1.0, metadata={"static": True})
    high: float = field(default=1.0, metadata={"static": True})

    def __call__(self, denoise: Denoise) -> Denoise:
        return clip(denoise, self.low, self.high)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Threshold:
    """`threshold`, as a value that programs take: one program serves all quantiles.

    Args:
        quantile: Part of a sample's values that is kept as it is, in 0 .. 1.
        largest: Bound of the scale.
    """

    quantile: Any = 0.995
    largest: Any = float("inf")

    def __call__(self, denoise: Denoise) -> Denoise:
        return threshold(denoise, self.quantile, self.largest)


def unchanged(denoise: Denoise) -> Denoise:
    """The transform that does nothing: predictions as the network makes them."""
    return denoise


def keep_within(bounds: tuple[float, float] | None) -> Transform:
    """The transform that keeps x_0 within bounds; of no bounds, the one that does nothing."""
    return jax.tree_util.Partial(unchanged) if bounds is None else Clip(*bounds)


def scale_eps(denoise: Denoise, scale: jax.typing.ArrayLike) -> Denoise:
    """Epsilon scaling: eps <- k_t eps, and x_0 to agree with it.

    A network errs more on its own points than on those it was trained on; k slightly below 1 takes
    some of that back. `schedules.skip_scale` gives the k_t that S^2-DM trains networks for.

    Args:
        denoise: What to change.
        scale: k: one number, or one per time, [T], between which it is linear; such as
            np.linspace(0.99, 0.995, T).

    Source: Ning et al. 2024 (arXiv:2308.15321), section 4, where eps is divided by lambda = 1 / k.
    """
    scale = jnp.asarray(scale, jnp.float32)

    def scaled(x: jax.Array, point: Point) -> Prediction:
        prediction = denoise(x, point)
        k = scale
        if scale.ndim:
            k = jnp.interp(point.t, jnp.arange(len(scale), dtype=jnp.float32), scale)
            k = k.reshape(k.shape + (1,) * (x.ndim - 1)) if k.ndim else k
        eps = k * prediction.eps
        return prediction._replace(x_0=(x - point.sigma * eps) / point.alpha, eps=eps)

    return scaled


def steered(prediction: Prediction, point: Point, steer: jax.Array | float = 1.0) -> Prediction:
    """The prediction with guidance in it: eps - steer sigma gradient, and x_0 to agree with it.

    Source: Dhariwal & Nichol 2021 (arXiv:2105.05233), algorithm 2 and equation 14.
    """
    if prediction.gradient is None:
        return prediction
    turn = steer * point.sigma * prediction.gradient
    x_0 = prediction.x_0 + point.sigma / point.alpha * turn
    return prediction._replace(x_0=x_0, eps=prediction.eps - turn)


def _read(name: str, network: Function) -> Denoise:
    def told(x: jax.Array, point: Point) -> jax.Array:
        return network(x, jnp.broadcast_to(point.t, x.shape[:1]))

    return of(PARAMETERIZATIONS[name], told)


def _limited(prediction: Prediction, x_0: jax.Array, x: jax.Array, point: Point) -> Prediction:
    """The prediction with another x_0, eps to agree with it, and a note of what was taken off."""
    excess = prediction.x_0 - x_0
    if prediction.excess is not None:
        excess = prediction.excess + excess
    return prediction._replace(x_0=x_0, eps=eps_of(x, x_0, point), excess=excess)


def _split(output: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """The prediction, and what is said of the variance, if anything is."""
    channels = x.shape[-1]
    if output.shape == x.shape:
        return output, None
    if output.shape != (*x.shape[:-1], 2 * channels):
        raise ValueError(
            f"the network gives {output.shape} for x {x.shape}: it must give as many channels, or "
            "twice as many where it learns a variance"
        )
    return output[..., :channels], output[..., channels:]
