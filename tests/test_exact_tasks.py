"""A denoiser that errs, and the tasks that samplers are compared on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from denoised import at, denoised

from skipjax.denoisers import Prediction
from skipjax.evaluation import exact

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
RNG = np.random.default_rng(0)
# The last two are noise and data.
LEVELS = [(0.02, 1.0), (0.6, 0.8), (0.99, 0.14), (1.0, 80.0), (1.0, 0.02), (0.0, 1.0), (1.0, 0.0)]


def test_perturbed_errs_by_its_size_and_agrees_with_itself(float64):
    target = exact.Mixture([0.5, 0.5], np.random.default_rng(1).normal(size=(2, 8)), 0.3)
    x_0 = target.means[RNG.integers(2, size=32)] + 0.3 * RNG.normal(size=(32, 8))
    x = np.stack([a * x_0 + s * RNG.normal(size=x_0.shape) for a, s in LEVELS])
    x, levels = x.reshape(len(LEVELS), -1, 2, 2, 2), np.array(LEVELS)

    def says(denoise):
        return map(np.asarray, denoised(denoise, x, *levels.T))

    x_0, eps = says(exact.perturbed(target.denoise, 0.05))
    _, straight = says(target.denoise)
    alpha, sigma = levels.T[:, :, None, None, None, None]
    rms = np.sqrt(np.square(eps - straight).mean(axis=(2, 3, 4)))
    expected = np.tile(0.05 * (alpha / np.hypot(alpha, sigma)).reshape(-1, 1), rms.shape[1])
    np.testing.assert_allclose(rms, expected, rtol=1e-9)
    np.testing.assert_allclose(alpha * x_0 + sigma * eps, x, rtol=0, atol=1e-11)
    np.testing.assert_array_equal([*says(exact.perturbed(target.denoise, 0.05))][1], eps)
    _, other = says(exact.perturbed(target.denoise, 0.05, seed=1))
    assert np.abs(other - eps)[-1].max() > 0.01


def test_the_bias_is_not_noise_but_a_smooth_function(float64):
    denoise = exact.perturbed(lambda x, _: Prediction(0 * x, 0 * x), 1.0)
    x = np.random.default_rng(0).normal(size=(64, 6))

    @jax.jit
    def slopes(x):
        by_x = jax.jacfwd(lambda x: denoise(x[None], at(0.6, 0.8)).eps[0])
        along = jax.vmap(lambda a: denoise(x, at(jnp.cos(a), jnp.sin(a))).eps)
        return jax.vmap(by_x)(x), along(jnp.linspace(0, jnp.pi / 2, 201))

    slope, along = slopes(x)
    assert 0.1 < np.abs(slope).max() < 4
    assert 1e-3 < np.abs(np.diff(along, axis=0)).max() < 0.1


def test_tasks_are_the_same_in_every_call_and_named():
    tasks, again = exact.tasks(), exact.tasks()
    assert {"gaussian", "low_rank", "four_wide", "ten_narrow", "rare"} <= set(tasks)
    assert tasks["low_rank"].target.axes.shape == (1024, 16)
    assert tasks.keys() == again.keys()
    for name, task in tasks.items():
        numbers, same = vars(task.target), vars(again[name].target)
        for column in numbers.keys() - {"denoise"}:
            np.testing.assert_array_equal(numbers[column], same[column], err_msg=name)


@pytest.mark.slow
def test_tasks_draw_the_same_in_every_call_and_their_denoisers_agree_with_themselves(subtests):
    tasks, key = exact.tasks(), jax.random.key(0)
    for (name, task), again in zip(tasks.items(), exact.tasks().values(), strict=True):
        with subtests.test(name):
            draw, anew = (jax.jit(of.target.draw, static_argnums=1) for of in (task, again))
            ours = draw(key, 3)
            np.testing.assert_array_equal(anew(key, 3), ours)
            x_0, eps = denoised(task.denoise, ours[None], *np.float32([[0.6], [0.8]]))
            np.testing.assert_allclose(0.6 * x_0[0] + 0.8 * eps[0], ours, rtol=0, atol=3e-5)
