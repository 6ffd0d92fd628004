"""Langevin-Gibbs: single moves of a chain, and its way down to the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import LEVELS, TARGET, density, descended, keys_of, moved, stationary

from skipjax import adaptive, grids, plans, schedules
from skipjax.evaluation.exact import Gaussian
from skipjax.sampling import integrate

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")


@pytest.mark.slow
def test_a_chain_depends_on_its_key_alone_and_not_on_how_its_moves_are_divided():
    begin, keys = stationary(6), keys_of(6)
    whole = moved(begin, keys, num=12, eta=0.1)
    halves = moved(moved(begin, keys, num=5, eta=0.1), keys, num=7, eta=0.1)
    np.testing.assert_allclose(halves.x, whole.x, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(halves.t, whole.t)
    assert whole.moves == halves.moves == 12
    alone = jax.tree.map(lambda a: a[3:4] if a.ndim else a, begin)
    np.testing.assert_allclose(
        moved(alone, keys[3:4], num=12, eta=0.1).x[0], whole.x[3], atol=1e-5
    )
    one = jax.vmap(
        lambda x, t, key: moved(adaptive.start(x[None], t[None]), key[None], num=12, eta=0.1)
    )(begin.x, begin.t, keys)
    np.testing.assert_allclose(one.x[:, 0], whole.x, rtol=0, atol=1e-5)
    other = moved(begin, keys_of(6, 1), num=12, eta=0.1)
    assert (other.x != whole.x).all()


def test_noise_is_drawn_with_the_key_of_the_chain_and_twice_the_move():
    begin, keys, eta = stationary(50), keys_of(50), 0.1
    first = moved(begin, keys, num=1, eta=eta)
    sigma = jnp.float32(LEVELS.sigma)[begin.t][:, None]

    @jax.jit
    def step(x, sigma, keys, move):
        score = jax.grad(lambda x: TARGET.log_density(x, 1.0, sigma).sum())(x)
        draw = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 2 * move), (2,)))
        return x + eta / 2 * score + eta**0.5 * draw(keys)

    for move in (0, 1):
        expected = step(begin.x, sigma, keys, move)
        assert np.allclose(first.x, expected, rtol=0, atol=1e-5) == (move == 0)


def test_the_least_noisy_state_of_a_call_is_kept():
    begin, keys = stationary(50), keys_of(50)
    begin = begin._replace(t=jnp.zeros_like(begin.t), least_t=jnp.zeros_like(begin.t))
    visited, chain = [], begin
    for _ in range(6):
        chain = moved(chain, keys, num=1, eta=0.1)
        visited.append(chain)
    whole = moved(begin, keys, num=6, eta=0.1)
    t, x = (np.stack([getattr(c, part) for c in visited]) for part in "tx")
    latest = 5 - np.argmin(t[::-1], axis=0)
    np.testing.assert_array_equal(whole.least_t, t.min(axis=0))
    np.testing.assert_allclose(whole.least_x, x[latest, np.arange(50)], rtol=0, atol=1e-5)
    assert (whole.least_t > 0).any()  # where the chain began counts for nothing


def test_descending_is_heuns_plan_for_one_level_and_counts_its_calls(float64):
    schedule, steps, t = schedules.variance_exploding(50), 6, 40
    calls = []

    def denoise(x, point):
        jax.debug.callback(lambda: calls.append(1))
        return TARGET.denoise(x, point)

    x = schedule.sigma[t] * np.random.default_rng(0).normal(size=(3, 2))
    ours = descended(x, np.full(3, t), schedule, denoise, steps)
    jax.effects_barrier()
    assert len(calls) == 2 * steps - 1
    times = grids.karras(schedule, steps, start=t)
    plan = plans.heun(schedule, times)
    theirs = jax.jit(lambda x: integrate(plan, TARGET.denoise, x, keys_of(3)))(x)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_every_picture_descends_from_its_own_level(float64):
    target = Gaussian([0.3, -0.5], [[0.5, 0.1], [0.1, 0.3]])
    schedule = schedules.variance_exploding(50)
    t = np.array([0, 10, 30, 49])
    sigma = schedule.sigma[t]
    x = sigma[:, None] * np.random.default_rng(0).normal(size=(4, 2))
    ours = descended(x, t, schedule, target.denoise, 200)
    exact = [target.flow(x[i : i + 1], (1.0, sigma[i]))[0] for i in range(4)]
    np.testing.assert_allclose(ours, exact, rtol=0, atol=2e-3)
    tweedie = descended(x, t, schedule, target.denoise, 1)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(tweedie, exact, rtol=0, atol=2e-3)


def test_moves_that_are_none_are_refused():
    begin, keys = stationary(2), keys_of(2)
    for settings, message in [
        ({"num": 0}, "num is 0"),
        ({"eta": 0.0}, "eta is 0.0"),
        ({"eta": np.nan}, "eta is nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            moved(begin, keys, **{"num": 1, "eta": 0.1, **settings})


def test_other_processes_and_levels_are_refused():
    linear, chain = schedules.linear(), stationary(2)
    with pytest.raises(ValueError, match="variance-exploding"):
        adaptive.by_density(linear, density(TARGET))
    log_levels = adaptive.by_density(LEVELS, density(TARGET))
    settings = dict(num=1, eta=0.1)
    with pytest.raises(ValueError, match="variance-exploding"):
        adaptive.langevin_gibbs(linear, TARGET.denoise, log_levels, chain, keys_of(2), **settings)
    with pytest.raises(ValueError, match="variance-exploding"):
        adaptive.descend(linear, TARGET.denoise, chain.x, chain.t, steps=1)
    with pytest.raises(ValueError, match="steps is 0"):
        adaptive.descend(LEVELS, TARGET.denoise, chain.x, chain.t, steps=0)
    with pytest.raises(ValueError, match="rho is 0"):
        adaptive.descend(LEVELS, TARGET.denoise, chain.x, chain.t, steps=2, rho=0.0)
    with pytest.raises(ValueError, match="batch"):
        adaptive.start(jnp.zeros(2), 0)
