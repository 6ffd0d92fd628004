"""Distances of features against other ways to compute them."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from skipjax.evaluation.features import frechet_distance, precision_recall


@pytest.fixture
def sets():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 5)), 0.3 + rng.normal(size=(40, 5)) @ rng.normal(size=(5, 5))


def test_frechet_distance_by_scipys_root(sets):
    a, b = sets
    s_a, s_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(s_a @ s_b)
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s_a + s_b - 2 * root.real)
    np.testing.assert_allclose(frechet_distance(*sets), expected, rtol=1e-9)


def test_frechet_distance_of_one_set_and_of_fewer_vectors_than_features(sets):
    a, _ = sets
    assert abs(frechet_distance(a, a)) < 1e-9
    # Eigenvalues that are 0 come out as 1e-17, of which the root is taken.
    assert abs(frechet_distance(a[:3], a[:3])) < 1e-7
    np.testing.assert_allclose(frechet_distance(a, a + 2), 20, rtol=1e-9)


def test_precision_and_recall_by_their_definition(sets):
    real, drawn = sets

    def within(x, of, k=3):
        """Whether x is nearer to one of a set than that one's k-th nearest is."""
        for i, centre in enumerate(of):
            others = np.sort(np.linalg.norm(np.delete(of, i, 0) - centre, axis=1))
            if np.linalg.norm(x - centre) <= others[k - 1]:
                return True
        return False

    found = precision_recall(real, drawn)
    assert found.precision == np.mean([within(x, real) for x in drawn])
    assert found.recall == np.mean([within(x, drawn) for x in real])
    assert 0 < found.precision < 1 and 0 < found.recall < 1
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 100) == (0, 0)


def test_bad_sets(sets):
    a, b = sets
    with pytest.raises(ValueError, match="5 and 4 features"):
        frechet_distance(a, b[:, :4])
    with pytest.raises(ValueError, match="at least 4"):
        precision_recall(a[:3], b)
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(a, b * np.nan)
