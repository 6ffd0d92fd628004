"""Langevin-Gibbs: the law of (x, sigma), and what becomes of it on the way down."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import adaptive, grids, plans, schedules
from skipjax.evaluation.exact import Gaussian, Mixture
from skipjax.sampling import integrate

LEVELS = schedules.variance_exploding(8, 0.5, 4.0)
ONE_LEVEL = schedules.Schedule(np.ones(1), np.full(1, 0.6))
TARGET = Mixture([0.3, 0.7], [[-2.0, 1.0], [2.0, 0.0]], [0.6, 0.8])
NUM = 20_000  # chains that tell a law


def density(target):
    return lambda x, sigma: target.log_density(x, 1.0, sigma)


def keys_of(num, seed=0):
    return jax.random.split(jax.random.key(seed), num)


def stationary(num, seed=1):
    """Chains that begin with the law p(x, sigma) itself."""
    rng = np.random.default_rng(seed)
    t, k = rng.integers(LEVELS.T, size=num), rng.choice(2, num, p=TARGET.weights)
    x = TARGET.means[k] + TARGET.stds[k][:, None] * rng.normal(size=(num, 2))
    x += LEVELS.sigma[t][:, None] * rng.normal(size=(num, 2))
    return adaptive.start(jnp.asarray(x, jnp.float32), t)


def moved(chain, keys, target=TARGET, **settings):
    return mover(target, *settings.items())(chain, keys)


@functools.cache
def mover(target, *settings):
    schedule = LEVELS if target is TARGET else ONE_LEVEL
    log_levels = adaptive.by_density(schedule, density(target))

    @jax.jit
    def run(chain, keys):
        return adaptive.langevin_gibbs(
            schedule, target.denoise, log_levels, chain, keys, **dict(settings)
        )

    return run


def moments(x, t):
    """What tells the law: levels, modes and moments of x given its level, each with its error."""
    x, t = np.asarray(x, np.float64), np.asarray(t)
    out = [(t == level) for level in range(LEVELS.T)]
    out += [x[:, 0] < 0, x[:, 0] * (t < 3), x[:, 1], x[:, 0] ** 2, x[:, 0] * x[:, 1], x[:, 1] ** 2]
    out += [(x[:, 0] < 0) & (t < 3), t * x[:, 0] ** 2]
    out = np.stack(out, axis=1).astype(np.float64)
    return out.mean(axis=0), out.std(axis=0) / np.sqrt(len(x))


@pytest.fixture(scope="module")
def exact():
    chain = stationary(400_000, seed=7)
    return moments(chain.x, chain.t)


def away(chain, exact):
    """How many standard errors each moment is from p(x, sigma)."""
    (ours, error), (theirs, floor) = moments(chain.x, chain.t), exact
    return np.abs(ours - theirs) / np.hypot(error, floor)


@pytest.fixture(scope="module")
def after():
    """Chains after 60 moves."""
    return moved(stationary(NUM), keys_of(NUM), num=60, eta=0.02)


def test_the_chain_keeps_the_law_of_pictures_and_levels(exact, after):
    assert away(after, exact).max() < 4.5


@pytest.mark.slow
def test_the_chain_finds_the_law_from_one_mode_alone(exact):
    begin = adaptive.start(jnp.full((NUM, 2), 2.0), 0)
    after = moved(begin, keys_of(NUM), num=600, eta=0.2)
    ours, theirs = moments(after.x, after.t)[0], exact[0]
    # The levels are eight, each visited an eighth of the time, and the modes .3 and .7 of data.
    np.testing.assert_allclose(ours[:8], 1 / 8, atol=0.012)
    np.testing.assert_allclose(ours[8:10], theirs[8:10], atol=0.02)


def test_the_likeliest_level_in_place_of_a_draw_is_another_law(exact):
    chain = moved(stationary(NUM), keys_of(NUM), num=60, eta=0.02, draw=False)
    assert away(chain, exact)[:8].max() > 50


@pytest.mark.parametrize("eta", [pytest.param(0.2, marks=pytest.mark.slow), 1.0])
def test_the_bias_of_uncorrected_langevin_is_that_of_its_step(eta):
    # Of one level, x <- (1 - eta / 2v) (x - mean) + sqrt(eta) z has variance v / (1 - eta / 4v).
    target, num = Gaussian([0.5], [[0.64]]), 100_000
    v = 0.64 + 0.36
    x = 0.5 + np.random.default_rng(2).normal(size=(num, 1))
    begin = adaptive.start(jnp.asarray(x, jnp.float32), 0)
    chain = moved(begin, keys_of(num), target, num=60, eta=eta)
    expected = v / (1 - eta / (4 * v))
    x = np.asarray(chain.x, np.float64)
    assert abs(x.var() - expected) < 5 * expected * np.sqrt(2 / num)
    assert abs(x.mean() - 0.5) < 5 * np.sqrt(expected / num)


@pytest.mark.slow
def test_the_bias_of_the_whole_chain_shrinks_with_eta(exact):
    num = 40_000
    biases = []
    for eta, moves in [(0.8, 40), (0.2, 80)]:
        chain = moved(stationary(num), keys_of(num), num=moves, eta=eta)
        biases.append(moments(chain.x, chain.t)[0][0] - exact[0][0])  # of the lowest level
    assert abs(biases[1]) < abs(biases[0]) / 2
    assert abs(biases[0]) > 0.005


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


def descended(x, t, schedule, denoise, steps):
    return jax.jit(lambda x, t: adaptive.descend(schedule, denoise, x, t, steps=steps))(x, t)


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


def test_the_chains_states_descend_to_the_data(after):
    drawn = np.asarray(descended(after.x, after.t, LEVELS, TARGET.denoise, 10), np.float64)
    weight = 0.3
    # sigma_min = .5 is not small beside the modes' widths: Tweedie's formula shrinks them.
    assert abs((drawn[:, 0] < 0).mean() - weight) < 0.02
    assert abs(drawn[:, 0].mean() - 0.8) < 0.06


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
