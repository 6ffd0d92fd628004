"""Evaluation against closed forms, and against the definitions written out."""

import functools
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import norm

from skipjax import evaluation, schedules

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
SCHEDULE = schedules.linear(100)
SPREAD = 0.5  # of the Gaussian pictures of a class
MEANS = jnp.array([-0.4, 0.0, 0.7])  # one a class


def pictures(seed, num, shape=(4, 4, 3)):
    return np.random.default_rng(seed).uniform(-1, 1, (num, *shape)).astype(np.float32)


def labelled(num):
    """Pictures of independent pixels N(MEANS[y], SPREAD^2)."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, num)
    z = rng.normal(size=(num, 4, 4, 3))
    return (np.asarray(MEANS)[y][:, None, None, None] + SPREAD * z).astype(np.float32), y


def exact(means, x, t, y):
    """E[eps | x_t] of those pictures."""
    alpha, sigma = jnp.asarray(SCHEDULE.alpha, x.dtype), jnp.asarray(SCHEDULE.sigma, x.dtype)
    t = t.astype(jnp.int32)
    alpha, sigma, mean = (v[:, None, None, None] for v in (alpha[t], sigma[t], means[y]))
    return sigma * (x - alpha * mean) / (alpha**2 * SPREAD**2 + sigma**2)


PREDICT = functools.partial(exact, MEANS)
BATCH = 8  # one program for all


def eps_mse(x, y, seed, batch=BATCH):
    return evaluation.eps_mse(PREDICT, SCHEDULE, x, y, jax.random.key(seed), batch=batch)


def energy(a, b):
    """The definition, from all distances at once."""
    a, b = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (a, b))
    n, m = len(a), len(b)
    within = cdist(a, a).sum() / (n * (n - 1)) + cdist(b, b).sum() / (m * (m - 1))
    return 2 * cdist(a, b).mean() - within


def mean_absolute_normal(mean, variance):
    """E|X| of X ~ N(mean, variance)."""
    deviation = np.sqrt(variance)
    z = mean / deviation
    return deviation * (2 * norm.pdf(z) + z * (2 * norm.cdf(z) - 1))


class TestEpsMse:
    def test_of_an_exact_network_is_the_variance_that_is_left(self):
        x, y = labelled(512)
        signal = (SCHEDULE.alpha * SPREAD) ** 2
        left = (signal / (signal + SCHEDULE.sigma**2)).mean()
        mean, error = eps_mse(x, y, 1)
        assert 0 < error < 0.01 * left
        assert abs(mean - left) < 4 * error

    def test_standard_error_is_that_of_repetitions(self):
        x, y = labelled(2000)
        parts = [slice(i, i + 50) for i in range(0, 2000, 50)]
        estimates = [eps_mse(x[part], y[part], part.start) for part in parts]
        observed = np.std([e.mean for e in estimates], ddof=1)
        stated = np.mean([e.standard_error for e in estimates])
        np.testing.assert_allclose(observed, stated, rtol=0.4)

    def test_does_not_depend_on_the_batch(self):
        x, y = labelled(8)
        whole = evaluation.eps_mse(PREDICT, SCHEDULE, x, y, jax.random.key(2))
        for batch in (1, 3, 8, 100):
            np.testing.assert_allclose(eps_mse(x, y, 2, batch), whole, rtol=1e-6)

    def test_follows_from_the_key_alone(self):
        x, y = labelled(8)
        a, b, c = (eps_mse(x, y, seed) for seed in (3, 3, 4))
        assert a == b
        assert a != c

    def test_visits_every_time_equally_often(self):
        # Each part holds one time, so a network that errs by t errs by the mean of t^2 exactly.
        schedule = schedules.cosine(10)
        clean = np.zeros((3, 2, 2, 1), np.float32)
        sigma = jnp.asarray(schedule.sigma, jnp.float32)

        def off_by_t(x, t, y):
            assert y is None
            t = t[:, None, None, None]
            return x / sigma[t.astype(jnp.int32)] + t

        found = evaluation.eps_mse(off_by_t, schedule, clean, None, jax.random.key(0), draws=10)
        np.testing.assert_allclose(found.mean, np.mean(np.arange(10) ** 2), rtol=1e-6)
        assert found.standard_error < 1e-5

    def test_more_draws_than_times(self):
        x, y = labelled(4)
        schedule = schedules.Schedule(SCHEDULE.alpha[:2], SCHEDULE.sigma[:2])
        found = evaluation.eps_mse(PREDICT, schedule, x, y, jax.random.key(0), draws=5)
        assert np.isfinite(found).all()

    def test_new_parameters_need_no_new_program(self):
        x, y = labelled(10)
        traces = []

        def counted(means, *rest):
            traces.append(None)
            return exact(means, *rest)

        errors = [
            evaluation.eps_mse(
                jax.tree_util.Partial(counted, means), SCHEDULE, x, y, jax.random.key(0), batch=4
            ).mean
            for means in (MEANS, MEANS + 1)
        ]
        assert len(traces) == 1
        assert errors[0] < errors[1]

    def test_refuses_a_learned_variance(self):
        x, y = labelled(2)

        def wide(x, t, y):
            return jnp.concatenate([x, x], axis=-1)

        with pytest.raises(ValueError, match="first half of the channels"):
            evaluation.eps_mse(wide, SCHEDULE, x, y, jax.random.key(0))

    def test_refuses_what_does_not_fit(self):
        for num, labels, options, message in [
            (3, [0, 1], {}, "one for each of 3"),
            (3, [0.0, 1.0, 2.0], {}, "whole numbers"),
            (3, [0, 1, 2], {"draws": 0}, "draws is 0"),
            (3, [0, 1, 2], {"batch": 1.5}, "batch is 1.5"),
            (1, [0], {}, "at least 2"),
        ]:
            with pytest.raises(ValueError, match=message):
                evaluation.eps_mse(
                    PREDICT, SCHEDULE, pictures(0, num), labels, jax.random.key(0), **options
                )


class TestEnergyDistance:
    def test_is_the_definition_whatever_the_block(self):
        a, b = pictures(0, 7), 0.8 * pictures(1, 12)
        for block in (1, 3, 7, 1024):
            found = evaluation.energy_distance(a, b, block=block)
            np.testing.assert_allclose(found, energy(a, b), rtol=1e-10, err_msg=str(block))

    def test_is_symmetric(self):
        a, b = pictures(0, 5), 0.5 * pictures(1, 9)
        there, back = evaluation.energy_distance(a, b), evaluation.energy_distance(b, a)
        np.testing.assert_allclose(there, back, rtol=1e-10)

    @pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (1.0, 1.0), (0.5, 2.0)])
    def test_of_two_gaussians(self, mean, deviation):
        true = (
            2 * mean_absolute_normal(mean, 1 + deviation**2)
            - mean_absolute_normal(0, 2)
            - mean_absolute_normal(0, 2 * deviation**2)
        )
        rng = np.random.default_rng(0)
        found = [
            evaluation.energy_distance(
                rng.normal(size=(200, 1)), rng.normal(mean, deviation, (300, 1))
            )
            for _ in range(40)
        ]
        error = np.std(found, ddof=1) / np.sqrt(len(found))
        assert error < 0.02
        assert abs(np.mean(found) - true) < 4 * error

    def test_of_a_set_to_itself_is_what_copies_take_off(self):
        a = pictures(0, 6)
        flat = a.reshape(6, -1).astype(np.float64)
        expected = -2 * cdist(flat, flat).sum() / (6 * 6 * 5)
        np.testing.assert_allclose(evaluation.energy_distance(a, a), expected, rtol=1e-6)

    def test_takes_low_precision_and_device_arrays(self):
        a, b = jnp.asarray(pictures(0, 4), jnp.bfloat16), jnp.asarray(pictures(1, 4))
        np.testing.assert_allclose(
            evaluation.energy_distance(a, b), energy(a.astype(jnp.float32), b), rtol=1e-10
        )

    def test_refuses_what_is_no_set_of_pictures(self, subtests):
        three, nan = pictures(0, 3), np.float32([[[[1]]], [[[1]]], [[[np.nan]]]])
        for a, b, message in [
            (three, pictures(0, 3, (2, 2, 3)), "expected the same"),
            (three, pictures(0, 1), "b holds 1 pictures: expected at least 2"),
            (pictures(0, 0), three, "a holds 0 pictures"),
            (pictures(0, 3, ()), pictures(0, 3, ()), r"expected pictures, \[N, H, W, C\]"),
            (pictures(0, 3, (0, 4, 3)), three, "expected pictures"),
            (np.zeros((3, 4, 4, 3), np.uint8), three, "127.5"),
            (three / nan, three, "picture 2 of a"),
        ]:
            with subtests.test(message), pytest.raises(ValueError, match=message):
                evaluation.energy_distance(a, b)
        with pytest.raises(ValueError, match="block is 0"):
            evaluation.energy_distance(three, pictures(1, 3), block=0)


class TestEnergyFloor:
    @pytest.mark.parametrize("num", [4, 5])
    def test_is_the_spread_over_all_splits(self, num):
        images = pictures(0, num)
        every = []
        for half in combinations(range(num), num // 2):
            other = [i for i in range(num) if i not in half]
            every.append(energy(images[list(half)], images[other]))
        np.testing.assert_allclose(np.mean(every), 0, atol=1e-12)
        mean, deviation = evaluation.energy_floor(images, splits=4000)
        np.testing.assert_allclose(deviation, np.std(every), rtol=0.1)
        assert abs(mean) < 4 * deviation / np.sqrt(4000)

    def test_of_one_law_covers_a_fresh_pair(self):
        images = pictures(0, 200)
        floor = evaluation.energy_floor(images, splits=50)
        fresh = evaluation.energy_distance(pictures(1, 100), pictures(2, 100))
        other = evaluation.energy_distance(pictures(1, 100), 0.7 * pictures(2, 100))
        assert abs(fresh) < 4 * floor.standard_deviation < other

    def test_follows_from_the_seed_and_not_from_the_block(self):
        images = pictures(0, 20)
        whole = evaluation.energy_floor(images, 1)
        np.testing.assert_allclose(evaluation.energy_floor(images, 1, block=3), whole, atol=1e-12)
        assert evaluation.energy_floor(images, 2) != whole

    def test_refuses_too_little(self):
        with pytest.raises(ValueError, match="at least 4"):
            evaluation.energy_floor(pictures(0, 3))
        with pytest.raises(ValueError, match="splits is 1"):
            evaluation.energy_floor(pictures(0, 4), splits=1)


class TestNearest:
    def test_is_the_definition_whatever_the_block(self):
        a, b = pictures(0, 9), pictures(1, 14)
        flat = [v.reshape(len(v), -1).astype(np.float64) for v in (a, b)]
        every = cdist(*flat) / np.sqrt(48)
        for block in (1, 4, 1024):
            distance, index = evaluation.nearest(a, b, block=block)
            np.testing.assert_array_equal(index, every.argmin(axis=1))
            np.testing.assert_allclose(distance, every.min(axis=1), rtol=1e-12)

    def test_finds_copies_at_exactly_zero(self):
        b = pictures(0, 20, (16, 16, 3))
        chosen = np.array([7, 0, 19])
        distance, index = evaluation.nearest(b[chosen], b, block=6)
        np.testing.assert_array_equal(index, chosen)
        np.testing.assert_array_equal(distance, 0)

    def test_is_in_units_of_a_pixel(self):
        a = np.zeros((1, 4, 4, 3), np.float32)
        np.testing.assert_allclose(evaluation.nearest(a, a + 0.25).distance, 0.25)

    def test_refuses_sets_that_cannot_be_compared(self):
        with pytest.raises(ValueError, match="expected the same"):
            evaluation.nearest(pictures(0, 2), pictures(0, 2, (4, 4, 1)))
        with pytest.raises(ValueError, match="b holds 0 pictures"):
            evaluation.nearest(pictures(0, 2), pictures(0, 0))
