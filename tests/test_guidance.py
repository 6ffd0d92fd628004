"""What guidance adds, how often it is computed, and the law that it samples from."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import guidance, placement, plans, schedules
from skipjax.denoisers import Point, Prediction, clip, steered
from skipjax.evaluation.exact import Gaussian
from skipjax.sampling import integrate

LINEAR = schedules.linear()
TIMES = np.array([900, 640, 500, 330, 170, 20])
B, SHAPE = 3, (2, 2, 2)
TARGET = Gaussian(np.linspace(-0.4, 0.4, 8), np.diag(np.linspace(0.1, 0.9, 8)))
SCALE = 1.7
POINT = Point(*map(np.float64, (400.0, *LINEAR.at(400))))


def pictures(seed, num=B):
    return np.random.default_rng(seed).normal(size=(num, *SHAPE))


def log_prob(x, t):
    """Of gradient -(1 + t / 1000) sin(x)."""
    return ((1 + t / 1000) * jnp.cos(x).sum((1, 2, 3))).astype(x.dtype)


def slope(x, t):
    return -(1 + t / 1000) * np.sin(x)


def keys(num=B):
    return jax.random.split(jax.random.key(0), num)


def by_label(labels):
    """A network whose eps depends on label and time, and what it says of the variance too."""

    def denoise(x, point):
        label = labels.reshape(-1, 1, 1, 1).astype(x.dtype)
        t = jnp.reshape(point.t, (-1, 1, 1, 1))
        eps = 0.5 * x + jnp.sin(label + t / 300)
        return Prediction((x - point.sigma * eps) / point.alpha, eps, jnp.tanh(x + label))

    return denoise


def test_the_gradient_of_a_classifier_stands_beside_an_unchanged_prediction(float64):
    x = jnp.asarray(pictures(1))
    plain = TARGET.denoise(x, POINT)
    guided = guidance.classifier(TARGET.denoise, log_prob, SCALE)(x, POINT)
    np.testing.assert_array_equal(guided.x_0, plain.x_0)
    np.testing.assert_array_equal(guided.eps, plain.eps)
    np.testing.assert_allclose(guided.gradient, SCALE * slope(x, 400.0), rtol=1e-13)


@pytest.mark.parametrize("steer", [0.0, 0.3, 1.0])
def test_steered_takes_the_gradient_from_eps_and_keeps_x_0_in_agreement(float64, steer):
    x, gradient = jnp.asarray(pictures(1)), pictures(2)
    plain = TARGET.denoise(x, POINT)
    assert steered(plain, POINT, steer) is plain
    turned = steered(plain._replace(gradient=gradient), POINT, steer)
    expected = plain.eps - steer * POINT.sigma * gradient
    np.testing.assert_allclose(turned.eps, expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(POINT.alpha * turned.x_0 + POINT.sigma * turned.eps, x, atol=1e-14)


def by_hand(times, row, z):
    """A sampler in NumPy: `row` gives x_s from x_0, eps, the gradient and the levels."""
    x = pictures(3)
    for i, t in enumerate(times):
        bar = LINEAR.alpha[t] ** 2
        before = LINEAR.alpha[times[i + 1]] ** 2 if i + 1 < len(times) else 1.0
        spectrum, mean = np.diag(TARGET.cov).reshape(SHAPE), TARGET.mean.reshape(SHAPE)
        eps = np.sqrt(1 - bar) * (x - np.sqrt(bar) * mean) / (bar * spectrum + 1 - bar)
        x = row(x, eps, SCALE * slope(x, t), t, bar, before, z[i])
    return x


def mean_shift(variance):
    """Dhariwal & Nichol, algorithm 1, on Ho et al.'s chain."""

    def row(x, eps, gradient, t, bar, before, z):
        alpha, beta = bar / before, 1 - bar / before
        mean = (x - beta / np.sqrt(1 - bar) * eps) / np.sqrt(alpha)
        small = (1 - before) / (1 - bar) * beta
        if variance == "small":
            return mean + small * gradient + np.sqrt(small) * z
        last = before == 1.0
        a, b = (LINEAR.alpha[TIMES[i]] ** 2 for i in (-2, -1))
        squared = (1 - b) / (1 - a) * (1 - a / b) if last else beta
        return mean + squared * gradient + (not last) * np.sqrt(squared) * z

    return row


