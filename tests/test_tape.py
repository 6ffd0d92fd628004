"""The tape that records a sampler, and the table it leaves, as a pytree."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import grids, plans, schedules
from skipjax.evaluation.exact import Gaussian, law
from skipjax.plans import Plan, Tape
from skipjax.sampling import integrate

LINEAR = schedules.linear()
TARGET = Gaussian([0.3, -0.5, 0.1], [[0.25, 0.1, 0.0], [0.1, 0.5, -0.2], [0.0, -0.2, 0.3]])


def heun(schedule, times, space="eps"):
    """The trapezoidal rule for d(x / alpha) = eps d(sigma / alpha), and Euler's to the data."""
    tape = Tape(schedule, space)
    x = tape.start()
    for t, s in pairwise([*times, schedules.DATA]):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
        h = sigma_s / alpha_s - sigma_t / alpha_t
        x_t, _, eps_t = tape.call(x, t)
        x = alpha_s * (x_t / alpha_t + h * eps_t)
        if s != schedules.DATA:
            _, _, eps_s = tape.call(x, s)
            x = alpha_s * (x_t / alpha_t + h * (eps_t + eps_s) / 2)
    return tape.plan(x)


def exact_flow_cov(schedule, target):
    """Covariance where the probability flow takes N(0, I) from the noisiest time to the data."""
    alpha, sigma = schedule.alpha[-1], schedule.sigma[-1]
    var = target.spectrum / (alpha**2 * target.spectrum + sigma**2)
    return target.axes @ np.diag(var) @ target.axes.T


def test_two_calls_a_step_give_two_rows_and_a_history_of_two():
    plan = heun(LINEAR, [900, 600, 300])
    assert plan.space == "eps"
    assert plan.t.tolist() == [900, 600, 600, 300, 300]
    assert plan.nfe == 5 and plan.history == 2 and not plan.noise.any()
    assert plan.mix.shape == (5, 2)
    assert (plan.mix[0::2, 1] == 0).all() and (plan.mix[1::2, 1] != 0).all()


def test_an_older_point_is_written_in_terms_of_the_newer(float64):
    plan = heun(LINEAR, [900, 300])
    (a, s), (b, r) = LINEAR.at(900), LINEAR.at(300)
    x, (m, n) = 0.7, (-0.4, 1.3)
    h = r / b - s / a
    between = plan.keep[0] * x + plan.mix[0, 0] * m
    after = plan.keep[1] * between + plan.mix[1, 0] * n + plan.mix[1, 1] * m
    assert between == pytest.approx(b * (x / a + h * m), rel=1e-14)
    assert after == pytest.approx(b * (x / a + h * (m + n) / 2), rel=1e-13)


def test_a_second_order_method_converges_on_a_gaussian():
    exact = exact_flow_cov(LINEAR, TARGET)

    def error(plan):
        return np.abs(law(plan, TARGET).cov - exact).max()

    # Down to a last jump that is short beside the others, whose first order would show.
    def grid(num):
        return np.append(np.round(np.linspace(999, 0, num)).astype(int)[:-1], 0)

    for space in ("x_0", "eps"):
        errors = [error(heun(LINEAR, grid(num), space)) for num in (11, 21, 41)]
        assert errors[0] > 2.5 * errors[1] > 2.5**2 * errors[2], space
        once = error(plans.ddim(LINEAR, grid(41)))
        assert error(heun(LINEAR, grid(21), space)) < once / 3, space


def test_both_spaces_give_the_same_sampler():
    ours, theirs = (law(heun(LINEAR, grids.skipped(1000, 50), s), TARGET) for s in ("x_0", "eps"))
    np.testing.assert_allclose(ours.mean, theirs.mean, atol=1e-11)
    np.testing.assert_allclose(ours.cov, theirs.cov, atol=1e-11)


