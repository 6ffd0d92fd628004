"""How far two sets of feature vectors lie apart, such as those of a classifier.

Only vectors of one network can be compared; the distances of another network's are others.
"""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from skipjax.checks import whole
from skipjax.evaluation.arrays import pictures


class PrecisionRecall(NamedTuple):
    """Parts of two sets, in 0 .. 1: of `precision` samples, and of `recall` what is sampled."""

    precision: float
    recall: float


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """The Frechet distance of two Gaussians with the mean and covariance of two sets:

        |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))

    With features of the Inception network that others agree on it is FID; of any other it is not,
    and not comparable with it. It is biased upwards, the more the fewer vectors there are: compare
    sets of one size. Source: Heusel et al. 2017 (arXiv:1706.08500), equation 6.

    Args:
        a: Float [N, D], N >= 2.
        b: Float [M, D], M >= 2.

    Raises:
        ValueError: If D differs, or there are fewer than 2 vectors.
    """
    a, b = _vectors(a, b, 2)
    s_a, s_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    # tr (S_a S_b)^(1/2) is the sum of square roots of the eigenvalues of R S_b R, R^2 = S_a, which
    # is symmetric.
    values, vectors = np.linalg.eigh(s_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    mixed = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ s_b @ root), 0)).sum()
    apart = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(apart + np.trace(s_a) + np.trace(s_b) - 2 * mixed)


def precision_recall(real: ArrayLike, drawn: ArrayLike, k: int = 3) -> PrecisionRecall:
    """How many samples lie where the data does, and how much of the data is sampled.

    A vector lies where a set does if it is nearer to one of the set than that one's k-th nearest
    within the set is. Source: Kynkaanniemi et al. 2019 (arXiv:1904.06991), equations 1 and 2.

    Args:
        real: The data, float [N, D], N > k.
        drawn: Samples, float [M, D], M > k. Both numbers grow with N and M: compare equal ones.
        k: Which neighbour, at least 1.

    Raises:
        ValueError: If D differs, or there are not more than k vectors.
    """
    k = whole("k", k, 1)
    real, drawn = _vectors(real, drawn, k + 1)
    between = _squares(real, drawn)
    return PrecisionRecall(
        float((between <= _reach(real, k)[:, None]).any(axis=0).mean()),
        float((between <= _reach(drawn, k)[None]).any(axis=1).mean()),
    )


def _reach(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance to the k-th nearest other vector, [N]."""
    within = _squares(x, x)
    np.fill_diagonal(within, -1)
    return np.partition(within, k, axis=1)[:, k]


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a_i - b_j|^2, [N, M]."""
    square = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None] - 2 * (a @ b.T)
    return np.maximum(square, 0)


def _vectors(a: ArrayLike, b: ArrayLike, least: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = pictures(a, "the first set", least), pictures(b, "the second set", least)
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"the sets have {a.shape[1]} and {b.shape[1]} features: expected as many")
    return a, b
