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

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
LINEAR = schedules.linear()
STD = 0.5  # of the Gaussian that stands for the data


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


def test_the_loss_is_its_formula():
    rng = np.random.default_rng(0)
    output, eps, other = rng.normal(size=(3, 4, 3, 2, 3)).astype(np.float32)
    t, c = np.array([0, 8, 9, 999]), skip_ratio(LINEAR, 9).astype(np.float32)
    loss = jax.jit(losses.skip_step, static_argnames="form")
    for form in schedules.FORMS:
        ours = loss(output, t, eps, other, c, tau=0.9, form=form)
        for i, at in enumerate(t):
            first = np.mean((eps[i] - output[i]) ** 2)
            second = np.mean(({"released": other, "paper": eps}[form][i] - c[at] * output[i]) ** 2)
            expected = 0.9 * first + 0.1 * second
            if form == "released" and at < 9:
                expected = first
            np.testing.assert_allclose(ours[i], expected, rtol=1e-6, err_msg=f"{form}, {at}")


NUM, TAU = 200_000, 0.9


@jax.jit
def slopes(a, at, level, ratio, skip):
    """Of the mean loss of e = a x_t, for some a of each form, with its standard error."""
    x_0, eps, other = jax.random.normal(jax.random.key(at), (3, NUM, 1, 1, 1))
    alpha, sigma = level
    x_t, t = alpha * STD * x_0 + sigma * eps, jnp.full(NUM, at)

    def slope(a, form):
        def loss(a):
            options = {"skip": skip, "tau": TAU, "form": form}
            return losses.skip_step(a * x_t, t, eps, other, ratio, **options)

        each = jax.jvp(loss, (a,), (jnp.float32(1),))[1]
        return each.mean(), each.std() / NUM**0.5

    return {form: [slope(value, form) for value in of_form] for form, of_form in a.items()}


def test_the_optimum_on_a_gaussian_is_eps_rescaled():
    """Of e = a x_t the loss is least at a = k_t E[eps | x_t] / x_t, and not at k = 1."""
    for skip in (9, 49, 300):
        ratio = skip_ratio(LINEAR, skip).astype(np.float32)
        scales = {form: skip_scale(LINEAR, skip, TAU, form) for form in schedules.FORMS}
        for at in (skip - 1, skip, 400, 999):
            alpha, sigma = level = np.float32([LINEAR.alpha[at], LINEAR.sigma[at]])
            exact = sigma / ((alpha * STD) ** 2 + sigma**2)
            a = {form: np.float32([scale[at] * exact, exact]) for form, scale in scales.items()}
            for form, (best, plain) in slopes(a, at, level, ratio, skip).items():
                case = f"{form}, skip {skip}, at {at}"
                assert abs(best[0]) < 4.5 * best[1], case
                if abs(scales[form][at] - 1) > 0.02:
                    assert abs(plain[0]) > 10 * plain[1], case


def exact(x, point):
    """What is known of a Gaussian."""
    eps = point.sigma * x / ((point.alpha * STD) ** 2 + point.sigma**2)
    return denoisers.Prediction((x - point.sigma * eps) / point.alpha, eps)


def test_scaled_eps_and_its_x_0_agree():
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 3)).astype(np.float32)
    table = np.linspace(0.9, 1.1, 1000)
    scaled = jax.jit(lambda scale, point: denoisers.scale_eps(exact, scale)(x, point))
    point = Point(np.float32(499.5), np.float32(0.8), np.float32(0.6))
    before = exact(x, point)
    for scale, k in ((0.97, 0.97), (table, 1.0), (1.0, 1.0)):
        after = scaled(scale, point)
        np.testing.assert_allclose(after.eps, k * before.eps, rtol=1e-5)
        np.testing.assert_allclose(0.8 * after.x_0 + 0.6 * after.eps, x, rtol=0, atol=1e-6)
    levels = (np.full((5, 1, 1, 1), level, np.float32) for level in (0.8, 0.6))
    each = Point(np.arange(5, dtype=np.float32) * 200, *levels)
    after = scaled(table, each)
    k = np.interp(each.t, np.arange(1000), table)[:, None, None, None]
    np.testing.assert_allclose(after.eps, k * exact(x, each).eps, rtol=1e-5)


@jax.jit
def drawn(scale):
    """By a network that is the optimum of the loss, by its twin, and by none."""

    def network(x, t):
        at = t.astype(int)
        alpha, sigma = (jnp.asarray(c, jnp.float32)[at][:, None] for c in LINEAR)
        return scale[at][:, None] * sigma * x / ((alpha * STD) ** 2 + sigma**2)

    plan = plans.ddim(LINEAR, grids.trailing(1000, 10), 0.3)
    keys = jax.random.split(jax.random.key(0), 64)
    x = starting_noise(keys, (3,))
    return [
        integrate(plan, denoise, x, keys)
        for denoise in (denoisers.from_eps(network), denoisers.scale_eps(exact, scale), exact)
    ]


def test_a_network_of_the_loss_and_its_training_free_twin_draw_the_same():
    for form in schedules.FORMS:
        scale = skip_scale(LINEAR, 49, 0.9, form)
        trained, twin, plain = map(np.asarray, drawn(scale.astype(np.float32)))
        np.testing.assert_allclose(trained, twin, rtol=0, atol=1e-4, err_msg=form)
        assert np.abs(twin - plain).max() > 1e-3, form


def test_what_is_not_defined_is_refused(subtests):
    for changes, message in [
        ({"skip": 0}, "skip is 0"),
        ({"skip": 1001}, "skip is 1001"),
        ({"tau": 0}, r"tau is 0: it must be in \(0, 1\]"),
        ({"tau": 1.5}, "tau is 1.5"),
        ({"form": "mine"}, "form is 'mine': it must be one of released, paper"),
        ({"schedule": schedules.rectified_flow()}, "preserves variance"),
        ({"schedule": schedules.zero_terminal_snr(LINEAR)}, "never comes to zero SNR"),
    ]:
        with subtests.test(message), pytest.raises(ValueError, match=message):
            skip_scale(**{"schedule": LINEAR} | changes)


def test_scales_may_be_traced():
    x = np.ones((2, 3), np.float32)
    point = Point(np.float32(10), np.float32(0.8), np.float32(0.6))

    def size(k):
        return jnp.square(denoisers.scale_eps(exact, k)(x, point).eps).sum()

    assert jax.jit(jax.grad(size))(0.9) > 0
