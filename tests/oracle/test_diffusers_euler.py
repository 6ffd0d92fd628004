"""Our plans of Euler's and Heun's methods against diffusers' schedulers of x / alpha.

They hold x / alpha and scale it to x for the network: what is compared is x. The plans are of the
variance-preserving schedule, and of the variance-exploding one whose points are x / alpha.
"""

import numpy as np
import pytest
from diffusers_oracle import (
    FORMULAS,
    READINGS,
    Case,
    assert_same,
    cases,
    difference,
    diffusers,
    from_the_start,
    levels,
    ours,
    single_precision,
    theirs,
)

from skipjax import plans
from skipjax.schedules import DATA, Schedule

EULER = diffusers.EulerDiscreteScheduler
ANCESTRAL = diffusers.EulerAncestralDiscreteScheduler
HEUN = diffusers.HeunDiscreteScheduler
SOLVERS = {
    "euler": (EULER, plans.euler),
    "euler_ancestral": (ANCESTRAL, plans.euler_ancestral),
    "heun": (HEUN, plans.heun),
}
each_solver = pytest.mark.parametrize("solver", SOLVERS)
WHOLE = ("leading", "trailing")
CASE = Case("scaled_linear", 20, "leading", "epsilon")


def predictions(solver):
    """What their scheduler reads."""
    return tuple(READINGS) if solver != "euler_ancestral" else ("epsilon", "v_prediction")


def once(column, solver):
    """Of a list of theirs, the entries where steps begin: Heun's has all but the first twice."""
    return np.r_[column[0], column[1::2]] if solver == "heun" else column


def writer(solver, end=DATA):
    _, plan = SOLVERS[solver]
    return lambda case, table: plan(case.schedule, once(table.times, solver), end=end)


@each_solver
def test_coefficients_equal_theirs(solver):
    cls, _ = SOLVERS[solver]
    assert_same(cls, writer(solver), cases(predictions(solver), WHOLE))
    one_off = cases(predictions(solver), ("leading",), (5, 20))
    assert_same(cls, writer(solver), one_off, steps_offset=1)


def test_coefficients_of_euler_equal_theirs_where_it_ends_at_time_0():
    assert_same(
        EULER, writer("euler", 0), cases(spacings=("trailing",)), final_sigmas_type="sigma_min"
    )


@each_solver
def test_untouched_schedulers_come_close(solver):
    cls, _ = SOLVERS[solver]
    for case in cases(predictions(solver), WHOLE):
        close = single_precision(case, "x_0")
        assert_same(cls, writer(solver), [case], close, exact=False)


@each_solver
@pytest.mark.parametrize("option", [None, "use_karras_sigmas", "use_exponential_sigmas"])
def test_formulas_equal_theirs_at_levels_between_the_times(solver, option):
    cls, plan = SOLVERS[solver]
    if option and cls is ANCESTRAL:
        pytest.skip("theirs does not offer it")
    options = {option: True} if option else {}
    for case in cases(predictions(solver), ("linspace",), (5, 7, 20)):
        table = theirs(cls, case, change=from_the_start, **options)
        schedule, times, end = levels(once(table.sigmas, solver))
        rows = ours(plan(schedule, times, end=end), case.prediction)
        assert difference(rows, table.rows) < FORMULAS, case


@each_solver
def test_plans_of_the_exploding_schedule_hold_their_x_over_alpha(solver):
    cls, plan = SOLVERS[solver]
    table = theirs(cls, CASE)
    preserving, times, end = levels(once(table.sigmas, solver))
    rho = preserving.sigma / preserving.alpha
    exploding = plan(Schedule(np.ones(len(rho)), rho), times, end=end)
    # Of x / alpha, from its own start, to x.
    scale = np.hypot(1, np.append(exploding.sigma, 0))
    rows = ours(exploding) / scale[1:, None]
    rows[:, 0] *= scale[0]
    assert difference(rows, table.rows) < FORMULAS


@each_solver
def test_exception_their_levels_between_the_times_are_linear_in_sigma_over_alpha(solver):
    # Their "linspace" is not rounded. Between two whole times, where no network was trained, our
    # log alpha is linear.
    cls, _ = SOLVERS[solver]
    case = CASE._replace(spacing="linspace")
    table = theirs(cls, case)
    assert not (table.times % 1 == 0).all()
    found = difference(ours(writer(solver)(case, table)), table.rows)
    assert 1e-8 < found < 1e-4
    cosine = case._replace(name="cosine", num=50)
    table = theirs(cls, cosine)
    assert 1e-5 < difference(ours(writer(solver)(cosine, table)), table.rows) < 1e-3


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_exception_their_noise_is_a_little_small_but_on_leading(spacing):
    # x_T of our plans is N(0, 1). Theirs is so on "leading" alone, where x / alpha is scaled by
    # sqrt(1 + rho^2); on the others by rho, so that x is N(0, sigma^2).
    case, seen = CASE._replace(spacing=spacing), []
    theirs(EULER, case, change=seen.append)
    (scheduler,) = seen
    _, sigma = case.schedule.at(float(scheduler.timesteps[0]))
    std = float(scheduler.init_noise_sigma) / np.hypot(1, float(scheduler.sigmas[0]))
    assert std == pytest.approx(1 if spacing == "leading" else float(sigma), abs=1e-9)
    assert sigma < 1 - 2e-3
