"""A small classifier of clean pictures, whose features samples are compared by."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from skipjax.models import ClassifierConfig
from skipjax.training.augment import look
from skipjax.training.batches import Batches, iterate
from skipjax.training.optimiser import learning_rate, optimiser
from skipjax.training.pictures import Pictures

BATCH, RATE, WARMUP = 128, 1e-3, 100


class Trained(NamedTuple):
    """Params of a classifier, and how many of held-out pictures it names rightly."""

    params: Any
    accuracy: float


def train(
    config: ClassifierConfig,
    pictures: Pictures,
    held: Pictures,
    steps: int,
    *,
    shift: int,
    flip: bool,
) -> Trained:
    """Trains a classifier; always the same one, for the same arguments.

    Args:
        config: Its architecture.
        pictures: To learn from.
        held: To measure it on.
        steps: How many, of 128 pictures each.
        shift: Largest shift of a picture, in pixels.
        flip: Whether pictures are mirrored.
    """
    tx = optimiser(learning_rate(RATE, steps, WARMUP, 0.5), weight_decay=1e-2)
    key = jax.random.key(0)
    params = jax.jit(config.init)(key)

    def loss(params, key, images, labels):
        x = look(key, _float(images), shift, flip)
        logits = config.apply(params, x, jnp.zeros(len(x)))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, key, images, labels):
        updates, state = tx.update(jax.grad(loss)(params, key, images, labels), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for i, batch in enumerate(iterate(Batches(pictures, BATCH, 0, steps), 0)):
        images, condition = batch
        labels = None if condition is None else condition["label"]
        params, state = step(params, state, jax.random.fold_in(key, i), images, labels)
    named = np.argmax(_by_blocks(_logits, config, params, np.asarray(held.images)), axis=1)
    return Trained(params, float(np.mean(named == held.labels)))


def features(config: ClassifierConfig, params: Any, images: np.ndarray) -> np.ndarray:
    """What the last layer of a classifier sees: means over pixels, float32 [N, channels].

    Args:
        config: Its architecture, with the pool "adaptive".
        params: Its weights.
        images: uint8, or float in [-1, 1], [N, H, W, C].
    """
    return _by_blocks(_features, config, params, images)


@partial(jax.jit, static_argnums=0)
def _logits(config: ClassifierConfig, params: Any, x: jax.Array) -> jax.Array:
    return config.apply(params, x, jnp.zeros(len(x)))


@partial(jax.jit, static_argnums=0)
def _features(config: ClassifierConfig, params: Any, x: jax.Array) -> jax.Array:
    _, seen = config.module().apply(
        {"params": params},
        x,
        jnp.zeros(len(x)),
        capture_intermediates=lambda module, _: module.name == "out_0",
        mutable=["intermediates"],
    )
    normed = seen["intermediates"]["out_0"]["__call__"][0]
    return jax.nn.silu(normed).mean(axis=(1, 2))


def _by_blocks(
    function: Any, config: ClassifierConfig, params: Any, images: np.ndarray, block: int = 512
) -> np.ndarray:
    """A function of pictures, by blocks of one size, so that one program serves all."""
    found = []
    for first in range(0, len(images), block):
        index = np.minimum(np.arange(first, first + block), len(images) - 1)
        said = function(config, params, _float(images[index]))
        found.append(np.asarray(said)[: len(images) - first])
    return np.concatenate(found)


def _float(images: Any) -> jax.Array:
    images = jnp.asarray(images)
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 127.5 - 1
    return images
