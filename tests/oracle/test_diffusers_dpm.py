"""Our multistep plans of DPM-Solver against diffusers' DPMSolverMultistepScheduler.

It has an algorithm more, for which there is no plan: "sde-dpmsolver", the SDE with eps held
through a step.
"""

from functools import partial
from itertools import product

import numpy as np
import pytest
from diffusers_oracle import (
    FORMULAS,
    NUMS,
    SCHEDULES,
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
    without_last,
)

from skipjax import plans, schedules
from skipjax.schedules import DATA

DPM = diffusers.DPMSolverMultistepScheduler
COMPAT = {"compat": "diffusers"}
# Their algorithm and order, and our plan.
SOLVERS = {
    "dpm_1": ("dpmsolver", 1, plans.dpm_1),
    "dpm_2m": ("dpmsolver", 2, plans.dpm_2m),
    "dpm_3m": ("dpmsolver", 3, partial(plans.dpm_3m, **COMPAT)),
    "dpmpp_1": ("dpmsolver++", 1, plans.dpmpp_1),
    "dpmpp_2m": ("dpmsolver++", 2, plans.dpmpp_2m),
    "dpmpp_3m": ("dpmsolver++", 3, partial(plans.dpmpp_3m, **COMPAT)),
    "dpmpp_1_sde": ("sde-dpmsolver++", 1, plans.dpmpp_1_sde),
    "dpmpp_2m_sde": ("sde-dpmsolver++", 2, plans.dpmpp_2m_sde),
}
# On eps they have no step to the data.
DATA_SOLVERS = [name for name, (algorithm, _, _) in SOLVERS.items() if algorithm != "dpmsolver"]
each_solver = pytest.mark.parametrize("solver", SOLVERS)
FORMS = {"midpoint": NUMS, "heun": (5, 15, 20)}
LEVELS = ["use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas"]
CASE = Case("scaled_linear", 20, "leading", "epsilon")


def ends(solver):
    return ("sigma_min", "zero") if solver in DATA_SOLVERS else ("sigma_min",)


class Setting:
    """One of their algorithms and its options, and how our plan for a case of it is written."""

    def __init__(self, solver, final="zero", lower_order_final=True, solver_type="midpoint"):
        algorithm, self.order, self.plan = SOLVERS[solver]
        self.space = "eps" if algorithm == "dpmsolver" else "x_0"
        self.end = DATA if final == "zero" else 0
        self.lower, self.form = lower_order_final, solver_type
        self.options = {
            "algorithm_type": algorithm,
            "solver_order": self.order,
            "final_sigmas_type": final,
            "lower_order_final": lower_order_final,
            "solver_type": solver_type,
        }

    def write(self, case, table):
        return self.of(case.schedule, table.times, self.end)

    def of(self, schedule, times, end):
        options = {}
        if self.order > 1:
            # Theirs goes down to lower orders only for fewer than 15 calls.
            lower = self.lower and len(times) < 15
            options = {"lower_order_final": lower, "solver_type": self.form}
        return self.plan(schedule, times, end=end, **options)


@each_solver
def test_coefficients_equal_theirs(solver):
    for final, (solver_type, many) in product(ends(solver), FORMS.items()):
        for lower, nums in ((True, many), (False, (7, 20))):
            setting = Setting(solver, final, lower, solver_type)
            assert_same(DPM, setting.write, cases(nums=nums), **setting.options)


@each_solver
def test_untouched_schedulers_come_close(solver):
    for final, case in product(ends(solver), cases(nums=(5, 20, 50))):
        setting = Setting(solver, final)
        close = single_precision(case, setting.space)
        assert_same(DPM, setting.write, [case], close, exact=False, **setting.options)


@pytest.mark.parametrize("option", LEVELS)
def test_formulas_equal_theirs_at_levels_between_the_times(option):
    every = product(DATA_SOLVERS, cases(spacings=("linspace",), nums=(7, 20)))
    for solver, case in every:
        setting = Setting(solver)
        options = setting.options | {option: True}
        table = theirs(DPM, case, change=from_the_start, **options)
        plan = setting.of(*levels(table.sigmas))
        assert difference(ours(plan, case.prediction), table.rows) < FORMULAS, (solver, case)


def test_an_offset_and_a_clipped_lambda_are_but_other_times():
    setting = Setting("dpmpp_2m")
    assert_same(DPM, setting.write, cases(), steps_offset=1, **setting.options)
    cosine = [case for case in cases() if case.name == "cosine"]
    clipped = setting.options | {"lambda_min_clipped": -5.1}
    assert_same(DPM, setting.write, cosine, **clipped)
    assert theirs(DPM, cosine[0], **clipped).times[0] < 999


def test_euler_at_final_is_a_last_step_of_order_1():
    # Which lower_order_final is too, for order 2 and any number of calls.
    options = Setting("dpmpp_2m", "sigma_min").options | {"euler_at_final": True}

    def write(case, table):
        return plans.dpmpp_2m(case.schedule, table.times, end=0, lower_order_final=True)

    assert_same(DPM, write, cases(nums=(5, 20)), **options)


def test_exception_euler_at_final_leaves_order_3_to_the_step_before():
    # Our lower_order_final takes that one down to order 2.
    options = Setting("dpmpp_3m", "sigma_min").options | {"euler_at_final": True}
    table = theirs(DPM, CASE, **options)
    plan = partial(plans.dpmpp_3m, CASE.schedule, table.times, end=0, **COMPAT)
    bare, lower = ours(plan()), ours(plan(lower_order_final=True))
    assert difference(bare[:-1], table.rows[:-1]) < FORMULAS
    assert difference(lower[:-2], table.rows[:-2]) < FORMULAS
    assert 1e-3 < difference(lower, table.rows) < 1


