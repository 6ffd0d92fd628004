"""Time-shift: DDIM between levels that a picture's variance chooses."""

from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import adaptive, grids, plans, schedules
from skipjax.evaluation.exact import low_rank
from skipjax.plans.pndm import ADAMS_BASHFORTH
from skipjax.sampling import integrate, starting_noise

LINEAR = schedules.linear()
TIMES = grids.skipped(1000, 50)
S2 = 0.25  # variance of the data, alike in all of 4096 dimensions
PICTURE = (32, 32, 4)
WIDE = low_rank(np.zeros(4096), np.zeros((4096, 0)), [], S2)
each_shift = pytest.mark.parametrize("shift", ["source", "target"])


def keys_of(num, seed=0):
    return jax.random.split(jax.random.key(seed), num)


def shifted(x, keys, schedule=LINEAR, times=TIMES, denoise=WIDE.denoise, **settings):
    settings = {"window": 20, "cutoff": 200, **settings}

    @jax.jit
    def run(x, keys):
        return adaptive.time_shift(schedule, times, denoise, x, keys, **settings)

    return run(x, keys)


def noisy(t, num=16, seed=1):
    """Pictures of level t, exactly of their law."""
    alpha, sigma = LINEAR.at(t)
    z = jax.random.normal(jax.random.key(seed), (num, *PICTURE))
    return np.sqrt(alpha**2 * S2 + sigma**2) * z


@each_shift
@pytest.mark.parametrize(("eta", "end"), [(0.0, schedules.DATA), (0.7, 3), (1.0, schedules.DATA)])
def test_with_window_0_it_is_ddim(eta, end, shift):
    keys = keys_of(2)
    x = starting_noise(keys, PICTURE)
    out = shifted(x, keys, eta=eta, end=end, shift=shift, window=0)
    plan = plans.ddim(LINEAR, TIMES, eta, end=end)
    expected = jax.jit(lambda x: integrate(plan, WIDE.denoise, x, keys))(x)
    np.testing.assert_allclose(out.x, expected, rtol=0, atol=3e-6)
    np.testing.assert_array_equal(out.source, np.stack([TIMES, TIMES], axis=1))
    np.testing.assert_array_equal(out.target[:, 0], [*TIMES[1:], end])


@pytest.mark.parametrize("order", [2, 4])
def test_with_window_0_and_predictions_to_look_back_at_it_is_ipndm(order):
    keys = keys_of(2)
    x = starting_noise(keys, PICTURE)
    out = shifted(x, keys, order=order, window=0)
    plan = plans.ipndm(LINEAR, TIMES, order)
    expected = jax.jit(lambda x: integrate(plan, WIDE.denoise, x, keys))(x)
    np.testing.assert_allclose(out.x, expected, rtol=0, atol=3e-5)


@each_shift
@pytest.mark.parametrize(("eta", "order"), [(0.0, 1), (0.7, 1), (0.0, 3)])
def test_it_is_a_loop_over_steps_between_the_levels_chosen(eta, order, shift, float64):
    num, cutoff, times = 3, 300, grids.skipped(1000, 100)
    keys = keys_of(num)
    x = 1.1 * jax.random.normal(jax.random.key(5), (num, *PICTURE), jnp.float64)
    settings = dict(window=60, data_variance=S2)
    out = shifted(
        x, keys, times=times, cutoff=cutoff, eta=eta, order=order, shift=shift, **settings
    )
    # One picture at a time, with DDIM's formulas as they are printed.
    for j in range(num):
        y, source, past = np.asarray(x[j]), 999, []
        for i, (t, s) in enumerate(pairwise([*times.tolist(), schedules.DATA])):
            target = s
            if shift == "target":
                source = t
                if i and s > cutoff:
                    target = int(adaptive.coupled(LINEAR, jnp.asarray(y)[None], s, **settings)[0])
            assert (source, target) == (out.source[i, j], out.target[i, j])
            (alpha, sigma), (alpha_s, sigma_s) = LINEAR.at(source), LINEAR.at(target)
            past = [sigma * y / (alpha**2 * S2 + sigma**2), *past][:order]
            eps = sum(w * e for w, e in zip(ADAMS_BASHFORTH[len(past) - 1], past, strict=True))
            x_0 = (y - sigma * eps) / alpha
            std = eta * sigma_s * np.sqrt(max(1 - (alpha * sigma_s / (alpha_s * sigma)) ** 2, 0))
            z = jax.random.normal(jax.random.fold_in(keys[j], i), PICTURE, jnp.float64)
            y = alpha_s * x_0 + np.sqrt(sigma_s**2 - std**2) * eps + std * np.asarray(z)
            source = s
            if shift == "source" and t > cutoff and s != schedules.DATA:
                source = int(adaptive.coupled(LINEAR, jnp.asarray(y)[None], s, **settings)[0])
        np.testing.assert_allclose(out.x[j], y, rtol=0, atol=1e-10)
    assert (np.asarray(out.source) != times[:, None]).any() == (shift == "source")


