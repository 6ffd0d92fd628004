"""DPM-Solver-12 and -23: as accurate as asked for, and every call counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stepping import FORMS, LINEAR, PAIR, SCHEDULES, TARGET, follow, noise, one_step, solve
from tables import padded

from skipjax import adaptive, schedules
from skipjax.adaptive import levels
from skipjax.denoisers import Point, Prediction
from skipjax.evaluation.exact import Mixture, reference

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
slow = pytest.mark.slow
START, DATA = tuple(map(float, LINEAR.at(999))), tuple(map(float, LINEAR.at(0)))


def forms(*quick):
    """All forms, of which some are for the quick suite."""
    return pytest.mark.parametrize(
        ("order", "space"),
        [pytest.param(*form, marks=() if form in quick else slow) for form in FORMS],
    )


@forms((3, "eps"), (2, "x_0"))
def test_error_falls_with_the_tolerance_down_to_the_closed_form(order, space, float64):
    x = noise(4, dtype=np.float64)
    exact = TARGET.flow(x, START, DATA)
    errors, calls = [], []
    for tolerance in [1e-2, 1e-3, 1e-4, 1e-5]:
        settings = dict(order=order, space=space, rtol=tolerance, atol=tolerance / 10)
        out = solve(x, **settings, max_nfe=3000)
        assert out.done.all()
        assert (out.nfe == order * (out.accepted + out.rejected)).all()
        errors.append(np.sqrt(np.mean((np.asarray(out.x) - exact) ** 2)))
        calls.append(int(out.nfe.max()))
    # What is allowed is allowed per step; the steps' errors add up, and theirs is the lower order.
    assert (np.array(errors) < [1e-2, 1e-3, 1e-4, 1e-5]).all()
    assert (np.diff(errors) < 0).all() and (np.diff(calls) > 0).all()


@pytest.mark.parametrize(
    ("schedule", "order", "space"),
    [
        ("variance_exploding", 2, "eps"),
        pytest.param("variance_exploding", 3, "x_0", marks=slow),
        pytest.param("rectified_flow", 2, "eps", marks=slow),
        pytest.param("rectified_flow", 3, "x_0", marks=slow),
    ],
)
def test_other_processes_take_the_same_steps(schedule, order, space, float64):
    x, other = noise(3, dtype=np.float64), SCHEDULES[schedule]
    settings = dict(order=order, space=space, rtol=1e-2)
    ours = solve(x, start=900, end=10, **settings)
    start, end = (float(other.time(LINEAR.log_snr(t))) for t in (900, 10))
    scale = other.at(start)[0] / LINEAR.at(900)[0]
    theirs = solve(x * scale, schedule=schedule, start=start, end=end, **settings)
    np.testing.assert_array_equal(theirs.nfe, ours.nfe)
    expected = ours.x / LINEAR.at(10)[0] * other.at(end)[0]
    np.testing.assert_allclose(theirs.x, expected, rtol=0, atol=1e-9)


def one_try(order, space):
    """What two orders say of a step, and what is made of it with some tolerance and tries."""
    start, h = 700, 1.0
    first = LINEAR.log_snr(start)
    end = float(LINEAR.time(first + h))
    x = noise(1, dtype=np.float64)
    pair = one_step(order, space, "linear", start, end)
    low, high = (np.asarray(follow(padded(plan, 3, history=3), x)) for plan in pair)

    def tried(atol, tries, rtol=0.0):
        settings = dict(order=order, space=space, start=start, end=end, max_nfe=order * tries)
        out = solve(x, atol=atol, rtol=rtol, h=h, **settings)
        return out, (out.accepted[0], out.rejected[0])

    error = np.sqrt(np.mean((high - low) ** 2))
    # What is relative is so to the larger of x_low and x.
    relative = np.sqrt(np.mean(((high - low) / np.maximum(np.abs(low), np.abs(x))) ** 2))
    # Refused for twice the error allowed, it is shortened, and taken.
    second, steps = tried(error / 2, 2)
    assert steps == (1, 1)
    np.testing.assert_allclose(second.log_snr[0] - first, 0.9 * h * 2 ** (-1 / order), rtol=1e-9)
    return x, high, tried, error, relative


def test_a_step_is_taken_if_the_two_orders_agree_and_else_one_as_long_as_it_should(float64):
    _, high, tried, error, relative = one_try(3, "x_0")
    taken, steps = tried(1.001 * error, 2)
    assert steps == (1, 0)
    np.testing.assert_allclose(taken.x, high, rtol=0, atol=1e-12)
    assert tried(0.999 * error, 2)[1] == (1, 1)
    assert tried(1e-9, 2, 1.001 * relative)[1] == (1, 0)
    assert tried(1e-9, 2, 0.999 * relative)[1] == (1, 1)


@slow
@pytest.mark.parametrize(("order", "space"), FORMS)
def test_a_step_that_is_not_taken_leaves_the_picture_as_it_is(order, space, float64):
    x, high, tried, error, relative = one_try(order, space)
    (taken, steps), (refused, none) = tried(1.001 * error, 1), tried(0.999 * error, 1)
    assert (steps, none) == ((1, 0), (0, 1))
    np.testing.assert_allclose(taken.x, high, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(refused.x, x)
    assert tried(1e-9, 1, 1.001 * relative)[1] == (1, 0)
    assert tried(1e-9, 1, 0.999 * relative)[1] == (0, 1)


@pytest.mark.slow
def test_levels_inside_a_program_are_those_of_the_schedule(subtests, float64):
    x = np.zeros((50, 2, 2))
    for name, schedule in SCHEDULES.items():
        with subtests.test(name):
            times = np.random.default_rng(0).uniform(0, schedule.T - 2, 50)
            at = jax.jit(levels.between(schedule, jnp.float64))(schedule.log_snr(times), x)
            alpha, sigma = schedule.at(times)
            np.testing.assert_allclose(at.t, times, rtol=0, atol=1e-7)
            np.testing.assert_allclose(at.alpha[:, 0, 0], alpha, rtol=1e-10)
            np.testing.assert_allclose(at.sigma[:, 0, 0], sigma, rtol=1e-10)


def asked(**settings):
    """A solution, and what the network was told at each call."""
    seen = []

    def denoise(x, point):
        jax.debug.callback(lambda *parts: seen.append(parts), *point)
        return PAIR.denoise(x, point)

    out = jax.block_until_ready(solve(noise(6, 2), denoise, **settings))
    jax.effects_barrier()
    return out, seen


def test_the_network_is_told_the_time_and_level_of_each_picture():
    out, seen = asked(end=1.5, h=1.0)
    assert len(seen) == out.nfe.max() and (out.rejected > 0).any()
    assert any(len(np.unique(t)) == 6 for t, _, _ in seen)
    for t, alpha, sigma in seen:
        expected = LINEAR.at(np.clip(np.asarray(t, np.float64), 1.5, 999))
        np.testing.assert_allclose(alpha[:, 0], expected[0], rtol=1e-5)
        np.testing.assert_allclose(sigma[:, 0], expected[1], rtol=1e-5)


@slow
@pytest.mark.parametrize("end", [0, schedules.DATA])
@pytest.mark.parametrize("order", [2, 3])
def test_nfe_is_the_number_of_calls_rejected_steps_included(order, end):
    out, seen = asked(order=order, end=end, h=1.0)
    assert out.done.all() and (out.rejected > 0).any()
    assert (out.nfe == order * (out.accepted + out.rejected) + (end == schedules.DATA)).all()
    assert len(seen) == out.nfe.max()


@slow
def test_a_hard_target_asks_for_more_calls_than_an_easy_one():
    easy = solve(noise(8, 2), Mixture([1.0], [[0.0, 0.0]], 1.0).denoise, atol=1e-4)
    hard = solve(noise(8, 2), PAIR.denoise, atol=1e-4)
    assert (hard.rejected > 0).all() and hard.nfe.sum() > easy.nfe.sum()


@pytest.mark.slow
def test_a_picture_does_not_depend_on_its_batch_unless_told_to_share_steps(float64):
    x, others = noise(6, 2, dtype=np.float64), noise(6, 2, seed=1, dtype=np.float64)
    among = solve(x, PAIR.denoise)
    for i in (0, 3, 5):
        others[i] = x[i]
    elsewhere = solve(others, PAIR.denoise)
    for i in (0, 3, 5):
        np.testing.assert_allclose(elsewhere.x[i], among.x[i], rtol=0, atol=1e-12)
        assert elsewhere.nfe[i] == among.nfe[i] and elsewhere.rejected[i] == among.rejected[i]
    assert len(set(np.asarray(among.nfe).tolist())) > 1
    shared = solve(x, PAIR.denoise, together=True)
    assert len(set(np.asarray(shared.nfe).tolist())) == 1 and shared.done.all()
    assert shared.nfe[0] > among.nfe.min()


@slow
def test_a_picture_alone_is_what_it_is_among_others(float64):
    x = noise(6, 2, dtype=np.float64)
    among = solve(x, PAIR.denoise)
    for i in (0, 3, 5):
        alone = solve(x[i : i + 1], PAIR.denoise)
        np.testing.assert_allclose(alone.x[0], among.x[i], rtol=0, atol=1e-12)
        assert alone.nfe[0] == among.nfe[i] and alone.rejected[0] == among.rejected[i]
    one = jax.jit(jax.vmap(lambda x: adaptive.dpm(LINEAR, PAIR.denoise, x[None])))(x)
    np.testing.assert_allclose(one.x[:, 0], among.x, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(one.nfe[:, 0], among.nfe)


@pytest.mark.parametrize("order", [pytest.param(2, marks=slow), 3])
def test_float32_at_the_default_tolerance_comes_near_the_flow(order):
    x = noise(16, 2)
    exact = reference(PAIR.denoise, x, START, DATA)
    out = solve(x, PAIR.denoise, **({} if order == 3 else {"order": order}))
    assert out.x.dtype == jnp.float32 and out.done.all()
    assert np.sqrt(np.mean((out.x - exact) ** 2)) < 0.06
    np.testing.assert_allclose(out.log_snr, LINEAR.log_snr(0), rtol=1e-6)


def test_ending_at_the_data_is_what_was_predicted_at_time_0():
    x = noise(16, 2)
    before, after = (solve(x, PAIR.denoise, **end) for end in ({}, {"end": schedules.DATA}))
    point = Point(*map(jnp.asarray, (0.0, *LINEAR.at(0))))
    expected = jax.jit(PAIR.denoise)(before.x, point).x_0
    np.testing.assert_allclose(after.x, expected, rtol=0, atol=1e-5)
    assert (after.nfe == before.nfe + 1).all() and np.isposinf(after.log_snr).all()


@pytest.mark.parametrize("num", [pytest.param(9, marks=slow), 10])
def test_calls_run_out_with_a_picture_not_done(num):
    out = solve(noise(3), max_nfe=num, end=schedules.DATA if num > 9 else 0)
    assert not out.done.any() and (out.nfe == 9).all()
    assert np.isfinite(out.log_snr).all() and (out.log_snr < LINEAR.log_snr(0)).all()
    if num == 9:
        other = solve(noise(3), max_nfe=10, end=schedules.DATA)
        np.testing.assert_allclose(out.x, other.x, rtol=0, atol=2e-5)


@jax.jit
def bent(x, broken, gradient, steer):
    """Solves with predictions that are lost for some pictures, guided, and steered.

    One program for all: where two round differently, steps of other sizes may follow.
    """

    def denoise(x, point):
        lost = broken[:, None] & (point.alpha > 0.5)
        x_0, eps, *_ = TARGET.denoise(x, point)
        x_0 += steer * point.sigma**2 / point.alpha
        eps -= steer * point.sigma
        x_0, eps = (jnp.where(lost, jnp.nan, m) for m in (x_0, eps))
        return Prediction(x_0, eps)._replace(gradient=jnp.full_like(x, gradient))

    return adaptive.dpm(LINEAR, denoise, x)


@pytest.mark.slow
def test_a_picture_that_breaks_stops_and_the_others_go_on():
    x, broken = noise(4), np.arange(4) == 2
    out, whole = (bent(x, which, 0.0, 0.0) for which in (broken, np.zeros(4, bool)))
    assert out.done.tolist() == [True, True, False, True] and whole.done.all()
    assert np.isfinite(out.x).all() and out.accepted[2] > 0
    np.testing.assert_array_equal(out.x[~broken], whole.x[~broken])


def test_guidance_joins_the_prediction():
    x, none = noise(4), np.zeros(4, bool)
    guided, plain = bent(x, none, 1.0, 0.0), bent(x, none, 0.0, 0.0)
    np.testing.assert_allclose(guided.x, bent(x, none, 0.0, 1.0).x, atol=1e-5)
    assert np.abs(guided.x - plain.x).max() > 0.1


REFUSED = [
    ({"order": 1}, "order is 1"),
    ({"space": "v"}, "'eps' or 'x_0'"),
    ({"atol": 0.0}, "atol 0.0"),
    ({"rtol": -1.0}, "rtol -1.0"),
    ({"theta": 1.5}, "theta 1.5"),
    ({"h": float("nan")}, "h nan"),
    ({"max_nfe": 2}, "max_nfe is 2"),
    ({"max_nfe": 3, "end": schedules.DATA}, "of at least 4"),
    ({"start": 1000}, "start is 1000"),
    ({"start": 10, "end": 10}, "end 10"),
    ({"schedule": schedules.rectified_flow()}, "start below it"),
    ({"schedule": SCHEDULES["zero_terminal_snr"]}, "start below it"),
    ({"schedule": schedules.Schedule(LINEAR.alpha, 2 * LINEAR.sigma)}, "none of variance"),
    ({"x": np.zeros(3, np.float32)}, "batch"),
]


def test_what_does_not_fit_is_refused(subtests):
    for settings, message in REFUSED:
        settings = {"schedule": LINEAR, "x": noise(2), **settings}
        schedule, x = settings.pop("schedule"), settings.pop("x")
        with subtests.test(message), pytest.raises(ValueError, match=message):
            adaptive.dpm(schedule, TARGET.denoise, x, **settings)
