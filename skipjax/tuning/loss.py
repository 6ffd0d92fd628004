"""What a plan should make small: the distance of single pictures, or that of two laws."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from skipjax import evaluation
from skipjax.evaluation.distances import distances

BLOCK = 1024  # pictures whose distances to all others are held at a time


class Loss(NamedTuple):
    """How far features of M pictures, [M, V], lie from a target of as many.

    Attributes:
        name: What it is called.
        error: (features, target) -> what is made small; infinite where anything is not finite.
        gradient: (features, target) -> direction by which the features would make it less, and
            the weight w of the metric w |d features|^2 in which it is to be measured.
        compare: (ours, theirs, target) -> by how much ours is more than theirs, and the standard
            error of that, over other pictures of the same law.
    """

    name: str
    error: Callable[[np.ndarray, np.ndarray], float]
    gradient: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float]]
    compare: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[float, float]]


def squares(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Mean square of each picture's difference to its own target, float64 [M]."""
    off = features.astype(np.float64) - target.reshape(features.shape)
    return np.square(off).mean(axis=1)


def rmse(features: np.ndarray, target: np.ndarray) -> float:
    """Root of the mean square, infinite where it is not finite."""
    with np.errstate(all="ignore"):
        return float(np.sqrt(np.nan_to_num(squares(features, target).mean(), nan=np.inf)))


def _half_square(features: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    off = features.astype(np.float64) - target.reshape(features.shape)
    return off / off.size, 1 / off.size


def _compare_squares(
    ours: np.ndarray, theirs: np.ndarray, target: np.ndarray
) -> tuple[float, float]:
    gain = squares(ours, target) - squares(theirs, target)
    return float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))


# Root mean square of the distance between a picture and its own target.
path = Loss("path", rmse, _half_square, _compare_squares)


def _energy(features: np.ndarray, target: np.ndarray) -> float:
    """Energy distance of two sets, infinite where a number is not finite."""
    if not np.isfinite(features).all():
        return float("inf")
    return evaluation.energy_distance(features, target.reshape(len(target), -1))


def _pulled(features: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """Gradient of the energy distance by its first set.

    Its second derivative along the lines between pictures is 0, and across them about the inverse
    of their distance, which sets the metric.
    """
    target = target.reshape(len(target), -1)
    towards, typical = _directions(features, target)
    away, _ = _directions(features, features)
    num = len(features)
    return 2 / num * (towards - num / (num - 1) * away), 2 / (num * typical)


def _compare_energies(
    ours: np.ndarray, theirs: np.ndarray, target: np.ndarray
) -> tuple[float, float]:
    """By Hoeffding's projections: what the statistic owes to each picture of either set."""
    target = target.reshape(len(target), -1)
    energies, owed = [], []
    for some in (ours, theirs):
        apart, back = _mean_distances(some, target)
        within = _mean_distances(some, some)[0] * len(some) / (len(some) - 1)
        energies.append(2 * apart.mean() - within.mean())  # but for the targets' own distances
        owed.append((2 * (apart - within), 2 * back))
    (ours_a, ours_b), (theirs_a, theirs_b) = owed
    by_a, by_b = ours_a - theirs_a, ours_b - theirs_b
    variance = by_a.var(ddof=1) / len(by_a) + by_b.var(ddof=1) / len(by_b)
    return float(energies[0] - energies[1]), float(np.sqrt(variance))


# Energy distance of the law of the pictures to that of the targets, whichever is whose.
energy = Loss("energy", _energy, _pulled, _compare_energies)
LOSSES = {loss.name: loss for loss in (path, energy)}


def _mean_distances(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean distance of each of a to all of b, and of each of b to all of a, float64."""
    same = a is b
    a, b = a.astype(np.float64), b.astype(np.float64)
    to_b, to_a = np.empty(len(a)), np.zeros(len(b))
    for at in range(0, len(a), BLOCK):
        apart = distances(a[at : at + BLOCK], b)
        if same:  # rounding must not part a picture from itself
            np.fill_diagonal(apart[:, at:], 0)
        to_b[at : at + BLOCK] = apart.mean(axis=1)
        to_a += apart.sum(axis=0) / len(a)
    return to_b, to_a


def _directions(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean unit vector from all of b to each of a, and the mean distance."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    found, total = [], 0.0
    for at in range(0, len(a), BLOCK):
        block = a[at : at + BLOCK]
        apart = distances(block, b)
        total += apart.sum()
        # A picture and itself, or its copy: no direction.
        inverse = np.where(apart > 1e-9 * apart.max(), 1 / np.maximum(apart, 1e-300), 0)
        found.append((block * inverse.sum(axis=1)[:, None] - inverse @ b) / len(b))
    return np.concatenate(found), total / (len(a) * len(b))
