"""Time-shift: DDIM between levels that a picture's variance chooses."""

from functools import cache
from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import adaptive, grids, plans, schedules
from skipjax.evaluation.exact import low_rank
from skipjax.plans.pndm import ADAMS_BASHFORTH
from skipjax.sampling import integrate

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
slow = pytest.mark.slow
LINEAR = schedules.linear()
SCHEDULES = {"linear": LINEAR, "zero_terminal_snr": schedules.zero_terminal_snr(LINEAR)}
TIMES = grids.skipped(1000, 50)
S2 = 0.25  # variance of the data, alike in all of 4096 dimensions
PICTURE = (32, 32, 4)
WIDE = low_rank(np.zeros(4096), np.zeros((4096, 0)), [], S2)


def keys_of(num, seed=0):
    return jax.random.split(jax.random.key(seed), num)


def normal(num, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=(num, *PICTURE)).astype(dtype)


def shifted(x, keys, schedule="linear", times=TIMES, **settings):
    """What `adaptive.time_shift` says, compiled once for each way to ask."""
    settings = {"window": 20, "cutoff": 200, **settings}
    return _program(schedule, tuple(times), tuple(settings.items()))(x, keys)


@cache
def _program(schedule, times, settings):
    def run(x, keys):
        of = SCHEDULES[schedule], times, WIDE.denoise, x, keys
        return adaptive.time_shift(*of, **dict(settings))

    return jax.jit(run)


@jax.jit
def follow(plan, x, keys):
    return integrate(plan, WIDE.denoise, x, keys)


def coupled(x, t, window, data_variance=0.0):
    """The times that `adaptive.coupled` says, compiled once for each window."""
    return np.asarray(_coupled(window, data_variance)(x, t))


@cache
def _coupled(window, data_variance):
    settings = dict(window=window, data_variance=data_variance)
    return jax.jit(lambda x, t: adaptive.coupled(LINEAR, x, t, **settings))


def noisy(t, num=16, seed=1):
    """Pictures of level t, exactly of their law."""
    alpha, sigma = LINEAR.at(t)
    return np.float32(np.sqrt(alpha**2 * S2 + sigma**2) * normal(num, seed))


@pytest.mark.parametrize(
    ("eta", "end", "shift"),
    [
        (0.7, 3, "source"),
        pytest.param(0.7, 3, "target", marks=slow),
        (0.0, schedules.DATA, "target"),
        pytest.param(0.0, schedules.DATA, "source", marks=slow),
        pytest.param(1.0, schedules.DATA, "source", marks=slow),
        pytest.param(1.0, schedules.DATA, "target", marks=slow),
    ],
)
def test_with_window_0_it_is_ddim(eta, end, shift):
    x, keys = normal(2), keys_of(2)
    out = shifted(x, keys, eta=eta, end=end, shift=shift, window=0)
    expected = follow(plans.ddim(LINEAR, TIMES, eta, end=end), x, keys)
    np.testing.assert_allclose(out.x, expected, rtol=0, atol=3e-6)
    np.testing.assert_array_equal(out.source, np.stack([TIMES, TIMES], axis=1))
    np.testing.assert_array_equal(out.target[:, 0], [*TIMES[1:], end])


