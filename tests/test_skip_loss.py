"""S^2-DM: its loss in both forms, the rescaling of eps it comes to, and that rescaling at work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import denoisers, grids, plans, schedules
from skipjax.denoisers import Point
from skipjax.sampling import integrate, starting_noise
from skipjax.schedules import skip_ratio, skip_scale
from skipjax.training import losses

LINEAR = schedules.linear()
STD = 0.5  # of the Gaussian that stands for the data
each_form = pytest.mark.parametrize("form", schedules.FORMS)


def test_the_ratio_is_that_of_the_jump():
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for skip in (1, 9, 49, 1000):
        jump = abar / abar[np.maximum(np.arange(1000) - skip, 0)]
        expected = np.sqrt(1 - jump) / np.sqrt(jump)
        np.testing.assert_allclose(skip_ratio(LINEAR, skip), expected, rtol=1e-9, atol=1e-12)
    assert skip_ratio(LINEAR, 9)[0] == 0


def test_scales_are_those_known_of_the_linear_schedule():
    """Least k_t of the released form, and the range of the paper's, to as many digits as known."""
    for skip, least in ((1, 0.99979), (9, 0.99800), (49, 0.98383)):
        scale = skip_scale(LINEAR, skip)
        assert np.argmin(scale) == 999 and round(scale[-1], 5) == least
        assert (scale[:skip] == 1).all() and (np.diff(scale[skip:]) < 0).all()
    for skip, least, most in ((9, 1.0004, 1.0025), (49, 0.9965, 1.0025)):
        scale = skip_scale(LINEAR, skip, form="paper")[skip:]
        assert round(scale.min(), 4) == least and round(scale.max(), 4) == most
    for form in schedules.FORMS:
        assert (skip_scale(LINEAR, 9, 1.0, form) == 1).all()


@each_form
def test_the_loss_is_its_formula(form):
    rng = np.random.default_rng(0)
    output, eps, other = rng.normal(size=(3, 4, 3, 2, 3)).astype(np.float32)
    t, c = np.array([0, 8, 9, 999]), skip_ratio(LINEAR, 9).astype(np.float32)
    ours = losses.skip_step(output, t, eps, other, jnp.asarray(c), tau=0.9, form=form)
    for i, at in enumerate(t):
        first = np.mean((eps[i] - output[i]) ** 2)
        second = np.mean(({"released": other, "paper": eps}[form][i] - c[at] * output[i]) ** 2)
        expected = 0.9 * first + 0.1 * second
        if form == "released" and at < 9:
            expected = first
        np.testing.assert_allclose(ours[i], expected, rtol=1e-6)


@each_form
@pytest.mark.parametrize("skip", [9, 49, 300])
def test_the_optimum_on_a_gaussian_is_eps_rescaled(form, skip):
    """Of e = a x_t the loss is least at a = k_t E[eps | x_t] / x_t, and not at k = 1."""
    num, tau = 200_000, 0.9
    ratio = jnp.asarray(skip_ratio(LINEAR, skip), jnp.float32)
    scale = skip_scale(LINEAR, skip, tau, form)
    for at in (skip - 1, skip, 400, 999):
        x_0, eps, other = jax.random.normal(jax.random.key(at), (3, num, 1, 1, 1))
        alpha, sigma = LINEAR.alpha[at], LINEAR.sigma[at]
        x_t, t = alpha * STD * x_0 + sigma * eps, jnp.full(num, at)
        exact = sigma / ((alpha * STD) ** 2 + sigma**2)

        def slope(a, t=t, eps=eps, other=other, x_t=x_t):
            def loss(a):
                options = {"skip": skip, "tau": tau, "form": form}
                return losses.skip_step(a * x_t, t, eps, other, ratio, **options)

            each = jax.jvp(loss, (a,), (jnp.float32(1),))[1]
            return float(each.mean()), float(each.std() / num**0.5)

        mean, error = slope(jnp.float32(scale[at] * exact))
        assert abs(mean) < 4.5 * error, (at, mean, error)
        mean, error = slope(jnp.float32(exact))
        if abs(scale[at] - 1) > 0.02:
            assert abs(mean) > 10 * error, (at, mean, error)


def exact(x, point):
    """What is known of a Gaussian."""
    eps = point.sigma * x / ((point.alpha * STD) ** 2 + point.sigma**2)
    return denoisers.Prediction((x - point.sigma * eps) / point.alpha, eps)


def test_scaled_eps_and_its_x_0_agree():
    x = jax.random.normal(jax.random.key(0), (5, 4, 4, 3))
    table = np.linspace(0.9, 1.1, 1000)
    point = Point(jnp.float32(499.5), jnp.float32(0.8), jnp.float32(0.6))
    before = exact(x, point)
    for scale, k in ((0.97, 0.97), (table, 1.0), (1.0, 1.0)):
        after = denoisers.scale_eps(exact, scale)(x, point)
        np.testing.assert_allclose(after.eps, k * before.eps, rtol=1e-5)
        np.testing.assert_allclose(0.8 * after.x_0 + 0.6 * after.eps, x, rtol=0, atol=1e-6)
    each = point._replace(t=jnp.arange(5) * 200.0, alpha=jnp.full((5, 1, 1, 1), 0.8))
    each = each._replace(sigma=jnp.full((5, 1, 1, 1), 0.6))
    after = denoisers.scale_eps(exact, table)(x, each)
    k = np.interp(each.t, np.arange(1000), table)[:, None, None, None]
    np.testing.assert_allclose(after.eps, k * exact(x, each).eps, rtol=1e-5)


@each_form
def test_a_network_of_the_loss_and_its_training_free_twin_draw_the_same(form):
    plan = plans.ddim(LINEAR, grids.trailing(1000, 10), 0.3)
    scale = skip_scale(LINEAR, 49, 0.9, form)

    def network(x, t):
        """The optimum of the loss."""
        at = t.astype(int)
        alpha, sigma = (jnp.asarray(c, jnp.float32)[at][:, None] for c in LINEAR)
        k = jnp.asarray(scale, jnp.float32)[at][:, None]
        return k * sigma * x / ((alpha * STD) ** 2 + sigma**2)

    keys = jax.random.split(jax.random.key(0), 64)
    x = starting_noise(keys, (3,))
    trained = integrate(plan, denoisers.from_eps(network), x, keys)
    twin = integrate(plan, denoisers.scale_eps(exact, scale), x, keys)
    np.testing.assert_allclose(trained, twin, rtol=0, atol=1e-4)
    assert jnp.abs(twin - integrate(plan, exact, x, keys)).max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"skip": 0}, "skip is 0"),
        ({"skip": 1001}, "skip is 1001"),
        ({"tau": 0}, r"tau is 0: it must be in \(0, 1\]"),
        ({"tau": 1.5}, "tau is 1.5"),
        ({"form": "mine"}, "form is 'mine': it must be one of released, paper"),
        ({"schedule": schedules.rectified_flow()}, "preserves variance"),
        ({"schedule": schedules.zero_terminal_snr(LINEAR)}, "never comes to zero SNR"),
    ],
)
def test_what_is_not_defined_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        skip_scale(**{"schedule": LINEAR} | changes)


def test_scales_may_be_traced():
    x = jax.random.normal(jax.random.key(0), (2, 3))
    point = Point(jnp.float32(10), jnp.float32(0.8), jnp.float32(0.6))

    def size(k):
        return jnp.square(denoisers.scale_eps(exact, k)(x, point).eps).sum()

    assert jax.jit(jax.grad(size))(0.9) > 0
