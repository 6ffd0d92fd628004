"""The exact targets: their denoisers, densities and draws, each against another way to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from skipjax.denoisers import Point, Prediction
from skipjax.evaluation import exact

AXES, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 2)))
TARGETS = {
    "gaussian": exact.Gaussian([0.3, -0.5, 0.1], [[0.25, 0.1, 0], [0.1, 0.5, -0.2], [0, -0.2, 1]]),
    "low_rank": exact.low_rank(np.linspace(-1, 1, 6), AXES, [2.0, 0.5], 0.09),
    "mixture": exact.Mixture([0.5, 0.3, 0.2], [[1, 0.8], [-1.2, 0.6], [-0.5, -1]], [0.35, 0.1, 1]),
    "narrow": exact.Mixture([0.7, 0.3], [[1.0] * 5, [-0.5] * 5], 0.05),
}
every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
LEVELS = [(0.02, 1.0), (0.6, 0.8), (0.99, 0.14), (1.0, 80.0), (1.0, 0.02)]
every_level = pytest.mark.parametrize("level", LEVELS, ids=str)


def points(target, level, num=16):
    """Some x of that level, and as many that are off the beaten track."""
    alpha, sigma = level
    near, far, eps = jax.random.split(jax.random.key(0), 3)
    x_0 = target.draw(near, num, jnp.float64)
    x_0 = jnp.concatenate([x_0, x_0 + 0.3 * jax.random.normal(far, x_0.shape)])
    return alpha * x_0 + sigma * jax.random.normal(eps, x_0.shape)


def at(level):
    return Point(jnp.nan, *level)


def run(denoise, x, level):
    return jax.jit(denoise)(x, at(level))


@every_target
@every_level
def test_score_is_the_gradient_of_the_log_density(target, level, float64):
    x = points(target, level)
    score = jax.jit(jax.grad(lambda x: target.log_density(x, *level).sum()))(x)
    x_0, eps, *_ = run(target.denoise, x, level)
    np.testing.assert_allclose(-eps / level[1], score, rtol=1e-9, atol=1e-10)
    # Tweedie: E[x_0 | x] = (x + sigma^2 score) / alpha.
    tweedie = (x + level[1] ** 2 * score) / level[0]
    np.testing.assert_allclose(x_0, tweedie, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("level", [(0.6, 0.8), (0.99, 0.14), (0.3, 5.0)], ids=str)
def test_denoiser_is_the_integral_over_the_data(level, float64):
    alpha, sigma = level
    target = exact.Mixture([0.6, 0.4], [[0.8], [-0.5]], [0.3, 0.7])
    x_0 = np.linspace(-8, 8, 20_001)
    prior = sum(
        w * np.exp(-((x_0 - m) ** 2) / (2 * s**2)) / s
        for w, m, s in zip([0.6, 0.4], [0.8, -0.5], [0.3, 0.7], strict=True)
    )
    x = np.array([-2.0, -0.1, 0.4, 1.5])
    weight = prior * np.exp(-((x[:, None] - alpha * x_0) ** 2) / (2 * sigma**2))
    expected = (weight * x_0).sum(axis=1) / weight.sum(axis=1)
    prediction = target.denoise(jnp.asarray(x)[:, None], at(level))
    np.testing.assert_allclose(prediction.x_0[:, 0], expected, rtol=0, atol=1e-10)
    of_eps = (x - alpha * expected) / sigma
    np.testing.assert_allclose(prediction.eps[:, 0], of_eps, rtol=0, atol=1e-9)


@every_level
def test_log_densities_are_those_of_scipy(level, float64):
    alpha, sigma = level
    for name in ("gaussian", "low_rank"):
        target = TARGETS[name]
        cov = alpha**2 * target.cov + sigma**2 * np.eye(target.dim)
        x = points(target, level)
        expected = multivariate_normal(alpha * target.mean, cov).logpdf(x)
        np.testing.assert_allclose(target.log_density(x, *level), expected, rtol=1e-9)
    target = TARGETS["mixture"]
    x = points(target, level)
    parts = [
        multivariate_normal(alpha * m, (alpha * s) ** 2 + sigma**2).logpdf(x)
        for m, s in zip(target.means, target.stds, strict=True)
    ]
    joint = np.log(target.weights) + np.stack(parts, axis=1)
    expected = logsumexp(joint, axis=1)
    np.testing.assert_allclose(target.log_density(x, *level), expected, rtol=1e-9)
    shares = np.exp(joint - expected[:, None])
    np.testing.assert_allclose(target.responsibilities(x, *level), shares, rtol=0, atol=1e-10)


@every_target
def test_both_ends_are_the_limits(target, float64):
    x = points(target, (0.0, 1.0))
    noise, nearly = (run(target.denoise, x, (a, 1.0)) for a in (0.0, 1e-9))
    np.testing.assert_allclose(noise.eps, x, rtol=0, atol=1e-14)
    gaussian = isinstance(target, exact.Gaussian)
    mean = target.mean if gaussian else target.weights @ target.means
    np.testing.assert_allclose(noise.x_0, np.tile(mean, (len(x), 1)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(noise.x_0, nearly.x_0, rtol=0, atol=1e-6)
    data, nearly = (run(target.denoise, x, (1.0, s)) for s in (0.0, 1e-9))
    np.testing.assert_allclose(data.x_0, x, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(data.eps, jnp.zeros_like(x))
    np.testing.assert_allclose(nearly.eps, 0, rtol=0, atol=1e-5)


@every_target
@every_level
def test_float32_keeps_its_digits(target, level, float64):
    x = points(target, level).astype(jnp.float32)
    single, double = (run(target.denoise, x.astype(d), level) for d in (jnp.float32, jnp.float64))
    assert single.x_0.dtype == single.eps.dtype == jnp.float32
    size = 1 + jnp.abs(x).max()
    np.testing.assert_allclose(single.x_0, double.x_0, rtol=0, atol=2e-4)
    np.testing.assert_allclose(single.eps, double.eps, rtol=0, atol=2e-5 * size / level[1])


@every_target
def test_far_from_all_data_nothing_overflows(target):
    x = jnp.full((1, target.dim), 1e4)
    for level in (*LEVELS, (0.0, 1.0), (1.0, 0.0)):
        assert all(jnp.isfinite(part).all() for part in target.denoise(x, at(level))[:2])


@every_target
def test_pictures_are_rows_in_another_shape_and_levels_one_per_point(target, float64):
    x = points(target, (0.6, 0.8))[:6]
    rows = target.denoise(x, at((0.6, 0.8)))
    shape = (6, 1, target.dim, 1)
    pictures = target.denoise(x.reshape(shape), at((0.6, 0.8)))
    np.testing.assert_array_equal(pictures.x_0, rows.x_0.reshape(shape))
    np.testing.assert_array_equal(pictures.eps, rows.eps.reshape(shape))
    alpha, sigma = jnp.linspace(1, 0, 6), jnp.linspace(0.1, 1, 6)
    levels = at((alpha.reshape(6, 1, 1, 1), sigma.reshape(6, 1, 1, 1)))
    each = target.denoise(x.reshape(shape), levels)
    density = target.log_density(x.reshape(shape), levels.alpha, levels.sigma)
    for i in range(6):
        alone = run(target.denoise, x[i : i + 1], (alpha[i], sigma[i]))
        np.testing.assert_allclose(each.x_0[i].ravel(), alone.x_0[0], rtol=0, atol=1e-13)
        np.testing.assert_allclose(each.eps[i].ravel(), alone.eps[0], rtol=0, atol=1e-13)
        lone = target.log_density(x[i : i + 1], alpha[i], sigma[i])
        np.testing.assert_allclose(density[i], lone[0], rtol=1e-12)


@every_target
def test_draws_have_the_moments_of_the_target(target, float64):
    num = 200_000
    x = np.asarray(target.draw(jax.random.key(3), num), np.float64)
    if isinstance(target, exact.Gaussian):
        mean, cov = target.mean, target.cov
    else:
        mean = target.weights @ target.means
        off = target.means - mean
        spread = target.weights @ target.stds**2
        cov = (off.T * target.weights) @ off + spread * np.eye(target.dim)
    assert x.shape == (num, target.dim)
    assert target.draw(jax.random.key(3), 2, jnp.float64).dtype == jnp.float64
    std = np.sqrt(np.diag(cov))
    np.testing.assert_allclose((x.mean(axis=0) - mean) / std, 0, atol=5 / np.sqrt(num))
    np.testing.assert_allclose((np.cov(x.T) - cov) / np.outer(std, std), 0, atol=0.02)


def test_densities_of_many_levels_integrate_to_one_each(float64):
    target = exact.Mixture([0.3, 0.7], [[1.0], [-1.0]], [0.2, 0.4])
    sigmas = jnp.array([0.05, 0.5, 3.0])
    x = jnp.linspace(-30, 30, 60_001)[:, None]
    logs = jax.vmap(target.log_density, (None, 0, 0))(x, jnp.ones(3), sigmas)
    assert logs.shape == (3, 60_001)
    np.testing.assert_allclose(jnp.exp(logs).sum(axis=1) * 1e-3, 1, rtol=1e-9)


def test_low_rank_is_the_gaussian_of_its_covariance(float64):
    target = TARGETS["low_rank"]
    full = exact.Gaussian(target.mean, target.cov)
    for level in (*LEVELS, (0.0, 1.0), (1.0, 0.0)):
        x = points(target, level)
        ours, theirs = target.denoise(x, at(level)), full.denoise(x, at(level))
        np.testing.assert_allclose(ours.x_0, theirs.x_0, rtol=0, atol=1e-12)
        np.testing.assert_allclose(ours.eps, theirs.eps, rtol=0, atol=1e-12)


def test_data_on_a_plane_are_known_at_both_ends(float64):
    target = exact.low_rank(np.zeros(6), AXES, [2.0, 0.5], 0.0)
    x = target.draw(jax.random.key(0), 5, jnp.float64)
    np.testing.assert_allclose(x - x @ AXES @ AXES.T, 0, atol=1e-12)
    data = target.denoise(x, at((1.0, 0.0)))
    np.testing.assert_allclose(data.x_0, x, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(data.eps, 0 * x)
    # Off the plane all is noise.
    off = target.denoise(x + 0.3 * (1 - x @ AXES @ AXES.T), at((0.8, 0.6)))
    assert np.abs(off.x_0 - off.x_0 @ AXES @ AXES.T).max() < 1e-12


def test_perturbed_errs_by_its_size_and_agrees_with_itself(float64):
    target = exact.Mixture([0.5, 0.5], np.random.default_rng(1).normal(size=(2, 8)), 0.3)
    denoise = exact.perturbed(target.denoise, 0.05)
    for alpha, sigma in (*LEVELS, (0.0, 1.0), (1.0, 0.0)):
        x = points(target, (alpha, sigma)).reshape(-1, 2, 2, 2)
        bent, straight = (d(x, at((alpha, sigma))) for d in (denoise, target.denoise))
        rms = jnp.sqrt(jnp.square(bent.eps - straight.eps).mean(axis=(1, 2, 3)))
        np.testing.assert_allclose(rms, 0.05 * alpha / np.hypot(alpha, sigma), rtol=1e-9)
        np.testing.assert_allclose(alpha * bent.x_0 + sigma * bent.eps, x, rtol=0, atol=1e-11)
    again = exact.perturbed(target.denoise, 0.05)(x, at((1.0, 0.0)))
    np.testing.assert_array_equal(again.eps, bent.eps)
    other = exact.perturbed(target.denoise, 0.05, seed=1)(x, at((1.0, 0.0)))
    assert np.abs(other.eps - bent.eps).max() > 0.01


def test_the_bias_is_not_noise_but_a_smooth_function(float64):
    denoise = exact.perturbed(lambda x, _: Prediction(0 * x, 0 * x), 1.0)
    x = jax.random.normal(jax.random.key(0), (64, 6))
    slope = jax.vmap(jax.jacfwd(lambda x: denoise(x[None], at((0.6, 0.8))).eps[0]))(x)
    assert 0.1 < jnp.abs(slope).max() < 4
    along = jax.vmap(lambda a: denoise(x, at((jnp.cos(a), jnp.sin(a)))).eps)
    turns = jnp.diff(along(jnp.linspace(0, jnp.pi / 2, 201)), axis=0)
    assert 1e-3 < jnp.abs(turns).max() < 0.1


@pytest.mark.slow
def test_tasks_are_the_same_in_every_call_and_named():
    tasks = exact.tasks()
    assert {"gaussian", "low_rank", "four_wide", "ten_narrow", "rare"} <= set(tasks)
    for (name, task), again in zip(tasks.items(), exact.tasks().values(), strict=True):
        key = jax.random.key(0)
        ours = task.target.draw(key, 3)
        np.testing.assert_array_equal(ours, again.target.draw(key, 3), err_msg=name)
        x_0, eps, *_ = run(task.denoise, ours, (0.6, 0.8))
        np.testing.assert_allclose(0.6 * x_0 + 0.8 * eps, ours, rtol=0, atol=3e-5)
    assert tasks["low_rank"].target.axes.shape == (1024, 16)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: exact.Gaussian([0.0], np.eye(2)), r"mean has shape \(1,\) and cov \(2, 2\)"),
        (lambda: exact.Gaussian([], np.eye(0)), r"expected \[D\] and \[D, D\], D >= 1"),
        (lambda: exact.Gaussian([0.0, 0.0], [[1, 1], [0, 1]]), "not symmetric"),
        (lambda: exact.Gaussian([0.0, 0.0], [[1, 2], [2, 1]]), "smallest variance is -1"),
        (lambda: exact.Gaussian([0.0], [[np.nan]]), "not symmetric, or not finite"),
        (lambda: exact.low_rank(np.zeros(6), AXES[:5], [1, 1], 0.1), r"expected \[D\], \[D, R\]"),
        (lambda: exact.low_rank(np.zeros(6), 2 * AXES, [1, 1], 0.1), "not orthonormal"),
        (lambda: exact.low_rank(np.zeros(6), AXES, [1, 1], -0.1), "smallest variance is -0.1"),
        (lambda: exact.Mixture([0.5, 0.5], np.zeros((3, 2)), 1.0), r"means \(3, 2\)"),
        (lambda: exact.Mixture([0.5, 0.5], np.zeros((2, 2)), [1, 1, 1]), r"stds \(3,\)"),
        (lambda: exact.Mixture([0.5, 0.6], np.zeros((2, 2)), 1.0), "of sum 1"),
        (lambda: exact.Mixture([1.0, 0.0], np.zeros((2, 2)), 1.0), "> 0 of sum 1"),
        (lambda: exact.Mixture([0.5, 0.5], np.zeros((2, 2)), 0.0), "stds are 0.0"),
        (lambda: exact.perturbed(lambda x, p: None, -0.1), "size is -0.1"),
        (lambda: exact.perturbed(lambda x, p: None, np.nan), "size is nan"),
        (lambda: TARGETS["mixture"].denoise(jnp.zeros((4, 3)), at((1, 1))), "dimension 2"),
        (lambda: TARGETS["gaussian"].log_density(jnp.zeros((4, 2)), 1, 1), "dimension 3"),
    ],
)
def test_what_is_no_target_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