@pytest.mark.parametrize("solver", ["dpm_3m", "dpmpp_3m"])
def test_exception_their_third_order_halves_the_second_derivative(solver):
    # D2 = (D1_0 - D1_1) / (r0 + r1) is half of it. Ours is whole, and of order 3; with
    # compat="diffusers" it is theirs.
    setting = Setting(solver, "sigma_min")
    table = theirs(DPM, CASE, **setting.options)
    plan = getattr(plans, solver)(CASE.schedule, table.times, end=0)
    same = slice(None, 2)  # steps of order 1 and 2
    assert difference(ours(plan)[same], table.rows[same]) < FORMULAS
    assert 1e-2 < difference(ours(plan), table.rows) < 1


@pytest.mark.parametrize("num", [15, 20, 50])
def test_exception_their_lower_order_final_is_for_fewer_than_15_calls(num):
    # Ours does as it is told for any number.
    case = CASE._replace(num=num)
    table = theirs(DPM, case, **Setting("dpmpp_2m", "sigma_min").options)
    plan = partial(plans.dpmpp_2m, case.schedule, table.times, end=0)
    assert difference(ours(plan()), table.rows) < FORMULAS
    assert 1e-3 < difference(ours(plan(lower_order_final=True)), table.rows) < 1


@pytest.mark.parametrize("option", LEVELS)
def test_exception_they_tell_the_network_a_rounded_time(option):
    # Its level is between whole times; a plan says so.
    for name in ("linear", "scaled_linear"):
        case = Case(name, 20, "linspace", "epsilon")
        table = theirs(DPM, case, **{option: True})
        times = case.schedule.time(-np.log(table.sigmas[:-1]))
        off = np.abs(times - table.times).max()
        # Exponential ones are not rounded but cut off.
        assert 0.3 < off < (1 if option == "use_exponential_sigmas" else 0.51)


def test_exception_they_start_at_the_second_level_where_two_times_round_alike():
    # A step is looked up by its time. Cosine's first levels by Karras are less than a time apart:
    # in float32 both are 998, the second is taken for the first, and the list ends too early.
    case = Case("cosine", 20, "linspace", "sample")
    with pytest.raises(IndexError):
        theirs(DPM, case, exact=False, use_karras_sigmas=True)


def test_exception_karras_levels_end_where_the_last_call_is():
    # With "sigma_min" the last step goes from there to time 0, which is the same level.
    setting = Setting("dpmpp_2m", "sigma_min")
    table = theirs(DPM, CASE, use_karras_sigmas=True, **setting.options)
    assert difference(table.rows[-1:], table.rows[-2:-1]) < FORMULAS
    schedule, times, end = levels(table.sigmas[:-1])
    plan = plans.dpmpp_2m(schedule, times, end=end)
    assert difference(ours(plan), without_last(table.rows)) < FORMULAS


def test_exception_their_zero_terminal_snr_is_not_quite_zero():
    # They set abar to 2^-24 at T-1. Ours is 0, from where a step on x_0 keeps nothing.
    case = Case("scaled_linear", 10, "trailing", "v_prediction")
    setting = Setting("dpmpp_2m")
    table = theirs(DPM, case, rescale_betas_zero_snr=True, **setting.options)
    zero = schedules.zero_terminal_snr(SCHEDULES[case.name][0])
    exactly = ours(setting.of(zero, table.times, DATA), case.prediction)
    assert 1e-5 < difference(exactly[:1], table.rows[:1]) < 1e-3
    # The next step looks back over a finite distance in log_snr, ours over an infinite one.
    assert 1e-3 < difference(exactly, table.rows) < 1e-2
    alpha = np.append(zero.alpha[:-1], 2.0**-12)
    almost = schedules.Schedule(alpha, np.sqrt(1 - alpha**2))
    plan = setting.of(almost, table.times, DATA)
    assert difference(ours(plan, case.prediction), table.rows) < FORMULAS


def test_exception_the_third_order_of_their_sde_has_a_term_of_the_wrong_sign():
    # With H = 2 h its weight of D2 is -phi_2(-H) - 1/2, which does not vanish with h, where the
    # integral asks for 1/2 - phi_2(-H); twice that, D2 being half a second derivative. To the
    # data h is infinite and phi_2 is 0.
    options = Setting("dpmpp_2m_sde", "sigma_min").options | {"solver_order": 3}
    table = theirs(DPM, CASE, **options)
    write = partial(plans.dpmpp_3m_sde, CASE.schedule, table.times, end=0)
    for plan in (write(), write(**COMPAT)):
        assert difference(ours(plan)[:2], table.rows[:2]) < FORMULAS
        assert 1e-2 < difference(ours(plan), table.rows)
    # The first step of order 3, with their weight.
    s, t, *past = (np.log(1 / table.sigmas[i]) for i in (2, 3, 1, 0))
    h, (v_1, v_2) = t - s, np.subtract(past, s) / (t - s)
    phi = (np.expm1(-2 * h) + 2 * h) / (2 * h) ** 2
    outputs = np.eye(table.rows.shape[1])
    alpha, _ = CASE.schedule.at(int(table.times[3]))
    points = [outputs[0], *table.rows[:2]]
    readings = []
    for i in range(3):
        level = CASE.schedule.at(int(table.times[i]))
        readings.append((points[i] - level[1] * outputs[1 + i]) / level[0])
    m_2, m_1, m = readings
    curve = ((m_2 - m_1) / (v_2 - v_1) - (m_1 - m) / v_1) / v_2
    ours_then = ours(write(**COMPAT))[2] - alpha * (1 / 2 - phi) * curve
    assert (
        difference((ours_then + alpha * (-1 / 2 - phi) * curve)[None], table.rows[2:3]) < FORMULAS
    )