@pytest.mark.parametrize("data_variance", [0.0, S2])
@pytest.mark.parametrize(("window", "t"), [(10, 500), (11, 3), (60, 990), (0, 7), (1, 7)])
def test_the_time_is_the_nearest_of_a_loop_over_the_window(window, t, data_variance, float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 5, 5)) * rng.uniform(0.1, 1.2, (20, 1, 1))
    settings = dict(window=window, data_variance=data_variance)
    ours = adaptive.coupled(LINEAR, jnp.asarray(x), t, **settings)
    for picture, chosen in zip(x, ours, strict=True):
        variance = picture.var(ddof=1)
        near = [tau for tau in range(t - window // 2, t + window // 2 + 1) if 0 <= tau < 1000]
        gaps = []
        for tau in near:
            alpha, sigma = LINEAR.at(tau)
            gaps.append(abs(variance - alpha**2 * data_variance - sigma**2))
        assert chosen == near[int(np.argmin(gaps))]


def test_pictures_may_have_windows_of_their_own():
    x = noisy(500, 3)
    t = jnp.array([300, 500, 700])
    together = adaptive.coupled(LINEAR, x, t, window=40)
    for i in range(3):
        assert together[i] == adaptive.coupled(LINEAR, x[i : i + 1], int(t[i]), window=40)[0]


def spread(t, dim=4096):
    """By how many times the variance of one picture of level t is wrong about t."""
    alpha, sigma = LINEAR.at(np.array([t - 1, t, t + 1]))
    expected = alpha**2 * S2 + sigma**2
    return expected[1] * np.sqrt(2 / dim) / ((expected[2] - expected[0]) / 2)


@pytest.mark.parametrize("t", [100, 200, 300])
def test_pictures_of_the_right_variance_stay_where_they_are_but_for_chance(t):
    found = adaptive.coupled(LINEAR, noisy(t, 256), t, window=100, data_variance=S2)
    shift = np.asarray(found) - t
    assert abs(shift.mean()) < 5 * spread(t) / np.sqrt(256)
    assert 0.8 * spread(t) < shift.std() < 1.2 * spread(t)


def test_what_the_docstring_says_of_chance_and_of_the_papers_criterion():
    times = [100, 200, 300, 400, 500, 600]
    chance = [spread(t, 3072) for t in times]
    np.testing.assert_allclose(chance, [6, 6, 10, 19, 41, 108], rtol=0, atol=0.6)
    alpha, sigma = LINEAR.at(np.array(times))
    papers = np.searchsorted(LINEAR.sigma**2, alpha**2 * S2 + sigma**2)
    np.testing.assert_allclose(papers - times, [94, 61, 44, 34, 28, 23], rtol=0, atol=1)


def test_the_papers_criterion_takes_levels_for_noisier_ones():
    papers = adaptive.coupled(LINEAR, noisy(200, 64), 200, window=300)
    assert abs(float(papers.mean()) - 261) < 5 * spread(200) / np.sqrt(64)


def test_an_exact_sampler_is_shifted_by_chance_alone_and_is_led_back():
    num, times = 64, np.arange(300, -1, -10)
    settings = dict(times=times, window=100, cutoff=50, data_variance=S2)
    out = shifted(noisy(300, num), keys_of(num), **settings)
    shift = np.asarray(out.source) - times[:, None]
    assert (abs(shift.mean(axis=1)) < 5 * spread(300) / np.sqrt(num)).all()
    assert np.abs(shift[10:25]).mean() < np.abs(shift[1]).mean() / 3
    np.testing.assert_allclose(np.var(out.x), S2, rtol=0.03)


@pytest.mark.parametrize(("factor", "sign"), [(0.9, -1), (1.1, 1)])
def test_pictures_of_too_little_or_much_variance_are_taken_for_cleaner_or_noisier(factor, sign):
    times = np.array([320, 310])
    settings = dict(times=times, window=200, data_variance=S2)
    out = shifted(factor * noisy(320, 8), keys_of(8), **settings)
    assert (sign * (np.asarray(out.source[1]) - 310) > 30).all()


def test_source_shifts_the_call_after_a_step_from_above_the_cutoff():
    keys = keys_of(3)
    x = starting_noise(keys, PICTURE)
    out = shifted(x, keys, cutoff=499)
    np.testing.assert_array_equal(out.target[:, 0], [*TIMES[1:], -1])
    moved = (np.asarray(out.source) != TIMES[:, None]).any(axis=1)
    assert not moved[TIMES <= 449].any() and not moved[0]
    assert moved[(TIMES >= 499) & (TIMES < 999)].any()
    assert np.abs(np.asarray(out.source) - TIMES[:, None]).max() <= 10
    # What was told is what the rule makes of the x in between.
    half = shifted(x, keys, times=TIMES[:5], cutoff=499, end=int(TIMES[5]))
    told = adaptive.coupled(LINEAR, half.x, int(TIMES[5]), window=20)
    np.testing.assert_array_equal(out.source[5], told)


def test_target_shifts_where_a_step_goes_and_not_what_the_network_is_told():
    keys = keys_of(3)
    x = starting_noise(keys, PICTURE)
    out = shifted(x, keys, shift="target", cutoff=499)
    np.testing.assert_array_equal(out.source, np.stack(3 * [TIMES], axis=1))
    nominal = np.array([*TIMES[1:], -1])[:, None]
    moved = (np.asarray(out.target) != nominal).any(axis=1)
    assert not moved[0] and moved[1:9].all() and not moved[nominal[:, 0] <= 499].any()
    half = shifted(x, keys, shift="target", times=TIMES[:1], end=int(TIMES[1]))
    gone = adaptive.coupled(LINEAR, half.x, int(TIMES[2]), window=20)
    np.testing.assert_array_equal(out.target[1], gone)


@pytest.mark.slow
@each_shift
def test_a_picture_does_not_depend_on_its_batch(shift):
    keys = keys_of(5)
    x = starting_noise(keys, PICTURE)
    among = shifted(x, keys, eta=1.0, shift=shift)
    alone = shifted(x[2:3], keys[2:3], eta=1.0, shift=shift)
    np.testing.assert_array_equal(alone.source[:, 0], among.source[:, 2])
    np.testing.assert_allclose(alone.x[0], among.x[2], rtol=0, atol=1e-5)
    one = jax.vmap(lambda x, key: shifted(x[None], key[None], eta=1.0, shift=shift))(x, keys)
    np.testing.assert_array_equal(one.target[:, :, 0].T, among.target)
    np.testing.assert_allclose(one.x[:, 0], among.x, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("shift", "factor"), [("source", 0.5), ("target", 1.2)])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_steps_that_lead_up_are_finite(eta, shift, factor):
    keys = keys_of(4)
    x = factor * starting_noise(keys, PICTURE)
    out = shifted(x, keys, eta=eta, shift=shift, window=400, cutoff=0)
    assert (np.asarray(out.source) < np.asarray(out.target)).any()
    chex.assert_tree_all_finite(out.x)


def test_zero_terminal_snr_is_left_by_its_x_0():
    schedule = schedules.zero_terminal_snr(LINEAR)
    keys = keys_of(2)
    x = starting_noise(keys, PICTURE)
    out = shifted(x, keys, schedule=schedule, eta=0.5, data_variance=S2)
    chex.assert_tree_all_finite(out.x)
    with pytest.raises(ValueError, match="alpha is 0"):
        shifted(x, keys, schedule=schedule, order=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": -1}, "window is -1"),
        ({"window": 2.5}, "window is 2.5"),
        ({"cutoff": 1001}, "cutoff is 1001"),
        ({"shift": "both"}, "'source' or 'target'"),
        ({"data_variance": -0.1}, "data_variance is -0.1"),
        ({"eta": 2.0}, "eta must be"),
        ({"order": 5}, "order is 5"),
        ({"times": [900.5, 100.0]}, "whole"),
        ({"times": [100, 900]}, "decrease"),
        ({"end": 60}, "end is 60"),
        ({"x": jnp.zeros(3)}, "batch"),
        ({"x": jnp.zeros((3, 1))}, "no variance"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    settings = {"times": TIMES, "x": jnp.zeros((3, 4)), "window": 2, "cutoff": 0, **settings}
    x, times = settings.pop("x"), settings.pop("times")
    with pytest.raises(ValueError, match=message):
        adaptive.time_shift(LINEAR, times, WIDE.denoise, x, keys_of(3), **settings)
