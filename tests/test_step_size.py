"""DPM-Solver-12 and -23: as accurate as asked for, and every call counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import adaptive, plans, schedules
from skipjax.adaptive import levels
from skipjax.denoisers import Point, Prediction
from skipjax.evaluation.exact import Gaussian, Mixture, reference
from skipjax.sampling import integrate

LINEAR = schedules.linear()
TARGET = Gaussian([0.3, -0.5, 0.1], [[0.25, 0.1, 0.0], [0.1, 0.5, -0.2], [0.0, -0.2, 0.3]])
PAIR = Mixture([0.3, 0.7], [[-1.0, 0.5], [1.0, -0.5]], 0.05)
OTHERS = {
    "variance_exploding": schedules.variance_exploding(100),
    "rectified_flow": schedules.rectified_flow(shift=3.0),
}
each_other = pytest.mark.parametrize("schedule", OTHERS.values(), ids=OTHERS)
each_form = pytest.mark.parametrize(
    ("order", "space"), [(2, "eps"), (3, "eps"), (2, "x_0"), (3, "x_0")]
)


def noise(num, size=3, seed=0, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), (num, size), dtype)


def solve(x, denoise=TARGET.denoise, schedule=LINEAR, **settings):
    return jax.jit(lambda x: adaptive.dpm(schedule, denoise, x, **settings))(x)


def counted(denoise, calls):
    def counting(x, point):
        jax.debug.callback(lambda: calls.append(1))
        return denoise(x, point)

    return counting


@each_form
def test_error_falls_with_the_tolerance_down_to_the_closed_form(order, space, float64):
    x = noise(4, dtype=jnp.float64)
    exact = TARGET.flow(x, *(tuple(map(float, LINEAR.at(t))) for t in (999, 0)))

    @jax.jit
    def solved(tolerance):
        settings = dict(order=order, space=space, rtol=tolerance, atol=tolerance / 10)
        return adaptive.dpm(LINEAR, TARGET.denoise, x, **settings, max_nfe=3000)

    errors, calls = [], []
    for tolerance in [1e-2, 1e-3, 1e-4, 1e-5]:
        out = solved(tolerance)
        assert out.done.all()
        errors.append(np.sqrt(np.mean((np.asarray(out.x) - exact) ** 2)))
        calls.append(int(out.nfe.max()))
    # What is allowed is allowed per step; the steps' errors add up, and theirs is the lower order.
    assert (np.array(errors) < [1e-2, 1e-3, 1e-4, 1e-5]).all()
    assert (np.diff(errors) < 0).all() and (np.diff(calls) > 0).all()


@each_other
@pytest.mark.parametrize(("order", "space"), [(2, "eps"), (3, "x_0")])
def test_other_processes_take_the_same_steps(schedule, order, space, float64):
    first, last = LINEAR.log_snr(900), LINEAR.log_snr(10)
    x = noise(3, dtype=jnp.float64)
    settings = dict(order=order, space=space, rtol=1e-2)
    ours = solve(x, start=900, end=10, **settings)
    start, end = float(schedule.time(first)), float(schedule.time(last))
    scale = schedule.at(start)[0] / LINEAR.at(900)[0]
    theirs = solve(x * scale, schedule=schedule, start=start, end=end, **settings)
    np.testing.assert_array_equal(theirs.nfe, ours.nfe)
    expected = ours.x / LINEAR.at(10)[0] * schedule.at(end)[0]
    np.testing.assert_allclose(theirs.x, expected, rtol=0, atol=1e-9)


@each_form
@pytest.mark.parametrize("schedule", [LINEAR, *OTHERS.values()], ids=["linear", *OTHERS])
def test_a_step_that_is_as_long_as_all_is_the_singlestep_methods(schedule, order, space, float64):
    start = schedule.T - 3
    x = noise(5, dtype=jnp.float64)
    settings = dict(order=order, space=space, start=start, end=20, h=np.inf, atol=1e9)
    out = solve(x, schedule=schedule, **settings)
    assert (out.nfe == order).all() and (out.accepted == 1).all() and (out.rejected == 0).all()
    write = {
        (2, "eps"): plans.dpm_2s,
        (3, "eps"): plans.dpm_3s,
        (2, "x_0"): plans.dpmpp_2s,
        (3, "x_0"): plans.dpmpp_3s,
    }[order, space]
    plan = write(schedule, [start], end=20)
    keys = jax.random.split(jax.random.key(0), 5)
    expected = jax.jit(lambda x: integrate(plan, TARGET.denoise, x, keys))(x)
    np.testing.assert_allclose(out.x, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


@pytest.mark.slow
@each_form
def test_a_step_is_taken_if_the_two_orders_agree_and_the_next_is_as_long_as_it_should(
    order, space, float64
):
    start, h = 700, 1.0
    first = LINEAR.log_snr(start)
    end = float(LINEAR.time(first + h))
    x = noise(1, dtype=jnp.float64)
    two = plans.dpm_2s if space == "eps" else plans.dpmpp_2s
    three = plans.dpm_3s if space == "eps" else plans.dpmpp_3s
    pair = {
        2: [plans.ddim(LINEAR, [start], end=end), two(LINEAR, [start], end=end)],
        3: [two(LINEAR, [start], r=1 / 3, end=end), three(LINEAR, [start], end=end)],
    }[order]
    low, high = (
        integrate(plan, TARGET.denoise, x, jax.random.split(jax.random.key(0), 1)) for plan in pair
    )
    error = np.sqrt(np.mean((high - low) ** 2))

    def tried(atol, tries):
        settings = dict(order=order, space=space, start=start, h=h, rtol=0.0)
        return solve(x, atol=atol, max_nfe=order * tries, **settings)

    taken, refused = tried(1.001 * error, 1), tried(0.999 * error, 1)
    assert (taken.accepted[0], taken.rejected[0]) == (1, 0)
    assert (refused.accepted[0], refused.rejected[0]) == (0, 1)
    np.testing.assert_allclose(taken.x, high, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(refused.x, x)
    # Refused for twice the error allowed, it is shortened, and taken.
    second = tried(error / 2, 2)
    assert (second.accepted[0], second.rejected[0]) == (1, 1)
    np.testing.assert_allclose(second.log_snr[0] - first, 0.9 * h * 2 ** (-1 / order), rtol=1e-9)
    # What is relative is so to the larger of x_low and x.
    scale = np.maximum(np.abs(low), np.abs(x))
    relative = np.sqrt(np.mean(((high - low) / scale) ** 2))
    for rtol, accepted in [(1.001 * relative, 1), (0.999 * relative, 0)]:
        settings = dict(order=order, space=space, start=start, h=h, rtol=rtol, max_nfe=order)
        assert solve(x, atol=1e-9, **settings).accepted[0] == accepted


@pytest.mark.parametrize(
    "schedule",
    [LINEAR, schedules.cosine(), schedules.zero_terminal_snr(LINEAR), *OTHERS.values()],
    ids=["linear", "cosine", "zero_terminal_snr", *OTHERS],
)
def test_levels_inside_a_program_are_those_of_the_schedule(schedule, float64):
    times = np.random.default_rng(0).uniform(0, schedule.T - 2, 50)
    x = jnp.zeros((50, 2, 2))
    at = jax.jit(levels.between(schedule, jnp.float64))(jnp.asarray(schedule.log_snr(times)), x)
    alpha, sigma = schedule.at(times)
    np.testing.assert_allclose(at.t, times, rtol=0, atol=1e-7)
    np.testing.assert_allclose(at.alpha[:, 0, 0], alpha, rtol=1e-10)
    np.testing.assert_allclose(at.sigma[:, 0, 0], sigma, rtol=1e-10)


def test_the_network_is_told_the_time_and_level_of_each_picture():
    seen = []

    def denoise(x, point):
        jax.debug.callback(lambda *parts: seen.append(parts), *point)
        return PAIR.denoise(x, point)

    solve(noise(3, 2), denoise, end=1.5)
    jax.effects_barrier()
    assert any(len(np.unique(t)) == 3 for t, _, _ in seen)
    for t, alpha, sigma in seen:
        expected = LINEAR.at(np.clip(np.asarray(t, np.float64), 1.5, 999))
        np.testing.assert_allclose(alpha[:, 0], expected[0], rtol=1e-5)
        np.testing.assert_allclose(sigma[:, 0], expected[1], rtol=1e-5)


@pytest.mark.parametrize("end", [0, schedules.DATA])
@pytest.mark.parametrize("order", [2, 3])
def test_nfe_is_the_number_of_calls_rejected_steps_included(order, end):
    calls = []
    out = solve(noise(6, 2), counted(PAIR.denoise, calls), order=order, end=end, h=1.0)
    jax.effects_barrier()
    assert out.done.all() and (out.rejected > 0).any()
    assert (out.nfe == order * (out.accepted + out.rejected) + (end == schedules.DATA)).all()
    assert len(calls) == out.nfe.max()


def test_a_hard_target_asks_for_more_calls_than_an_easy_one():
    easy = solve(noise(8, 2), Mixture([1.0], [[0.0, 0.0]], 1.0).denoise, atol=1e-4)
    hard = solve(noise(8, 2), PAIR.denoise, atol=1e-4)
    assert (hard.rejected > 0).all() and hard.nfe.sum() > easy.nfe.sum()


def test_a_picture_does_not_depend_on_its_batch_unless_told_to_share_steps(float64):
    x = noise(6, 2, dtype=jnp.float64)
    among = solve(x, PAIR.denoise)
    for i in (0, 3, 5):
        alone = solve(x[i : i + 1], PAIR.denoise)
        np.testing.assert_allclose(alone.x[0], among.x[i], rtol=0, atol=1e-12)
        assert alone.nfe[0] == among.nfe[i] and alone.rejected[0] == among.rejected[i]
    assert len(set(np.asarray(among.nfe).tolist())) > 1
    shared = solve(x, PAIR.denoise, together=True)
    assert len(set(np.asarray(shared.nfe).tolist())) == 1 and shared.done.all()
    assert shared.nfe[0] > among.nfe.min()


def test_vmap_gives_what_the_batch_gives(float64):
    x = noise(4, 2, dtype=jnp.float64)
    one = jax.jit(jax.vmap(lambda x: adaptive.dpm(LINEAR, PAIR.denoise, x[None])))(x)
    batch = solve(x, PAIR.denoise)
    np.testing.assert_allclose(one.x[:, 0], batch.x, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(one.nfe[:, 0], batch.nfe)


@pytest.mark.parametrize("order", [2, 3])
def test_float32_at_the_default_tolerance_comes_near_the_flow(order):
    x = noise(16, 2)
    exact = reference(PAIR.denoise, x, *(tuple(map(float, LINEAR.at(t))) for t in (999, 0)))
    out = solve(x, PAIR.denoise, order=order)
    assert out.x.dtype == jnp.float32 and out.done.all()
    assert np.sqrt(np.mean((out.x - exact) ** 2)) < 0.06
    np.testing.assert_allclose(out.log_snr, LINEAR.log_snr(0), rtol=1e-6)


def test_ending_at_the_data_is_what_was_predicted_at_time_0():
    x = noise(3)
    before, after = solve(x), solve(x, end=schedules.DATA)
    point = Point(*map(jnp.asarray, (0.0, *LINEAR.at(0))))
    expected = TARGET.denoise(before.x, point).x_0
    np.testing.assert_allclose(after.x, expected, rtol=0, atol=1e-5)
    assert (after.nfe == before.nfe + 1).all() and np.isposinf(after.log_snr).all()


def test_calls_run_out_with_a_picture_not_done():
    out = solve(noise(3), max_nfe=10, end=schedules.DATA)
    assert not out.done.any() and (out.nfe == 9).all()
    assert np.isfinite(out.log_snr).all() and (out.log_snr < LINEAR.log_snr(0)).all()
    np.testing.assert_allclose(out.x, solve(noise(3), max_nfe=9).x, rtol=0, atol=2e-5)


def test_a_picture_that_breaks_stops_and_the_others_go_on():
    # One program for both: where two round differently, steps of other sizes may follow.
    @jax.jit
    def solved(x, broken):
        def denoise(x, point):
            lost = broken[:, None] & (point.alpha > 0.5)
            return Prediction(*(jnp.where(lost, jnp.nan, m) for m in TARGET.denoise(x, point)[:2]))

        return adaptive.dpm(LINEAR, denoise, x)

    x, broken = noise(4), np.arange(4) == 2
    out, whole = solved(x, broken), solved(x, np.zeros(4, bool))
    assert out.done.tolist() == [True, True, False, True] and whole.done.all()
    assert np.isfinite(out.x).all() and out.accepted[2] > 0
    np.testing.assert_array_equal(out.x[~broken], whole.x[~broken])


def test_guidance_joins_the_prediction():
    def denoise(x, point):
        return TARGET.denoise(x, point)._replace(gradient=jnp.ones_like(x))

    def steered(x, point):
        x_0, eps, *_ = TARGET.denoise(x, point)
        return Prediction(x_0 + point.sigma**2 / point.alpha, eps - point.sigma)

    x = noise(2)
    np.testing.assert_allclose(solve(x, denoise).x, solve(x, steered).x, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
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
        ({"schedule": schedules.zero_terminal_snr(LINEAR)}, "start below it"),
        ({"schedule": schedules.Schedule(LINEAR.alpha, 2 * LINEAR.sigma)}, "none of variance"),
        ({"x": jnp.zeros(3)}, "batch"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    settings = {"schedule": LINEAR, "x": noise(2), **settings}
    schedule, x = settings.pop("schedule"), settings.pop("x")
    with pytest.raises(ValueError, match=message):
        adaptive.dpm(schedule, TARGET.denoise, x, **settings)
