"""What makes a denoiser prefer pictures of a class: denoisers that wrap denoisers.

A scale may be traced, so that a sweep over it runs one compiled program; so may the interval of
times (low, high), both included, outside which there is no guidance and nothing is computed for it
(Kynkaanniemi et al. 2024, arXiv:2404.07724).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from skipjax.denoisers import Denoise, Prediction

LogProb = Callable[[jax.Array, jax.Array], jax.Array]  # (x [B, ...], t [B]) -> log p(y | x) [B]
Interval = tuple[jax.Array | float, jax.Array | float]


def classifier(
    denoise: Denoise, log_prob: LogProb, scale: jax.Array | float, interval: Interval | None = None
) -> Denoise:
    """Guidance by a classifier of noisy pictures: gradient = scale d log p(y | x) / dx.

    The gradient stands beside the prediction. A plan adds it to the mean of a step, times the
    step's variance, where it draws from a posterior (DDPM, skipped-step), and takes it from eps
    elsewhere (DDIM and every other solver): `skipjax.denoisers.steered`.

    Args:
        denoise: What to guide; clip it before, as ADM does: what guidance adds is not clipped.
        log_prob: log p(y | x) of noisy pictures x [B, ...] at times t [B], float [B].
        scale: 1 for the posterior by Bayes' rule, more to insist, 0 for no guidance; one for all
            pictures, or one each, [B].
        interval: Least and largest time at which to guide; at all times, unless told.

    Source: Dhariwal & Nichol 2021 (arXiv:2105.05233), algorithms 1 and 2.
    """

    def guided(x, point):
        def gradient(x):
            t = jnp.broadcast_to(point.t, x.shape[:1])
            return jax.grad(lambda x: log_prob(x, t).sum())(x)

        inside = _inside(point.t, interval)
        if _for_all(inside, interval):
            found = jax.lax.cond(inside, gradient, jnp.zeros_like, x)
        else:
            found = gradient(x)
        scaled = jnp.where(_over(inside, x), _over(scale, x) * found, 0)
        return denoise(x, point)._replace(gradient=scaled)

    return guided


def classifier_free(
    denoise: Callable[[jax.Array], Denoise],
    labels: jax.Array,
    null: jax.Array | int,
    scale: jax.Array | float,
    interval: Interval | None = None,
) -> Denoise:
    """Guidance without a classifier: eps = eps(null) + scale (eps(label) - eps(null)).

    x_0 is mixed alike; a learned variance is that of the label. The network sees each picture
    twice, in one call on a batch of 2B. Clip the result, not what goes in.

    Args:
        denoise: From labels, int [B], to a denoiser of a batch of them.
        labels: Classes wanted, int [B].
        null: The label that stands for no class.
        scale: 1 for the network's own conditional prediction, more to insist, 0 for none; one
            for all pictures, or one each, [B].
        interval: Least and largest time at which to guide, the prediction is the conditional one
            at others; at all times, unless told.

    Source: Ho & Salimans 2022 (arXiv:2207.12598), equation 6, with scale = 1 + w.
    """

    def guided(x, point):
        inside = _inside(point.t, interval)

        def conditional(x):
            return denoise(labels)(x, point)

        def mixed(x):
            # A picture's two halves lie side by side, so that a batch split over devices stays so.
            pair = jnp.stack([labels, jnp.full_like(labels, null)], axis=1).reshape(-1)
            both = denoise(pair)(_twice(x), jax.tree.map(_twice, point))
            with_label, without = (jax.tree.map(lambda a, k=k: a[k::2], both) for k in (0, 1))

            def mix(a, b):
                return jnp.where(_over(inside, x), b + _over(scale, x) * (a - b), a)

            x_0, eps = mix(with_label.x_0, without.x_0), mix(with_label.eps, without.eps)
            return Prediction(x_0, eps, with_label.place)

        if _for_all(inside, interval):
            return jax.lax.cond(inside, mixed, conditional, x)
        return mixed(x)

    return guided


def _for_all(inside: jax.Array, interval: Interval | None) -> bool:
    """Whether guidance may be left out of a call, for the whole batch at once."""
    return interval is not None and not inside.ndim


def _inside(t: jax.Array, interval: Interval | None) -> jax.Array:
    low, high = (-jnp.inf, jnp.inf) if interval is None else interval
    return jnp.asarray((t >= low) & (t <= high))


def _over(value: jax.Array | float, x: jax.Array) -> jax.Array:
    """One for all pictures as it is; one per picture, [B], made to broadcast against x."""
    value = jnp.asarray(value)
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value


def _twice(value: jax.Array) -> jax.Array:
    return jnp.repeat(value, 2, axis=0) if jnp.ndim(value) else value
