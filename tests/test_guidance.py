"""What guidance adds to a prediction, and when it is computed."""

from itertools import product

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guides import SCALE, B, by_label, keys, log_prob, pictures, slope

from skipjax import guidance, plans, schedules, sharding
from skipjax.denoisers import Point, Prediction, clip, steered
from skipjax.sampling import integrate

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
LINEAR = schedules.linear()
TIMES = np.array([900, 640, 500, 330, 170, 20])
POINT = Point(*map(np.float64, (400.0, *LINEAR.at(400))))


@jax.jit
def by_classifier(x, point, scale, interval):
    """A denoiser that is guided, and the same one that is not."""
    denoise = by_label(jnp.zeros(B))
    guided = guidance.classifier(denoise, log_prob, scale, interval)
    return guided(x, point), denoise(x, point)


def test_the_gradient_of_a_classifier_stands_beside_an_unchanged_prediction(float64):
    x = pictures(1)
    for interval in (None, (0, 1000)):
        guided, plain = by_classifier(x, POINT, SCALE, interval)
        np.testing.assert_array_equal(guided.x_0, plain.x_0)
        np.testing.assert_array_equal(guided.eps, plain.eps)
        np.testing.assert_array_equal(guided.log_variance, plain.log_variance)
        np.testing.assert_allclose(guided.gradient, SCALE * slope(x, 400.0), rtol=1e-13)


def test_a_scale_per_picture_is_taken(float64):
    x, scales = pictures(5), np.array([0.0, 1.0, 3.0])
    expected = scales.reshape(-1, 1, 1, 1) * slope(x, 400.0)
    for interval in (None, (0, 1000)):
        gradient = by_classifier(x, POINT, scales, interval)[0].gradient
        np.testing.assert_allclose(gradient, expected, rtol=1e-13)


def test_a_classifier_guides_each_picture_within_the_interval_of_its_own_time(float64):
    t = np.array([300.0, 330.0, 700.0])
    point = Point(t, *(a.reshape(-1, 1, 1, 1) for a in LINEAR.at(t.astype(int))))
    x = pictures(5)
    gradient = np.asarray(by_classifier(x, point, SCALE, (310, 650))[0].gradient)
    assert not gradient[[0, 2]].any()
    np.testing.assert_allclose(gradient[1], SCALE * slope(x[1], 330.0), rtol=1e-13)


def test_steered_takes_the_gradient_from_eps_and_keeps_x_0_in_agreement():
    x, eps, gradient = pictures(1), pictures(2), pictures(3)
    plain = Prediction((x - POINT.sigma * eps) / POINT.alpha, eps)
    for steer in (0.0, 0.3, 1.0):
        assert steered(plain, POINT, steer) is plain
        turned = steered(plain._replace(gradient=gradient), POINT, steer)
        expected = eps - steer * POINT.sigma * gradient
        np.testing.assert_allclose(turned.eps, expected, rtol=0, atol=1e-14)
        again = POINT.alpha * turned.x_0 + POINT.sigma * turned.eps
        np.testing.assert_allclose(again, x, atol=1e-14)


def test_a_sweep_is_one_trace():
    plan = plans.hybrid(LINEAR, TIMES, 400)
    x = jnp.asarray(pictures(3), jnp.float32)

    @jax.jit
    @chex.assert_max_traces(1)
    def run(scale, low, high, labels):
        inner = guidance.classifier_free(by_label, labels, 0, scale, (low, high))
        denoise = guidance.classifier(clip(inner), log_prob, scale, (low, high))
        return integrate(plan, denoise, x, keys())

    drawn = [
        np.asarray(run(jnp.float32(scale), jnp.float32(low), jnp.float32(high), labels))
        for scale in (0.5, 1.0, 2.5)
        for low, high in ((0.0, 1000.0), (300.0, 700.0))
        for labels in (jnp.array([1, 2, 3]), jnp.array([3, 3, 1]))
    ]
    assert np.isfinite(drawn).all() and len(np.unique(drawn, axis=0)) == 12


@pytest.fixture(scope="module")
def counted():
    """Calls at run time: t, and how many pictures."""
    calls = []

    def count(x, t):
        jax.debug.callback(lambda t: calls.append((float(t), len(x))), t)

    count.calls = calls
    return count


@pytest.fixture(scope="module")
def guided_within(counted):
    """Guided by a classifier that knows nothing of other times; and by one that is flat there."""

    def run(log_prob, scale, interval):
        guided = guidance.classifier(by_label(jnp.zeros(B)), log_prob, scale, interval)
        x = jnp.asarray(pictures(3), jnp.float32)
        return integrate(plans.hybrid(LINEAR, TIMES, 400), guided, x, keys())

    def inside(t, low, high):
        return (low <= t) & (t <= high)

    @jax.jit
    def lost_outside(low, high):
        def counting(x, t):
            counted(x, t[0])
            return jnp.where(inside(t, low, high), log_prob(x, t), jnp.nan)

        return run(counting, SCALE, (low, high))

    @jax.jit
    def flat_outside(low, high):
        return run(lambda x, t: inside(t, low, high) * log_prob(x, t), SCALE, None)

    return lost_outside, flat_outside


