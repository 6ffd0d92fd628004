"""How far two sets of pictures lie apart, with the pixels themselves as features.

Distances are taken in float64 on the host, since what is measured is a small difference of large
sums; and block by block, since 10,000 pictures have too many pairs to keep.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from skipjax.checks import whole
from skipjax.evaluation.arrays import pictures


class Spread(NamedTuple):
    """What a number comes to over repetitions."""

    mean: float
    standard_deviation: float


class Nearest(NamedTuple):
    """For each picture, the nearest of another set.

    Attributes:
        distance: Root-mean-square difference of the pixels, float64 [N].
        match: Which one of the other set it is, int [N].
    """

    distance: np.ndarray
    match: np.ndarray


def energy_distance(a: ArrayLike, b: ArrayLike, *, block: int = 1024) -> float:
    """How far apart the laws are that two sets of pictures were drawn from:

        2 E|A - B| - E|A - A'| - E|B - B'|,   |.| the Euclidean norm over all pixels

    It is 0 for equal laws and positive for others. This is its U-statistic, in which no picture
    is compared with itself: its expectation is the true value, and so 0 for equal laws, where it
    falls below 0 about as often as above. Pictures of `a` that are copies from `b` pull it down
    further, without being better; `nearest` shows them. Source: Szekely & Rizzo 2013, "Energy
    statistics: A class of statistics based on distances".

    Args:
        a: Pictures, float [N, H, W, C], N >= 2.
        b: Pictures of the same shape, float [M, H, W, C], M >= 2.
        block: Pictures held in float64 at a time, twice; no part of the result.

    Raises:
        ValueError: If the shapes differ, or there are fewer than 2 pictures.
    """
    a, b = pictures(a, "a", 2), pictures(b, "b", 2)
    _alike(a, b)
    in_a = np.arange(len(a) + len(b)) < len(a)
    return float(_energies(np.concatenate([a, b]), in_a[None], block)[0])


def energy_floor(
    images: ArrayLike, seed: int = 0, *, splits: int = 10, block: int = 1024
) -> Spread:
    """The energy distance between two random halves of the same pictures.

    Over all splits its mean is exactly 0, by the U-statistic; the standard deviation is what two
    sets of N / 2 pictures of one law differ by, below which an energy distance says nothing. It
    falls as 1 / N. All splits share one pass over the pairs, so many cost little more than one.

    Args:
        images: Pictures, float [N, H, W, C], N >= 4.
        seed: What the splits follow from.
        splits: Number of random splits, at least 2.
        block: Pictures held in float64 at a time, twice; no part of the result.

    Raises:
        ValueError: If there are fewer than 4 pictures, or fewer than 2 splits.
    """
    images = pictures(images, "images", 4)
    halves = np.tile(np.arange(len(images)) < len(images) // 2, (whole("splits", splits, 2), 1))
    halves = np.random.default_rng(seed).permuted(halves, axis=1)
    energies = _energies(images, halves, block)
    return Spread(float(energies.mean()), float(energies.std(ddof=1)))


def nearest(a: ArrayLike, b: ArrayLike, *, block: int = 1024) -> Nearest:
    """For each picture of `a`, the nearest in `b`, by sqrt(mean over pixels of (a - b)^2).

    Shows copying: samples that come nearer to the training pictures than held-out pictures do
    were remembered. Where several are equally near, which one is found is left open.

    Args:
        a: Pictures, float [N, H, W, C], N >= 1.
        b: Pictures of the same shape, float [M, H, W, C], M >= 1.
        block: Pictures of each set held in float64 at a time; no part of the distances.

    Raises:
        ValueError: If the shapes differ, or a set is empty.
    """
    a, b = pictures(a, "a", 1), pictures(b, "b", 1)
    _alike(a, b)
    distance, index = np.empty(len(a)), np.empty(len(a), np.intp)
    for rows, x in _blocks(a, block):
        least, found = np.full(len(x), np.inf), np.zeros(len(x), np.intp)
        for columns, y in _blocks(b, block):
            d = distances(x, y)
            best = d.argmin(axis=1)
            d = d[np.arange(len(x)), best]
            found = np.where(d < least, columns.start + best, found)
            least = np.minimum(d, least)
        index[rows] = found
        # Taken again without the expanded square, whose rounding would hide that copies are exact.
        difference = x - b[found].reshape(len(x), -1)
        distance[rows] = np.sqrt(np.square(difference).mean(axis=1))
    return Nearest(distance, index)


def _energies(pool: np.ndarray, in_a: np.ndarray, block: int) -> np.ndarray:
    """Energy distances between two parts of a pool of N pictures, for S ways to part it.

    With s the indicator of a part, the sum of distances within or between parts is s^T D s'; D is
    symmetric and its diagonal 0, so the blocks on and above the diagonal suffice.

    Args:
        pool: [N, ...].
        in_a: Whether a picture is in the first part, bool [S, N].
        block: Rows of a block of D.

    Returns:
        float64 [S].
    """
    a, b = in_a.astype(np.float64), (~in_a).astype(np.float64)
    within_a, within_b, between = np.zeros((3, len(in_a)))
    for rows, x in _blocks(pool, block):
        for columns, y in _blocks(pool, block, rows.start):
            d = distances(x, y)
            weight = 2
            if columns == rows:
                np.fill_diagonal(d, 0)
                weight = 1
            to_a, to_b = a[:, rows] @ d, b[:, rows] @ d
            within_a += weight * (to_a * a[:, columns]).sum(axis=1)
            within_b += weight * (to_b * b[:, columns]).sum(axis=1)
            between += weight * (to_a * b[:, columns] + to_b * a[:, columns]).sum(axis=1)
    n, m = a.sum(axis=1), b.sum(axis=1)
    # `between` holds every pair in both orders, which is the 2 of the definition.
    return between / (n * m) - within_a / (n * (n - 1)) - within_b / (m * (m - 1))


def _blocks(images: np.ndarray, block: int, start: int = 0) -> Iterator[tuple[slice, np.ndarray]]:
    """Flattened pictures, float64 [at most block, D], with where they stand."""
    block = whole("block", block, 1)
    for first in range(start, len(images), block):
        where = slice(first, min(first + block, len(images)))
        yield where, images[where].reshape(where.stop - first, -1).astype(np.float64)


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x_i - y_j|, [N, M], of x [N, D] and y [M, D], by |x|^2 + |y|^2 - 2 x.y."""
    square = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1)[None, :] - 2 * (x @ y.T)
    return np.sqrt(np.maximum(square, 0))


def _alike(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"a holds pictures of shape {a.shape[1:]} and b of {b.shape[1:]}: expected the same"
        )
