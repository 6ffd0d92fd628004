"""How far samples lie from an exact target, and how far exact samples would.

Every distance between finite sets is above 0 even for equal laws. `floor` says by how much, and
`estimate` how well a number is known from independent repetitions.
"""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from skipjax.checks import whole
from skipjax.evaluation.arrays import pictures
from skipjax.evaluation.denoising import Estimate
from skipjax.evaluation.exact.mixture import Mixture
from skipjax.evaluation.exact.targets import Target


def path_rmse(x: ArrayLike, reference: ArrayLike) -> float:
    """The root mean square, over points and values, of x - reference.

    With `exact.reference` from the same starting noise this is a solver's global error.

    Args:
        x: Samples, float [B, ...].
        reference: Where the flow takes their starting noise, of the same shape.

    Raises:
        ValueError: If the shapes differ, or a number is not finite.
    """
    x, reference = pictures(x, "x", 1), pictures(reference, "reference", 1)
    if x.shape != reference.shape:
        raise ValueError(
            f"x has shape {x.shape} and reference {reference.shape}: expected the same points"
        )
    return float(np.sqrt(np.square(x.astype(np.float64) - reference).mean()))


def sliced_w2(a: ArrayLike, b: ArrayLike, *, projections: int = 256, seed: int = 0) -> float:
    """The sliced Wasserstein distance between two sets of points,

        sqrt(mean over directions u of W_2^2(u . a, u . b)),   |u| = 1

    where W_2 on the line couples quantiles, exactly, also for sets of unequal size. Two sets that
    differ by a shift c are |c| / sqrt(D) apart on average over all directions. Source: Bonneel et
    al. 2015, "Sliced and Radon Wasserstein barycenters of measures".

    Args:
        a: Points, float [N, ...], of D values each.
        b: Points, float [M, ...], of as many.
        projections: Number of random directions.
        seed: What they follow from. Numbers that are to be compared need the same.

    Raises:
        ValueError: If the shapes differ, a set is empty, or a number is not finite.
    """
    a, b = pictures(a, "a", 1), pictures(b, "b", 1)
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"a holds points of shape {a.shape[1:]} and b of {b.shape[1:]}: expected the same"
        )
    a, b = (points.reshape(len(points), -1).astype(np.float64) for points in (a, b))
    towards = np.random.default_rng(seed).normal(
        size=(whole("projections", projections, 1), a.shape[1])
    )
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    along_a, along_b = np.sort(towards @ a.T, axis=1), np.sort(towards @ b.T, axis=1)
    # Both quantile functions are constant between cuts, here counted in units of 1 / (N M).
    n, m = len(a), len(b)
    cuts = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    weights = np.diff(cuts, prepend=0) / (n * m)
    apart = along_a[:, (cuts - 1) // m] - along_b[:, (cuts - 1) // n]
    return float(np.sqrt((np.square(apart) @ weights).mean()))


def mode_error(target: Mixture, x: ArrayLike) -> float:
    """The total variation between a mixture's weights and the share that each mode has in x:

        1/2 sum_k |mean over x of r_k(x) - weights_k|,   in 0 .. 1

    with the probabilities r_k of `Mixture.responsibilities`, whose mean is weights_k under the
    target itself, however much its modes overlap.

    Args:
        target: The mixture.
        x: Samples, float [N, ...].

    Raises:
        ValueError: If x is empty, a number is not finite, or points do not fit the target.
    """
    x = pictures(x, "x", 1)
    shares = np.asarray(target.responsibilities(jnp.asarray(x)), np.float64).mean(axis=0)
    return float(np.abs(shares - target.weights).sum() / 2)


def estimate(values: Iterable[float]) -> Estimate:
    """The mean of a number over independent repetitions, and its standard error.

    Raises:
        ValueError: If there are fewer than 2 repetitions.
    """
    values = np.asarray(list(values), np.float64)
    if len(values) < 2:
        raise ValueError(f"got {len(values)} repetitions: a standard error needs at least 2")
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def floor(
    metric: Callable[[jax.Array, jax.Array], float],
    target: Target,
    key: jax.Array,
    num: int,
    *,
    repetitions: int = 5,
) -> tuple[float, ...]:
    """What a metric says of two independent exact sets: nothing below it is a difference.

    Args:
        metric: Of two sets of points, [num, D] each.
        target: What both are drawn from.
        key: Randomness of the sets; metrics with the same key see the same sets.
        num: Size of each set, at least 1.
        repetitions: Number of pairs of sets, at least 1.

    Returns:
        The metric of each pair; `estimate` sums them up.

    Raises:
        ValueError: If `num` or `repetitions` is not a whole number of at least 1.
    """
    num = whole("num", num, 1)
    pairs = jax.random.split(key, (whole("repetitions", repetitions, 1), 2))
    return tuple(metric(target.draw(a, num), target.draw(b, num)) for a, b in pairs)
