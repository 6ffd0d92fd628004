"""Guidance by the gradient of a classifier of noisy samples."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from skipjax.conditioners import Condition
from skipjax.denoisers import Denoise, Point, Prediction
from skipjax.guidance.interval import Interval, for_all, inside_of, over
from skipjax.pretrained import Classifier

LogProb = Callable[[jax.Array, jax.Array], jax.Array]  # (x [B, ...], t [B]) -> log p(y | x) [B]
# Key of a condition that the network is never told: the class that a classifier guides towards,
# where its numbers are not those of "label".
CLASS = "class"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ByClassifier:
    """Guidance by the gradient of a classifier of noisy samples: `classifier`.

    Attributes:
        classifier: What guides, towards the condition's "class", or its "label" where that is
            missing.
        scale: 1 for Bayes' rule, more to insist; one for all, or [B].
        interval: Least and largest time at which to guide; default: at all times.
        remat: Whether its layers are computed again for the gradient, to save memory. Static.
    """

    classifier: Classifier
    scale: Any = 1.0
    interval: Interval | None = None
    remat: bool = field(default=False, metadata={"static": True})

    def log_prob(self, condition: Condition | None, dtype: DTypeLike = jnp.float32) -> LogProb:
        """log p(y | x) of the classifier, for the classes y [B] of a condition.

        Raises:
            ValueError: If the condition has none.
        """
        classifier = self.classifier
        labels = None if condition is None else condition.get(CLASS, condition.get("label"))
        if labels is None:
            raise ValueError("a classifier guides towards labels: give one for each sample")
        labels = jnp.asarray(labels)
        tell = classifier.process.precondition

        def log_prob(x: jax.Array, t: jax.Array) -> jax.Array:
            point = Point(t, jnp.ones(()), jnp.ones(()))  # classifiers are told t alone
            logits = classifier.network.apply(
                classifier.params,
                x,
                tell.c_noise(point),
                dtype=jnp.dtype(dtype),
                remat=self.remat,
            )
            return jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]

        return log_prob


def classifier(
    denoise: Denoise, log_prob: LogProb, scale: jax.Array | float, interval: Interval | None = None
) -> Denoise:
    """Guidance by a classifier of noisy pictures: gradient = scale d log p(y | x) / dx.

    The gradient stands beside the prediction, added to that of what guides already. A plan adds it
    to the mean of a step, times the step's variance, where it draws from a posterior (DDPM,
    skipped-step), and takes it from eps elsewhere (DDIM and every other solver):
    `skipjax.denoisers.steered`.

    Args:
        denoise: What to guide; clip it before, as ADM does: what guidance adds is not clipped.
        log_prob: log p(y | x) of noisy pictures x [B, ...] at times t [B], float [B].
        scale: 1 for the posterior by Bayes' rule, more to insist, 0 for no guidance; one for all
            pictures, or one each, [B].
        interval: Least and largest time at which to guide; default: at all times.

    Source: Dhariwal & Nichol 2021 (arXiv:2105.05233), algorithms 1 and 2.
    """

    def guided(x: jax.Array, point: Point) -> Prediction:
        def gradient(x: jax.Array) -> jax.Array:
            t = jnp.broadcast_to(point.t, x.shape[:1])
            return jax.grad(lambda x: log_prob(x, t).sum())(x)

        inside = inside_of(point.t, interval)
        if for_all(inside, interval):
            found = jax.lax.cond(inside, gradient, jnp.zeros_like, x)
        else:
            found = gradient(x)
        scaled = jnp.where(over(inside, x), over(scale, x) * found, 0)
        prediction = denoise(x, point)
        others = prediction.gradient
        return prediction._replace(gradient=scaled if others is None else others + scaled)

    return guided