@pytest.mark.parametrize("order", [pytest.param(2, marks=slow), 4])
def test_with_window_0_and_predictions_to_look_back_at_it_is_ipndm(order):
    x, keys = normal(2), keys_of(2)
    out = shifted(x, keys, order=order, window=0)
    expected = follow(plans.ipndm(LINEAR, TIMES, order), x, keys)
    np.testing.assert_allclose(out.x, expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize(
    ("eta", "order", "shift"),
    [
        (0.7, 1, "source"),
        pytest.param(0.0, 1, "source", marks=slow),
        pytest.param(0.0, 3, "source", marks=slow),
        (0.0, 3, "target"),
        pytest.param(0.0, 1, "target", marks=slow),
        pytest.param(0.7, 1, "target", marks=slow),
    ],
)
def test_it_is_a_loop_over_steps_between_the_levels_chosen(eta, order, shift, float64):
    num, cutoff, times = 3, 300, grids.skipped(1000, 100)
    keys, x = keys_of(num), 1.1 * normal(num, 5, np.float64)
    settings = dict(window=60, data_variance=S2)
    out = shifted(
        x, keys, times=times, cutoff=cutoff, eta=eta, order=order, shift=shift, **settings
    )
    draw = jax.jit(lambda key, i: jax.random.normal(jax.random.fold_in(key, i), PICTURE))
    # One picture at a time, with DDIM's formulas as they are printed.
    for j in range(num):
        y, source, past = x[j], 999, []
        for i, (t, s) in enumerate(pairwise([*times.tolist(), schedules.DATA])):
            target = s
            if shift == "target":
                source = t
                if i and s > cutoff:
                    target = int(coupled(y[None], s, **settings)[0])
            assert (source, target) == (out.source[i, j], out.target[i, j])
            (alpha, sigma), (alpha_s, sigma_s) = LINEAR.at(source), LINEAR.at(target)
            past = [sigma * y / (alpha**2 * S2 + sigma**2), *past][:order]
            eps = sum(w * e for w, e in zip(ADAMS_BASHFORTH[len(past) - 1], past, strict=True))
            x_0 = (y - sigma * eps) / alpha
            std = eta * sigma_s * np.sqrt(max(1 - (alpha * sigma_s / (alpha_s * sigma)) ** 2, 0))
            z = np.asarray(draw(keys[j], i))
            y = alpha_s * x_0 + np.sqrt(sigma_s**2 - std**2) * eps + std * z
            source = s
            if shift == "source" and t > cutoff and s != schedules.DATA:
                source = int(coupled(y[None], s, **settings)[0])
        np.testing.assert_allclose(out.x[j], y, rtol=0, atol=1e-10)
    assert (np.asarray(out.source) != times[:, None]).any() == (shift == "source")


@pytest.mark.slow
def test_the_time_is_the_nearest_of_a_loop_over_the_window(subtests, float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 5, 5)) * rng.uniform(0.1, 1.2, (20, 1, 1))
    for data_variance in (0.0, S2):
        for window, t in [(10, 500), (11, 3), (60, 990), (0, 7), (1, 7)]:
            with subtests.test(f"window {window}, t {t}, data variance {data_variance}"):
                for picture, chosen in zip(x, coupled(x, t, window, data_variance), strict=True):
                    variance = picture.var(ddof=1)
                    near = range(t - window // 2, t + window // 2 + 1)
                    near = [tau for tau in near if 0 <= tau < 1000]
                    gaps = []
                    for tau in near:
                        alpha, sigma = LINEAR.at(tau)
                        gaps.append(abs(variance - alpha**2 * data_variance - sigma**2))
                    assert chosen == near[int(np.argmin(gaps))]


def test_pictures_may_have_windows_of_their_own():
    x, t = noisy(500, 3), np.array([300, 500, 700])
    together = coupled(x, t, 40)
    for i in range(3):
        assert together[i] == coupled(x, t[i], 40)[i]


def spread(t, dim=4096):
    """By how many times the variance of one picture of level t is wrong about t."""
    alpha, sigma = LINEAR.at(np.array([t - 1, t, t + 1]))
    expected = alpha**2 * S2 + sigma**2
    return expected[1] * np.sqrt(2 / dim) / ((expected[2] - expected[0]) / 2)


def test_pictures_of_the_right_variance_stay_where_they_are_but_for_chance():
    for t in (100, 200, 300):
        shift = coupled(noisy(t, 256), t, 100, S2) - t
        assert abs(shift.mean()) < 5 * spread(t) / np.sqrt(256), t
        assert 0.8 * spread(t) < shift.std() < 1.2 * spread(t), t


def test_what_the_docstring_says_of_chance_and_of_the_papers_criterion():
    times = [100, 200, 300, 400, 500, 600]
    chance = [spread(t, 3072) for t in times]
    np.testing.assert_allclose(chance, [6, 6, 10, 19, 41, 108], rtol=0, atol=0.6)
    alpha, sigma = LINEAR.at(np.array(times))
    papers = np.searchsorted(LINEAR.sigma**2, alpha**2 * S2 + sigma**2)
    np.testing.assert_allclose(papers - times, [94, 61, 44, 34, 28, 23], rtol=0, atol=1)


def test_the_papers_criterion_takes_levels_for_noisier_ones():
    papers = coupled(noisy(200, 64), 200, 300)
    assert abs(float(papers.mean()) - 261) < 5 * spread(200) / np.sqrt(64)


def test_an_exact_sampler_is_shifted_by_chance_alone_and_is_led_back():
    num, times = 64, np.arange(300, -1, -10)
    settings = dict(times=times, window=100, cutoff=50, data_variance=S2)
    out = shifted(noisy(300, num), keys_of(num), **settings)
    shift = np.asarray(out.source) - times[:, None]
    assert (abs(shift.mean(axis=1)) < 5 * spread(300) / np.sqrt(num)).all()
    assert np.abs(shift[10:25]).mean() < np.abs(shift[1]).mean() / 3
    np.testing.assert_allclose(np.var(out.x), S2, rtol=0.03)


def test_pictures_of_too_little_or_much_variance_are_taken_for_cleaner_or_noisier():
    settings = dict(times=np.array([320, 310]), window=200, data_variance=S2)
    for factor, sign in [(0.9, -1), (1.1, 1)]:
        out = shifted(np.float32(factor * noisy(320, 8)), keys_of(8), **settings)
        assert (sign * (np.asarray(out.source[1]) - 310) > 30).all(), factor


def test_source_shifts_the_call_after_a_step_from_above_the_cutoff():
    x, keys = normal(3), keys_of(3)
    out = shifted(x, keys, cutoff=499)
    np.testing.assert_array_equal(out.target[:, 0], [*TIMES[1:], -1])
    moved = (np.asarray(out.source) != TIMES[:, None]).any(axis=1)
    assert not moved[TIMES <= 449].any() and not moved[0]
    assert moved[(TIMES >= 499) & (TIMES < 999)].any()
    assert np.abs(np.asarray(out.source) - TIMES[:, None]).max() <= 10
    # What was told is what the rule makes of the x in between.
    half = shifted(x, keys, times=TIMES[:5], cutoff=499, end=int(TIMES[5]))
    told = coupled(half.x, int(TIMES[5]), 20)
    np.testing.assert_array_equal(out.source[5], told)


def test_target_shifts_where_a_step_goes_and_not_what_the_network_is_told():
    x, keys = normal(3), keys_of(3)
    out = shifted(x, keys, shift="target", cutoff=499)
    np.testing.assert_array_equal(out.source, np.stack(3 * [TIMES], axis=1))
    nominal = np.array([*TIMES[1:], -1])[:, None]
    moved = (np.asarray(out.target) != nominal).any(axis=1)
    assert not moved[0] and moved[1:9].all() and not moved[nominal[:, 0] <= 499].any()
    half = shifted(x, keys, shift="target", times=TIMES[:1], end=int(TIMES[1]))
    gone = coupled(half.x, int(TIMES[2]), 20)
    np.testing.assert_array_equal(out.target[1], gone)


@slow
@pytest.mark.parametrize("shift", ["source", "target"])
def test_a_picture_does_not_depend_on_its_batch(shift):
    x, keys = normal(5), keys_of(5)
    among = shifted(x, keys, eta=1.0, shift=shift)
    alone = shifted(x[2:3], keys[2:3], eta=1.0, shift=shift)
    np.testing.assert_array_equal(alone.source[:, 0], among.source[:, 2])
    np.testing.assert_allclose(alone.x[0], among.x[2], rtol=0, atol=1e-5)
    one = jax.vmap(lambda x, key: shifted(x[None], key[None], eta=1.0, shift=shift))(x, keys)
    np.testing.assert_array_equal(one.target[:, :, 0].T, among.target)
    np.testing.assert_allclose(one.x[:, 0], among.x, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("eta", "shift", "factor"),
    [
        pytest.param(0.0, "source", 0.5, marks=slow),
        (1.0, "source", 0.5),
        pytest.param(0.0, "target", 1.2, marks=slow),
        pytest.param(1.0, "target", 1.2, marks=slow),
    ],
)
def test_steps_that_lead_up_are_finite(eta, shift, factor):
    x, keys = np.float32(factor * normal(4)), keys_of(4)
    out = shifted(x, keys, eta=eta, shift=shift, window=400, cutoff=0)
    assert (np.asarray(out.source) < np.asarray(out.target)).any()
    chex.assert_tree_all_finite(out.x)


def test_zero_terminal_snr_is_left_by_its_x_0():
    x, keys, schedule = normal(2), keys_of(2), "zero_terminal_snr"
    out = shifted(x, keys, schedule=schedule, eta=0.5, data_variance=S2)
    chex.assert_tree_all_finite(out.x)
    with pytest.raises(ValueError, match="alpha is 0"):
        shifted(x, keys, schedule=schedule, order=2)


REFUSED = [
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
]


def test_what_does_not_fit_is_refused(subtests):
    for settings, message in REFUSED:
        settings = {"times": TIMES, "x": jnp.zeros((3, 4)), "window": 2, "cutoff": 0, **settings}
        x, times = settings.pop("x"), settings.pop("times")
        with subtests.test(message), pytest.raises(ValueError, match=message):
            adaptive.time_shift(LINEAR, times, WIDE.denoise, x, keys_of(3), **settings)