@pytest.mark.usefixtures("compiled_in_a_hurry")
def test_integrate_of_a_two_call_method_has_the_law_of_its_table(float64):
    keys, x = jax.random.split(jax.random.key(0), 4), np.eye(4, 3, -1)
    run = jax.jit(lambda plan: integrate(plan, TARGET.denoise, jnp.asarray(x), keys))
    for space in ("x_0", "eps"):
        plan = heun(LINEAR, grids.skipped(1000, 100), space)
        expected, out = law(plan, TARGET), np.asarray(run(plan))
        linear = out[1:] - out[:1]
        np.testing.assert_allclose(out[0], expected.mean, atol=1e-10, err_msg=space)
        np.testing.assert_allclose(linear.T @ linear, expected.cov, atol=1e-10, err_msg=space)


def test_noise_of_an_earlier_step_is_refused():
    tape = Tape(LINEAR)
    z = tape.noise()
    x, x_0, _ = tape.call(tape.start(), 900)
    x, x_0, _ = tape.call(0.5 * x + x_0 + 0.1 * z, 500)
    with pytest.raises(ValueError, match="one that an earlier step used"):
        tape.plan(x_0 + 0.1 * z)


def test_noise_that_comes_back_through_an_older_point_is_refused():
    tape = Tape(LINEAR)
    first, x_0, _ = tape.call(tape.start(), 900)
    _, x_0, _ = tape.call(0.5 * first + x_0 + 0.1 * tape.noise(), 500)
    with pytest.raises(ValueError, match="noise"):
        tape.plan(0.5 * first + x_0)


def test_two_noises_in_one_step_are_refused():
    tape = Tape(LINEAR)
    x, x_0, _ = tape.call(tape.start(), 900)
    with pytest.raises(ValueError, match="more than one noise"):
        tape.plan(x_0 + 0.1 * tape.noise() + 0.2 * tape.noise())


def test_a_point_that_nothing_is_left_of_is_refused():
    tape = Tape(LINEAR)
    first, x_0, _ = tape.call(tape.start(), 900)
    _, x_0, _ = tape.call(1.0 * x_0, 500)
    with pytest.raises(ValueError, match="uses x_0 again, of which x_1 keeps nothing"):
        tape.plan(first + x_0)


def test_noise_of_no_weight_costs_nothing():
    tape = Tape(LINEAR)
    x, x_0, _ = tape.call(tape.start(), 900)
    plan = tape.plan(x_0 + 0.0 * tape.noise() + 0.3 * tape.noise())
    assert plan.noise.tolist() == [0.3]


def test_forms_add_subtract_scale_and_divide():
    tape = Tape(LINEAR)
    x, x_0, _ = tape.call(tape.start(), 900)
    plan = tape.plan(np.float64(2) * x - x_0 / 4 + x * 0.5 + 3 * x_0)
    assert plan.keep.tolist() == [2.5] and plan.mix.tolist() == [[2.75]]


def test_a_plan_maps_as_a_tree_and_keeps_its_space():
    plan = heun(LINEAR, [900, 500])
    doubled = jax.tree.map(lambda column: 2 * column, plan)
    assert isinstance(doubled, Plan) and doubled.space == "eps"
    assert (doubled.mix == 2 * plan.mix).all() and (doubled.t == 2 * plan.t).all()
    assert len(jax.tree.leaves(plan)) == 8


def test_a_plan_is_an_argument_of_jit():
    assert jax.jit(lambda plan: plan.keep.sum() + plan.nfe)(plans.skipped(LINEAR, 100)) > 10


def test_a_first_call_away_from_the_start_is_refused():
    tape = Tape(LINEAR)
    with pytest.raises(ValueError, match="first call must be at"):
        tape.call(tape.start() * 0.5, 999)


def test_a_tape_without_a_call_has_no_plan():
    tape = Tape(LINEAR)
    with pytest.raises(ValueError, match="nothing is recorded"):
        tape.plan(tape.start())
