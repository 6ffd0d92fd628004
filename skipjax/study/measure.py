"""What is measured of a network and its samples."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from skipjax import evaluation
from skipjax.denoisers import Point, unchanged
from skipjax.evaluation import features as distances
from skipjax.generation import denoiser
from skipjax.pretrained import Pretrained
from skipjax.study import design
from skipjax.study.design import Study, Unit
from skipjax.study.draw import draw
from skipjax.training import classify, losses
from skipjax.training.pictures import Pictures

SHOWN = 8  # pictures kept of each cell
DRAWS = 20  # noisy versions of each held-out picture


def cells(
    study: Study, unit: Unit, params: Pretrained, classifier: Any, seen: Pictures
) -> tuple[list[dict], dict[str, np.ndarray]]:
    """A row of figures for each way to sample and number of calls, and some pictures.

    Args:
        study: Its sizes.
        unit: Which network this is.
        params: The network.
        classifier: Params of the study's classifier.
        seen: The training pictures, which samples are compared with.
    """
    assert seen.labels is not None
    real = classify.features(study.classifier, classifier, np.asarray(seen.images))
    rows, shown = [], {}
    with ThreadPoolExecutor() as pool:
        for nfe in study.nfe:
            found = design.variants(study, unit, nfe)
            plans = [design.plan(params.schedule, variant, nfe) for variant in found]
            # The same labels and noise for all: what differs is the sampler.
            labels = np.random.default_rng(unit.seed).choice(seen.labels, study.drawn(nfe))
            key = jax.random.fold_in(jax.random.key(1), unit.seed)
            scales = [variant.scale for variant in found]
            drawn = draw(params, plans, scales, key, labels, study.run.dtype)
            described = []
            for variant, pictures in zip(found, drawn, strict=True):
                vectors = classify.features(study.classifier, classifier, pictures)
                described.append(pool.submit(_compared, real, vectors))
                if variant.scaling == "none":
                    name = f"{variant.sampler}_{variant.cutoff}_{nfe}"
                    shown[name] = pictures[:SHOWN].astype(np.float16)
            for variant, row in zip(found, described, strict=True):
                about = {k: v for k, v in variant._asdict().items() if k != "scale"}
                rows.append(about | {"nfe": nfe, "pictures": len(labels)} | row.result())
    return rows, shown


def floor(study: Study, classifier: Any, seen: Pictures, held: Pictures) -> dict[str, Any]:
    """The figures of held-out pictures, and of as many training pictures as a cell has samples.

    At most half of the training pictures: they are compared with the others.
    """
    real, unseen = (
        classify.features(study.classifier, classifier, np.asarray(part.images))
        for part in (seen, held)
    )
    some = np.random.default_rng(0).permutation(len(real))[: min(study.pictures, len(real) // 2)]
    rest = np.delete(real, some, axis=0)
    return {
        "held_out": {"pictures": len(unseen)} | _compared(real, unseen),
        "training_halves": {"pictures": len(some)} | _compared(rest, real[some]),
    }


def likelihood(study: Study, params: Pretrained, held: Pictures) -> dict[str, float]:
    """Error of eps and variational bound of held-out pictures.

    The bound is of all of the chain, in bits per dimension, with the posterior's variance
    ("small") and that of the forward process ("large"): the noise of these networks is fixed.
    """
    images, labels = np.asarray(held.images).astype(np.float32) / 127.5 - 1, held.labels
    chain, T = losses.chain(params.schedule), params.schedule.T
    error = evaluation.eps_mse(
        Partial(_eps, params), params.schedule, images, labels, jax.random.key(2), draws=DRAWS
    )
    terms = np.concatenate(
        [np.asarray(_terms(params, chain, part, images, labels))[None] for part in range(DRAWS)]
    )
    # KL(q(x_{T-1} | x_0) || N(0, I)), of the noise that sampling starts from.
    alpha, sigma = params.schedule.alpha[-1], params.schedule.sigma[-1]
    prior = 0.5 * (sigma**2 - 1 - 2 * np.log(sigma) + alpha**2 * np.mean(images**2))
    small, large = terms.mean(axis=(0, 1)) * T + prior / np.log(2)
    return {
        "eps_mse": error.mean,
        "eps_mse_standard_error": error.standard_error,
        "bits_small": float(small),
        "bits_large": float(large),
    }


def _compared(real: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    precision, recall = distances.precision_recall(real, drawn)
    found = {
        "energy": evaluation.energy_distance(drawn, real),
        "frechet": distances.frechet_distance(drawn, real),
        "precision": precision,
        "recall": recall,
    }
    return {name: float(f"{value:.5g}") for name, value in found.items()}


def _eps(params: Pretrained, x: jax.Array, t: jax.Array, y: jax.Array) -> jax.Array:
    return _predict(params, x, t.astype(jnp.int32), y).eps


def _predict(params: Pretrained, x: jax.Array, t: jax.Array, y: jax.Array) -> Any:
    levels = (jnp.asarray(table, jnp.float32)[t] for table in params.schedule)
    at = (level[:, None, None, None] for level in levels)
    return denoiser(params, {"label": y}, transform=unchanged)(
        x, Point(t.astype(jnp.float32), *at)
    )


@jax.jit
def _terms(
    params: Pretrained, chain: losses.Chain, part: Any, x_0: jax.Array, y: jax.Array
) -> jax.Array:
    """A term of the bound for each picture, at a time of its own: [N, 2], small and large."""
    time, noise = jax.random.split(jax.random.fold_in(jax.random.key(3), part))
    num, T = len(x_0), params.schedule.T
    t = (jnp.arange(num) + jax.random.uniform(time, (num,))) / num * T
    t = jax.random.permutation(time, jnp.minimum(t.astype(jnp.int32), T - 1))
    x_t = losses.diffuse(chain, x_0, t, jax.random.normal(noise, x_0.shape))
    x_0_theta = jnp.clip(_predict(params, x_t, t, y).x_0, -1, 1)
    bounds = (
        losses.variational_bound(chain, x_0_theta, jnp.full_like(x_0, place), x_0, x_t, t)
        for place in (-1.0, 1.0)
    )
    return jnp.stack(list(bounds), axis=1)
