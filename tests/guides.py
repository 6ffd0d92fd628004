"""A made-up network with labels and a made-up classifier, to guide it by."""

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.denoisers import Prediction

B, SHAPE = 3, (2, 2, 2)
SCALE = 1.7


def pictures(seed, num=B):
    return np.random.default_rng(seed).normal(size=(num, *SHAPE))


def log_prob(x, t):
    """Of gradient -(1 + t / 1000) sin(x)."""
    return ((1 + t / 1000) * jnp.cos(x).sum((1, 2, 3))).astype(x.dtype)


def slope(x, t):
    return -(1 + t / 1000) * np.sin(x)


def keys(num=B):
    return jax.random.split(jax.random.key(0), num)


def by_label(labels):
    """A network whose eps depends on label and time, and what it says of the variance too."""

    def denoise(x, point):
        label = labels.reshape(-1, 1, 1, 1).astype(x.dtype)
        t = jnp.reshape(point.t, (-1, 1, 1, 1))
        eps = 0.5 * x + jnp.sin(label + t / 300)
        return Prediction((x - point.sigma * eps) / point.alpha, eps, jnp.tanh(x + label))

    return denoise
