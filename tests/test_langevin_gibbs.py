"""Langevin-Gibbs: the law of (x, sigma)."""

import jax.numpy as jnp
import numpy as np
import pytest
from chains import LEVELS, TARGET, descended, keys_of, moved, stationary

from skipjax import adaptive
from skipjax.evaluation.exact import Gaussian

NUM = 20_000  # chains that tell a law


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


def test_the_chains_states_descend_to_the_data(after):
    drawn = np.asarray(descended(after.x, after.t, LEVELS, TARGET.denoise, 10), np.float64)
    weight = 0.3
    # sigma_min = .5 is not small beside the modes' widths: Tweedie's formula shrinks them.
    assert abs((drawn[:, 0] < 0).mean() - weight) < 0.02
    assert abs(drawn[:, 0].mean() - 0.8) < 0.06