def test_a_classifier_is_called_within_its_interval_only(counted, guided_within):
    lost_outside, flat_outside = guided_within
    unguided = flat_outside(1.0, 0.0)
    for interval, times in [
        ((0.0, 999.0), TIMES),
        ((330.0, 640.0), [640, 500, 330]),
        ((331.0, 639.5), [500]),
        ((950.0, 1000.0), []),
        ((-np.inf, 20.0), [20]),
    ]:
        counted.calls.clear()
        ours = lost_outside(*interval)
        jax.effects_barrier()
        assert counted.calls == [(t, B) for t in times], interval
        flat = flat_outside(*interval)
        # Two programs, which may round otherwise: by no more than an ulp or two.
        np.testing.assert_allclose(ours, flat, rtol=1e-6, atol=1e-6, err_msg=str(interval))
        assert (np.abs(ours - unguided).max() > 1e-3) == bool(len(times)), interval


@jax.jit
def mixed_and_apart(x, point, labels, scale):
    mixed = guidance.classifier_free(by_label, labels, 7, scale)(x, point)
    return mixed, by_label(labels)(x, point), by_label(jnp.full(B, 7))(x, point)


def test_classifier_free_mixes_two_calls_made_apart(float64):
    x, labels, t = pictures(6), np.array([3, 1, 2]), np.array([20.0, 400.0, 900.0])
    each = Point(t, *(a.reshape(-1, 1, 1, 1) for a in LINEAR.at(t.astype(int))))
    for point, scale in product((POINT, each), (0.0, 1.0, 2.5)):
        mixed, with_label, without = mixed_and_apart(x, point, labels, scale)
        for name in ("x_0", "eps"):
            a, b = np.asarray(getattr(with_label, name)), np.asarray(getattr(without, name))
            found = getattr(mixed, name)
            np.testing.assert_allclose(found, b + scale * (a - b), rtol=0, atol=1e-13)
        np.testing.assert_array_equal(mixed.log_variance, with_label.log_variance)
        agreed = point.alpha * mixed.x_0 + point.sigma * mixed.eps
        np.testing.assert_allclose(agreed, x, rtol=0, atol=1e-12)


def test_classifier_free_calls_once_on_both_and_outside_its_interval_on_the_labels(counted):
    plan, x, labels = plans.ddim(LINEAR, TIMES), np.float32(pictures(3)), np.array([3, 1, 2])

    def of(labels):
        def denoise(x, point):
            counted(x, point.t)
            return by_label(labels)(x, point)

        return denoise

    @jax.jit
    def run(scale, low, high):
        denoise = guidance.classifier_free(of, labels, 0, scale, (low, high))
        return integrate(plan, denoise, x, keys())

    plain = jax.jit(lambda labels: integrate(plan, by_label(labels), x, keys()))
    counted.calls.clear()
    run(SCALE, 330.0, 640.0)
    jax.effects_barrier()
    assert counted.calls == [(t, 2 * B if 330 <= t <= 640 else B) for t in TIMES]
    conditional, null = (np.asarray(plain(some)) for some in (labels, np.zeros_like(labels)))
    np.testing.assert_allclose(run(SCALE, 950.0, 999.0), conditional, rtol=0, atol=1e-6)
    np.testing.assert_allclose(run(1.0, 0.0, 999.0), conditional, rtol=0, atol=1e-5)
    np.testing.assert_allclose(run(0.0, 0.0, 999.0), null, rtol=0, atol=1e-5)
    assert np.abs(null - conditional).max() > 0.1


def test_a_batch_spread_over_devices_is_guided_alike_and_stays_spread():
    plan = plans.hybrid(LINEAR, TIMES, 400)

    @jax.jit
    def run(x, labels, keys):
        """By a classifier and without one."""
        one = guidance.classifier(by_label(labels), log_prob, SCALE, (100, 700))
        other = guidance.classifier_free(by_label, labels, 0, SCALE, (100, 700))
        return [integrate(plan, denoise, x, keys) for denoise in (one, other)]

    arguments = np.float32(pictures(7, 16)), np.arange(16) % 3 + 1, keys(16)
    over = sharding.pictures(sharding.mesh())
    spread = jax.device_put(arguments, over)
    program = run.lower(*spread).compile()
    for alone, ours in zip(run(*arguments), program(*spread), strict=True):
        np.testing.assert_allclose(ours, alone, rtol=0, atol=1e-5)
        assert ours.sharding.is_equivalent_to(over, ours.ndim)
    said = program.as_text()
    assert not any(word in said for word in ("all-gather", "all-to-all", "permute"))
