"""From what a network outputs to what a sampler asks: x_0 and eps at a point.

With x = alpha x_0 + sigma eps, both x_0 and eps follow from any one of

    x_0, eps
    score       grad log p(x) = -eps / sigma        (Song et al. 2021, arXiv:2011.13456)
    v           alpha eps - sigma x_0               (Salimans & Ho 2022, arXiv:2202.00512)
    velocity    eps - x_0                           (Liu et al. 2023, arXiv:2209.03003)

eps and the score say nothing of x_0 where alpha = 0, at zero terminal SNR; the others do. What
changes a prediction, such as clipping or guidance, wraps a denoiser and is one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Point(NamedTuple):
    """Where a sampler stands: the time told to the network, and the level of x.

    Scalars while sampling; t may also be one per picture, [B], with alpha and sigma that
    broadcast against x, [B, 1, ...].
    """

    t: jax.Array
    alpha: jax.Array
    sigma: jax.Array


class Prediction(NamedTuple):
    """What a denoiser says at one point; x = alpha x_0 + sigma eps holds between the first two.

    Attributes:
        x_0: The data, [B, ...].
        eps: The noise, [B, ...].
        place: Where the log of the variance lies between its smallest, at -1, and its largest, at
            1; [B, ...], of a network that learns it.
        gradient: What guides, the scaled gradient of log p(y | x), [B, ...]. x_0 and eps do not
            contain it: a plan applies it, through them (`steered`) or through the mean of a step.
    """

    x_0: jax.Array
    eps: jax.Array
    place: jax.Array | None = None
    gradient: jax.Array | None = None


# (x [B, ..., C], t [B]) -> [B, ..., C], or [B, ..., 2C] where a variance is learned.
Network = Callable[[jax.Array, jax.Array], jax.Array]
Denoise = Callable[[jax.Array, Point], Prediction]


def from_eps(network: Network) -> Denoise:
    """A denoiser of a network that predicts the noise: x_0 = (x - sigma eps) / alpha.

    Here and below, a network with twice the channels of x says with the second half the variance.
    """

    def denoise(x, point):
        eps, place = _call(network, x, point)
        return Prediction((x - point.sigma * eps) / point.alpha, eps, place)

    return denoise


def from_x_0(network: Network) -> Denoise:
    """A denoiser of a network that predicts the data: eps = (x - alpha x_0) / sigma."""

    def denoise(x, point):
        x_0, place = _call(network, x, point)
        return Prediction(x_0, _eps(x, x_0, point), place)

    return denoise


def from_score(network: Network) -> Denoise:
    """A denoiser of a network that predicts the score, grad log p(x).

    eps = -sigma score and x_0 = (x + sigma^2 score) / alpha, Tweedie's formula.
    """

    def denoise(x, point):
        score, place = _call(network, x, point)
        eps = -point.sigma * score
        return Prediction((x - point.sigma * eps) / point.alpha, eps, place)

    return denoise


def from_v(network: Network) -> Denoise:
    """A denoiser of a network that predicts v = alpha eps - sigma x_0.

    x_0 = alpha x - sigma v and eps = sigma x + alpha v: of variance-preserving schedules alone,
    alpha^2 + sigma^2 = 1.
    """

    def denoise(x, point):
        v, place = _call(network, x, point)
        x_0, eps = point.alpha * x - point.sigma * v, point.sigma * x + point.alpha * v
        return Prediction(x_0, eps, place)

    return denoise


def from_velocity(network: Network) -> Denoise:
    """A denoiser of a network that predicts the velocity eps - x_0, of any schedule.

    x_0 = (x - sigma velocity) / (alpha + sigma), eps = (x + alpha velocity) / (alpha + sigma).
    Where alpha = 1 - u and sigma = u, as in rectified flow, the velocity is dx / du.
    """

    def denoise(x, point):
        velocity, place = _call(network, x, point)
        total = point.alpha + point.sigma
        x_0 = (x - point.sigma * velocity) / total
        return Prediction(x_0, (x + point.alpha * velocity) / total, place)

    return denoise


def clip(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Keeps x_0 within low .. high, and makes eps agree with it, as ADM does.

    Without the second half a sampler that uses eps (DDIM) would undo the clipping.
    """

    def clipped(x, point):
        prediction = denoise(x, point)
        x_0 = jnp.clip(prediction.x_0, low, high)
        return prediction._replace(x_0=x_0, eps=_eps(x, x_0, point))

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

    def thresholded(x, point):
        prediction = denoise(x, point)
        picture = tuple(range(1, x.ndim))
        s = jnp.quantile(jnp.abs(prediction.x_0), quantile, axis=picture, keepdims=True)
        s = jnp.clip(s, 1, largest)
        x_0 = jnp.clip(prediction.x_0, -s, s) / s
        return prediction._replace(x_0=x_0, eps=_eps(x, x_0, point))

    return thresholded


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

    def scaled(x, point):
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


def _eps(x: jax.Array, x_0: jax.Array, point: Point) -> jax.Array:
    return (x - point.alpha * x_0) / point.sigma


def _call(network: Network, x: jax.Array, point: Point) -> tuple[jax.Array, jax.Array | None]:
    """The network's prediction, and its place of the variance if it has one."""
    output = network(x, jnp.broadcast_to(point.t, x.shape[:1]))
    channels = x.shape[-1]
    if output.shape == x.shape:
        return output, None
    if output.shape != (*x.shape[:-1], 2 * channels):
        raise ValueError(
            f"the network gives {output.shape} for x {x.shape}: it must give as many channels, or "
            "twice as many where it learns a variance"
        )
    return output[..., :channels], output[..., channels:]
