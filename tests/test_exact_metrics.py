"""Metrics of samples against exact laws, where their values are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import wasserstein_distance

from skipjax.evaluation import energy_distance, exact

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
RANDOM = np.random.default_rng(0)


class Mixture(exact.Mixture):
    """One program each, where there would be one for each operation."""

    draw = jax.jit(exact.Mixture.draw, static_argnums=(0, 2))
    responsibilities = jax.jit(exact.Mixture.responsibilities, static_argnums=0)


MIXTURE = Mixture([0.6, 0.3, 0.1], [[2.0, 0], [-2.0, 0], [0, 3.0]], 0.1)
ONE = exact.Gaussian([0.0], [[1.0]])
COV = np.array([[0.25, 0.1, 0.0], [0.1, 0.5, -0.2], [0.0, -0.2, 1.3]])


def test_w2_of_a_shift_is_its_length():
    a, b = exact.Gaussian(np.zeros(3), COV), exact.Gaussian([0.3, -0.4, 1.2], COV)
    assert exact.w2(a, b) == pytest.approx(1.3, abs=1e-14)
    assert exact.w2(a, a) == 0


def test_w2_of_gaussians_on_any_axes_is_the_formula():
    factor = RANDOM.normal(size=(3, 3))
    a, b = exact.Gaussian(np.zeros(3), COV), exact.Gaussian([1.0, 0, 2.0], factor @ factor.T)
    root = sqrtm(a.cov)
    cross = np.trace(sqrtm(root @ b.cov @ root).real)
    expected = np.sqrt(5 + np.trace(a.cov) + np.trace(b.cov) - 2 * cross)
    assert exact.w2(a, b) == pytest.approx(expected, rel=1e-9)
    assert exact.w2(b, a) == pytest.approx(expected, rel=1e-9)


def test_w2_on_common_axes_is_the_general_one():
    axes, _ = np.linalg.qr(RANDOM.normal(size=(6, 2)))
    a = exact.low_rank(np.zeros(6), axes, [2.0, 0.5], 0.09)
    b = exact.low_rank(np.ones(6), axes, [1.0, 0.7], 0.25)
    expected = np.sqrt(6 + (2**0.5 - 1) ** 2 + (0.5**0.5 - 0.7**0.5) ** 2 + 4 * 0.2**2)
    assert exact.w2(a, b) == pytest.approx(expected, rel=1e-12)
    general = exact.w2(exact.Gaussian(a.mean, a.cov), exact.Gaussian(b.mean, b.cov))
    assert general == pytest.approx(expected, rel=1e-9)


def test_sliced_w2_on_the_line_is_w2():
    a, shift = RANDOM.normal(size=(50, 1)), 0.7
    assert exact.sliced_w2(a, a + shift) == pytest.approx(shift, rel=1e-12)
    assert exact.sliced_w2(a, RANDOM.permutation(a)) == 0
    assert exact.sliced_w2([[0.0], [1.0]], [[0.0], [3.0]]) == pytest.approx(np.sqrt(2))


def test_sliced_w2_couples_quantiles_of_unequal_sets():
    a, b = RANDOM.normal(size=(12, 3)), RANDOM.normal(size=(7, 3))
    # Repeating every point changes no law, and makes the sets alike in size.
    alike = exact.sliced_w2(np.repeat(a, 7, axis=0), np.repeat(b, 12, axis=0))
    assert exact.sliced_w2(a, b) == pytest.approx(alike, rel=1e-12)
    # By hand: the quantiles of {0, 1} and {0, 0, 3} differ by 0, 1 and 2 on 1/2, 1/6 and 1/3.
    line = exact.sliced_w2([[0.0], [1.0]], [[0.0], [0.0], [3.0]])
    assert line == pytest.approx(np.sqrt(1 / 6 + 4 / 3), rel=1e-12)


def test_sliced_w2_is_not_below_w1_of_scipy():
    a, b = RANDOM.normal(size=(40, 1)), 2 * RANDOM.normal(size=(31, 1))
    assert exact.sliced_w2(a, b) >= wasserstein_distance(a[:, 0], b[:, 0])


def test_sliced_w2_of_a_shift_is_its_length_by_the_root_of_the_dimension():
    a = RANDOM.normal(size=(30, 2, 2, 4))
    shift = RANDOM.normal(size=(2, 2, 4))
    got = exact.sliced_w2(a, a + shift, projections=20_000)
    assert got == pytest.approx(np.linalg.norm(shift) / 4, rel=0.03)
    assert exact.sliced_w2(a, a + shift, seed=1) != exact.sliced_w2(a, a + shift, seed=2)


def test_distances_of_equal_laws_are_at_the_floor_and_of_others_above():
    target, other = MIXTURE, Mixture([0.4, 0.5, 0.1], MIXTURE.means, 0.1)
    floors = {
        metric: exact.estimate(exact.floor(metric, target, jax.random.key(0), 500, repetitions=8))
        for metric in (exact.sliced_w2, energy_distance)
    }
    a, b = (t.draw(jax.random.key(i), 500) for i, t in enumerate((target, other), 1))
    for metric, floor in floors.items():
        assert metric(a, b) > floor.mean + 6 * floor.standard_error
    # The U-statistic has expectation 0 for equal laws; a sliced distance has not.
    energy, sliced = floors[energy_distance], floors[exact.sliced_w2]
    assert abs(energy.mean) < 4 * energy.standard_error
    assert sliced.mean > 4 * sliced.standard_error


def test_the_floor_repeats_itself_for_a_key_and_for_no_other():
    def first(a, b):
        return float(a[0, 0] - b[0, 0])

    ours = exact.floor(first, MIXTURE, jax.random.key(0), 500)
    assert len(set(ours)) == 5
    assert ours == exact.floor(first, MIXTURE, jax.random.key(0), 500)
    assert not set(ours) & set(exact.floor(first, MIXTURE, jax.random.key(1), 500))


def test_mode_error_counts_what_is_missing():
    def error(*counts, shape=(90, 2)):
        x = np.repeat(MIXTURE.means, counts, axis=0)
        return exact.mode_error(MIXTURE, x.astype(np.float32).reshape(shape))

    assert error(54, 27, 9) == pytest.approx(0, abs=1e-7)
    assert error(60, 30, 0) == pytest.approx(0.1, abs=1e-7)
    assert error(0, 0, 90, shape=(90, 2, 1)) == pytest.approx(0.9, abs=1e-7)


def test_mode_error_of_modes_that_overlap_has_no_bias(float64):
    target = Mixture([0.8, 0.2], [[0.0], [1.0]], 1.0)
    x = target.draw(jax.random.key(0), 200_000)
    assert exact.mode_error(target, x) < 0.004
    # Who counts the likelier mode instead is far off.
    likelier = np.asarray(target.responsibilities(x)).argmax(axis=1)
    assert abs(likelier.mean() - 0.2) > 0.1


def test_path_rmse_is_over_points_and_values():
    x = RANDOM.normal(size=(4, 3))
    off = np.zeros((4, 3))
    off[1] = 3.0
    assert exact.path_rmse(x + off, x) == pytest.approx(1.5, rel=1e-12)
    assert exact.path_rmse(jnp.asarray(x), jnp.asarray(x)) == 0


def test_estimate_has_the_standard_error_of_the_mean():
    got = exact.estimate([1.0, 2.0, 4.0, 5.0])
    assert got.mean == 3
    assert got.standard_error == pytest.approx(np.sqrt(10 / 3 / 4))
    rows = RANDOM.normal(size=(2000, 5))
    errors = [exact.estimate(row).standard_error ** 2 for row in rows]
    assert np.mean(errors) == pytest.approx(1 / 5, rel=0.1)


REFUSED = [
    (lambda x: exact.path_rmse(x, x[:2]), "expected the same points"),
    (lambda x: exact.path_rmse(x / 0, x), "not finite"),
    (lambda x: exact.sliced_w2(x, x[:, :1]), r"points of shape \(2,\) and b of \(1,\)"),
    (lambda x: exact.sliced_w2(x[:0], x), "a holds 0"),
    (lambda x: exact.sliced_w2(x, x, projections=0), "projections is 0"),
    (lambda x: exact.mode_error(MIXTURE, x[:, :1]), "dimension 2"),
    (lambda x: exact.mode_error(MIXTURE, x[:0]), "x holds 0"),
    (lambda x: exact.estimate([1.0]), "got 1 repetitions"),
    (lambda x: exact.floor(max, MIXTURE, jax.random.key(0), 0), "num is 0"),
    (lambda x: exact.floor(max, MIXTURE, jax.random.key(0), 1, repetitions=0), "repetitions"),
    (lambda x: exact.w2(ONE, exact.Gaussian(np.zeros(2), np.eye(2))), "a has dimension 1"),
]


def test_what_cannot_be_measured_is_refused(subtests):
    for measure, says in REFUSED:
        with subtests.test(says), np.errstate(divide="ignore"):
            with pytest.raises(ValueError, match=says):
                measure(np.ones((3, 2)))
