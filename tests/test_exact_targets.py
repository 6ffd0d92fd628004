"""The exact targets: their denoisers, densities and draws, each against another way to them."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from denoised import at, denoised
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from skipjax.evaluation import exact

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
AXES, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 2)))
TARGETS = {
    "gaussian": exact.Gaussian([0.3, -0.5, 0.1], [[0.25, 0.1, 0], [0.1, 0.5, -0.2], [0, -0.2, 1]]),
    "low_rank": exact.low_rank(np.linspace(-1, 1, 6), AXES, [2.0, 0.5], 0.09),
    "mixture": exact.Mixture([0.5, 0.3, 0.2], [[1, 0.8], [-1.2, 0.6], [-0.5, -1]], [0.35, 0.1, 1]),
    "narrow": exact.Mixture([0.7, 0.3], [[1.0] * 5, [-0.5] * 5], 0.05),
}
LEVELS = [(0.02, 1.0), (0.6, 0.8), (0.99, 0.14), (1.0, 80.0), (1.0, 0.02)]
NOISE, NEAR_NOISE, DATA, NEAR_DATA = (0.0, 1.0), (1e-9, 1.0), (1.0, 0.0), (1.0, 1e-9)
ALL = (*LEVELS, NOISE, NEAR_NOISE, DATA, NEAR_DATA)
NUM = 16


def moments(target):
    """Mean and covariance of the data."""
    if isinstance(target, exact.Gaussian):
        return target.mean, target.cov
    mean = target.weights @ target.means
    off = target.means - mean
    spread = target.weights @ target.stds**2
    return mean, (off.T * target.weights) @ off + spread * np.eye(target.dim)


def points(target, level):
    """Some x of that level, and as many that are off the beaten track."""
    rng = np.random.default_rng(0)
    if isinstance(target, exact.Gaussian):
        x_0 = rng.multivariate_normal(target.mean, target.cov, NUM)
    else:
        k = rng.choice(len(target.weights), NUM, p=target.weights)
        x_0 = target.means[k] + target.stds[k][:, None] * rng.normal(size=(NUM, target.dim))
    x_0 = np.concatenate([x_0, x_0 + 0.3 * rng.normal(size=x_0.shape)])
    return level[0] * x_0 + level[1] * rng.normal(size=x_0.shape)


@partial(jax.jit, static_argnums=0)
def densities(target, x, alpha, sigma):
    """log p and its gradient, of x [L, B, ...] at a level each."""

    def of(x, *level):
        density, pull = jax.vjp(lambda x: target.log_density(x, *level), x)
        return density, pull(jnp.ones_like(density))[0]

    return jax.vmap(of)(x, alpha, sigma)


@cache
def everywhere(name):
    """Points of all levels [L, 32, D]; at the ends, noise."""
    of = [level if level in LEVELS else NOISE for level in ALL]
    return np.stack([points(TARGETS[name], level) for level in of])


@cache
def known(name):
    """Points of each level and what the target says of them: x, x_0, eps, log p, its gradient."""
    target, x, levels = TARGETS[name], everywhere(name), np.array(ALL).T
    with jax.enable_x64(True):
        said = *denoised(target.denoise, x, *levels), *densities(target, x, *levels)
    return dict(zip(ALL, zip(x, *map(np.asarray, said), strict=True), strict=True))


CASES = [(name, level) for name in TARGETS for level in LEVELS]


@pytest.mark.slow
def test_score_is_the_gradient_of_the_log_density(subtests):
    for name, level in CASES:
        with subtests.test(f"{name} {level}"):
            x, x_0, eps, _, score = known(name)[level]
            np.testing.assert_allclose(-eps / level[1], score, rtol=1e-9, atol=1e-10)
            # Tweedie: E[x_0 | x] = (x + sigma^2 score) / alpha.
            tweedie = (x + level[1] ** 2 * score) / level[0]
            np.testing.assert_allclose(x_0, tweedie, rtol=1e-9, atol=1e-8)


def test_denoiser_is_the_integral_over_the_data(float64):
    target = exact.Mixture([0.6, 0.4], [[0.8], [-0.5]], [0.3, 0.7])
    x_0 = np.linspace(-8, 8, 20_001)
    prior = sum(
        w * np.exp(-((x_0 - m) ** 2) / (2 * s**2)) / s
        for w, m, s in zip([0.6, 0.4], [0.8, -0.5], [0.3, 0.7], strict=True)
    )
    x = np.array([-2.0, -0.1, 0.4, 1.5])
    levels = np.array([(0.6, 0.8), (0.99, 0.14), (0.3, 5.0)])
    found = denoised(target.denoise, np.tile(x[None, :, None], (3, 1, 1)), *levels.T)
    for (alpha, sigma), ours, of_eps in zip(levels, *np.asarray(found)[..., 0], strict=True):
        weight = prior * np.exp(-((x[:, None] - alpha * x_0) ** 2) / (2 * sigma**2))
        expected = (weight * x_0).sum(axis=1) / weight.sum(axis=1)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-10, err_msg=str(alpha))
        expected = (x - alpha * expected) / sigma
        np.testing.assert_allclose(of_eps, expected, rtol=0, atol=1e-9, err_msg=str(alpha))


def test_log_densities_are_those_of_scipy(float64):
    for name, level in CASES:
        alpha, sigma = level
        target, (x, _, _, density, _) = TARGETS[name], known(name)[level]
        if isinstance(target, exact.Gaussian):
            cov = alpha**2 * target.cov + sigma**2 * np.eye(target.dim)
            expected = multivariate_normal(alpha * target.mean, cov).logpdf(x)
        else:
            parts = [
                multivariate_normal(alpha * m, (alpha * s) ** 2 + sigma**2).logpdf(x)
                for m, s in zip(target.means, target.stds, strict=True)
            ]
            joint = np.log(target.weights) + np.stack(parts, axis=1)
            expected = logsumexp(joint, axis=1)
            shares = np.exp(joint - expected[:, None])
            ours = responsibilities(target, x, *level)
            np.testing.assert_allclose(ours, shares, rtol=0, atol=1e-10, err_msg=f"{name} {level}")
        np.testing.assert_allclose(density, expected, rtol=1e-9, err_msg=f"{name} {level}")


@partial(jax.jit, static_argnums=0)
def responsibilities(target, x, alpha, sigma):
    return target.responsibilities(x, alpha, sigma)


def test_both_ends_are_the_limits(subtests):
    for name, target in TARGETS.items():
        with subtests.test(name):
            of = known(name)
            x, x_0, eps, *_ = of[NOISE]
            np.testing.assert_allclose(eps, x, rtol=0, atol=1e-14)
            mean, _ = moments(target)
            np.testing.assert_allclose(x_0, np.tile(mean, (len(x), 1)), rtol=0, atol=1e-12)
            np.testing.assert_allclose(x_0, of[NEAR_NOISE][1], rtol=0, atol=1e-6)
            x, x_0, eps, *_ = of[DATA]
            np.testing.assert_allclose(x_0, x, rtol=0, atol=1e-12)
            np.testing.assert_array_equal(eps, np.zeros_like(x))
            np.testing.assert_allclose(of[NEAR_DATA][2], 0, rtol=0, atol=1e-5)


def test_float32_keeps_its_digits(subtests, float64):
    for name, target in TARGETS.items():
        x, levels = everywhere(name).astype(np.float32), np.array(ALL).T
        single, double = (denoised(target.denoise, a, *levels) for a in (x, x.astype(np.float64)))
        assert all(part.dtype == jnp.float32 for part in single)
        for i, (_, sigma) in enumerate(LEVELS):
            with subtests.test(f"{name} {LEVELS[i]}"):
                (x_0, eps), theirs = ([np.asarray(m[i]) for m in of] for of in (single, double))
                np.testing.assert_allclose(x_0, theirs[0], rtol=0, atol=2e-4)
                size = 1 + np.abs(x[i]).max()
                np.testing.assert_allclose(eps, theirs[1], rtol=0, atol=2e-5 * size / sigma)


def test_far_from_all_data_nothing_overflows(float64):
    for name, target in TARGETS.items():
        x = np.full_like(everywhere(name), 1e4, np.float32)
        for part in denoised(target.denoise, x, *np.array(ALL).T):
            assert np.isfinite(part).all(), name


@pytest.mark.slow
def test_pictures_are_rows_in_another_shape_and_levels_one_per_point(subtests, float64):
    levels, each = (np.linspace(1, 0, 9), np.linspace(0.1, 1, 9)), np.arange(9)
    for name, target in TARGETS.items():
        with subtests.test(name):
            x = np.tile(points(target, (0.6, 0.8)), (9, 1, 1))
            pictures = x.reshape(9, 32, 1, target.dim, 1)
            rows, shown = (denoised(target.denoise, a, *levels) for a in (x, pictures))
            density, _ = densities(target, x, *levels)
            for ours, theirs in zip(shown, rows, strict=True):
                np.testing.assert_array_equal(ours, theirs.reshape(ours.shape))
            own = of_own_levels(target, pictures[each, each], *levels)
            for ours, theirs in zip(own[:2], rows, strict=True):
                ours, theirs = ours.reshape(9, -1), theirs[each, each]
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)
            np.testing.assert_allclose(own[2], density[each, each], rtol=1e-12)


@partial(jax.jit, static_argnums=0)
def of_own_levels(target, x, *level):
    level = [a.reshape(-1, 1, 1, 1) for a in level]
    return *target.denoise(x, at(*level))[:2], target.log_density(x, *level)


def test_draws_have_the_moments_of_the_target(subtests, float64):
    num, key = 200_000, jax.random.key(3)
    drawn = jax.jit(lambda key: {name: of.draw(key, num) for name, of in TARGETS.items()})(key)
    for name, target in TARGETS.items():
        with subtests.test(name):
            x, (mean, cov) = np.asarray(drawn[name], np.float64), moments(target)
            assert drawn[name].dtype == jnp.float32 and x.shape == (num, target.dim)
            std = np.sqrt(np.diag(cov))
            np.testing.assert_allclose((x.mean(axis=0) - mean) / std, 0, atol=5 / np.sqrt(num))
            np.testing.assert_allclose((np.cov(x.T) - cov) / np.outer(std, std), 0, atol=0.02)
            double = jax.eval_shape(lambda key, of=target: of.draw(key, 2, jnp.float64), key)
            assert double.dtype == jnp.float64


def test_densities_of_many_levels_integrate_to_one_each(float64):
    target = exact.Mixture([0.3, 0.7], [[1.0], [-1.0]], [0.2, 0.4])
    x, sigmas = np.linspace(-30, 30, 60_001)[:, None], np.array([0.05, 0.5, 3.0])
    logs = jax.jit(jax.vmap(target.log_density, (None, 0, 0)))(x, np.ones(3), sigmas)
    assert logs.shape == (3, 60_001)
    np.testing.assert_allclose(np.exp(logs).sum(axis=1) * 1e-3, 1, rtol=1e-9)


def test_low_rank_is_the_gaussian_of_its_covariance(float64):
    target, x = TARGETS["low_rank"], everywhere("low_rank")
    full = exact.Gaussian(target.mean, target.cov)
    for ours, theirs in zip(
        *(denoised(of.denoise, x, *np.array(ALL).T) for of in (target, full)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_data_on_a_plane_are_known_at_both_ends(float64):
    target = exact.low_rank(np.zeros(6), AXES, [2.0, 0.5], 0.0)
    x = np.asarray(jax.jit(lambda key: target.draw(key, 5, jnp.float64))(jax.random.key(0)))
    np.testing.assert_allclose(x - x @ AXES @ AXES.T, 0, atol=1e-12)
    off = x + 0.3 * (1 - x @ AXES @ AXES.T)
    x_0, eps = denoised(target.denoise, np.stack([x, off]), *np.array([DATA, (0.8, 0.6)]).T)
    np.testing.assert_allclose(x_0[0], x, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(eps[0], 0 * x)
    # Off the plane all is noise.
    assert np.abs(x_0[1] - x_0[1] @ AXES @ AXES.T).max() < 1e-12


NO_TARGETS = [
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
    (lambda: TARGETS["mixture"].denoise(np.float32([[0] * 3]), at(1, 1)), "dimension 2"),
    (lambda: TARGETS["gaussian"].log_density(np.float32([[0, 0]]), 1, 1), "dimension 3"),
]


def test_what_is_no_target_is_refused(subtests):
    for make, says in NO_TARGETS:
        with subtests.test(says), pytest.raises(ValueError, match=says):
            make()