def eps_shift(eta):
    """Dhariwal & Nichol, algorithm 2, in Song et al.'s equations 12 and 16."""

    def row(x, eps, gradient, t, bar, before, z):
        eps = eps - np.sqrt(1 - bar) * gradient
        x_0 = (x - np.sqrt(1 - bar) * eps) / np.sqrt(bar)
        std = eta * np.sqrt((1 - before) / (1 - bar) * (1 - bar / before))
        return np.sqrt(before) * x_0 + np.sqrt(1 - before - std**2) * eps + std * z

    return row


def either(cutoff, variance):
    above, below = mean_shift(variance), eps_shift(0.0)
    return lambda x, eps, g, t, *rest: (above if t >= cutoff else below)(x, eps, g, t, *rest)


FORMS = {
    "ddpm_small": (plans.ddpm(LINEAR, TIMES), mean_shift("small")),
    "ddpm_large": (plans.ddpm(LINEAR, TIMES, "large"), mean_shift("large")),
    "ddim": (plans.ddim(LINEAR, TIMES), eps_shift(0.0)),
    "ddim_eta_0.6": (plans.ddim(LINEAR, TIMES, 0.6), eps_shift(0.6)),
    "hybrid_small": (plans.hybrid(LINEAR, TIMES, 400), either(400, "small")),
    "hybrid_large": (plans.hybrid(LINEAR, TIMES, 500, "large"), either(500, "large")),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_guided_sampler_does_what_its_algorithm_says(float64, name):
    plan, row = FORMS[name]
    z = np.random.default_rng(4).normal(size=(len(TIMES), B, *SHAPE))
    guided = guidance.classifier(TARGET.denoise, log_prob, SCALE)
    ours = integrate(plan, guided, jnp.asarray(pictures(3)), keys(), noise=jnp.asarray(z))
    np.testing.assert_allclose(ours, by_hand(TIMES, row, z), rtol=0, atol=1e-12)


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
        guided = guidance.classifier(TARGET.denoise, log_prob, scale, interval)
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


@pytest.mark.parametrize(
    ("interval", "times"),
    [
        ((0.0, 999.0), TIMES),
        ((330.0, 640.0), [640, 500, 330]),
        ((331.0, 639.5), [500]),
        ((950.0, 1000.0), []),
        ((-np.inf, 20.0), [20]),
    ],
)
def test_a_classifier_is_called_within_its_interval_only(counted, guided_within, interval, times):
    counted.calls.clear()
    lost_outside, flat_outside = guided_within
    ours = lost_outside(*interval)
    jax.effects_barrier()
    assert counted.calls == [(t, B) for t in times]
    np.testing.assert_allclose(ours, flat_outside(*interval), rtol=0, atol=1e-6)
    assert (np.abs(ours - flat_outside(1.0, 0.0)).max() > 1e-3) == bool(len(times))


def test_a_classifier_guides_each_picture_within_the_interval_of_its_own_time(float64):
    t = np.array([300.0, 330.0, 700.0])
    alpha, sigma = (a.reshape(-1, 1, 1, 1) for a in LINEAR.at(t.astype(int)))
    x, denoise = jnp.asarray(pictures(5)), by_label(jnp.zeros(B))
    guided = guidance.classifier(denoise, log_prob, SCALE, (310, 650))
    gradient = np.asarray(guided(x, Point(t, alpha, sigma)).gradient)
    assert not gradient[[0, 2]].any()
    np.testing.assert_allclose(gradient[1], SCALE * slope(x[1], 330.0), rtol=1e-13)


@pytest.mark.parametrize("interval", [None, (0, 1000)])
def test_a_scale_per_picture_is_taken(float64, interval):
    x, scales = jnp.asarray(pictures(5)), jnp.array([0.0, 1.0, 3.0])
    guided = guidance.classifier(TARGET.denoise, log_prob, scales, interval)
    expected = scales.reshape(-1, 1, 1, 1) * slope(x, 400.0)
    np.testing.assert_allclose(guided(x, POINT).gradient, expected, rtol=1e-13)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("per_picture", [False, True])
def test_classifier_free_mixes_two_calls_made_apart(float64, scale, per_picture):
    x, labels = jnp.asarray(pictures(6)), jnp.array([3, 1, 2])
    point = POINT
    if per_picture:
        t = np.array([20.0, 400.0, 900.0])
        point = Point(t, *(a.reshape(-1, 1, 1, 1) for a in LINEAR.at(t.astype(int))))

    mixed = guidance.classifier_free(by_label, labels, 7, scale)(x, point)
    with_label, without = (by_label(y)(x, point) for y in (labels, jnp.full(B, 7)))
    for name in ("x_0", "eps"):
        a, b = getattr(with_label, name), getattr(without, name)
        np.testing.assert_allclose(getattr(mixed, name), b + scale * (a - b), rtol=0, atol=1e-13)
    np.testing.assert_array_equal(mixed.place, with_label.place)
    agreed = point.alpha * mixed.x_0 + point.sigma * mixed.eps
    np.testing.assert_allclose(agreed, x, rtol=0, atol=1e-12)


def test_classifier_free_calls_once_on_both_and_outside_its_interval_on_the_labels(counted):
    plan, x, labels = plans.ddim(LINEAR, TIMES), jnp.float32(pictures(3)), jnp.array([3, 1, 2])

    def of(labels):
        def denoise(x, point):
            counted(x, point.t)
            return by_label(labels)(x, point)

        return denoise

    @jax.jit
    def run(scale, low, high):
        denoise = guidance.classifier_free(of, labels, 0, scale, (low, high))
        return integrate(plan, denoise, x, keys())

    counted.calls.clear()
    run(SCALE, 330.0, 640.0)
    jax.effects_barrier()
    assert counted.calls == [(t, 2 * B if 330 <= t <= 640 else B) for t in TIMES]
    conditional = integrate(plan, by_label(labels), x, keys())
    np.testing.assert_allclose(run(SCALE, 950.0, 999.0), conditional, rtol=0, atol=1e-6)
    np.testing.assert_allclose(run(1.0, 0.0, 999.0), conditional, rtol=0, atol=1e-5)
    null = integrate(plan, by_label(jnp.zeros(B)), x, keys())
    np.testing.assert_allclose(run(0.0, 0.0, 999.0), null, rtol=0, atol=1e-5)
    assert np.abs(null - conditional).max() > 0.1


@pytest.mark.parametrize("kind", ["classifier", "classifier_free"])
def test_a_batch_spread_over_devices_is_guided_alike_and_stays_spread(kind):
    plan = plans.hybrid(LINEAR, TIMES, 400)

    @jax.jit
    def run(x, labels, keys):
        denoise = by_label(labels)
        if kind == "classifier":
            denoise = guidance.classifier(denoise, log_prob, SCALE, (100, 700))
        else:
            denoise = guidance.classifier_free(by_label, labels, 0, SCALE, (100, 700))
        return integrate(plan, denoise, x, keys)

    arguments = jnp.float32(pictures(7, 16)), jnp.arange(16) % 3 + 1, keys(16)
    over = placement.pictures(placement.mesh())
    spread = jax.device_put(arguments, over)
    alone, ours = run(*arguments), run(*spread)
    np.testing.assert_allclose(ours, alone, rtol=0, atol=1e-5)
    assert ours.sharding.is_equivalent_to(over, ours.ndim)
    program = run.lower(*spread).compile().as_text()
    assert not any(word in program for word in ("all-gather", "all-to-all", "permute"))
