"""Our plans of several calls a step against diffusers' DPMSolverSinglestepScheduler.

Its "sde-dpmsolver++" has no plan: it draws noise at every call, and starts a step of order 2 or 3
from before that noise.
"""

from itertools import product

import pytest
from diffusers_oracle import (
    FORMULAS,
    Case,
    assert_same,
    cases,
    difference,
    diffusers,
    levels,
    ours,
    single_precision,
    theirs,
)

from skipjax import plans
from skipjax.schedules import DATA

SINGLESTEP = diffusers.DPMSolverSinglestepScheduler
SPACES = {"dpmsolver": "eps", "dpmsolver++": "x_0"}
# On eps they have no step to the data.
ENDS = [("dpmsolver", "sigma_min"), ("dpmsolver++", "sigma_min"), ("dpmsolver++", "zero")]
each_end = pytest.mark.parametrize(("algorithm", "final"), ENDS)
ORDERS = (1, 2, 3)
CASE = Case("scaled_linear", 10, "linspace", "epsilon")


class Setting:
    """One of their algorithms and its options, and how our plan for a case of it is written."""

    def __init__(self, algorithm, final, order, solver_type="midpoint", lower=True):
        self.order, self.form, self.lower = order, solver_type, lower
        self.space, self.end = SPACES[algorithm], DATA if final == "zero" else 0
        self.options = {
            "algorithm_type": algorithm,
            "final_sigmas_type": final,
            "solver_order": order,
            "solver_type": solver_type,
            "lower_order_final": lower,
        }

    def orders(self, num):
        if not self.lower and num % self.order == 0:
            return [self.order] * (num // self.order)
        orders = plans.fast_orders(num, self.order)
        # A step to the data is of order 1, and takes a call off the last step.
        return orders if self.end != DATA else [*orders[:-1], *[1] * orders[-1]]

    def write(self, case, table):
        return self.of(case.schedule, table.times, self.end)

    def of(self, schedule, times, end, compat="diffusers"):
        orders = self.orders(len(times))
        options = {"solver_type": self.form, "compat": compat}
        return plans.singlestep(schedule, times, orders, space=self.space, end=end, **options)


@each_end
def test_coefficients_equal_theirs(algorithm, final):
    for order, solver_type in product(ORDERS, ("midpoint", "heun")):
        setting = Setting(algorithm, final, order, solver_type)
        both = cases(spacings=("linspace",), nums=(5, 6, 7, 10, 15, 20, 50))
        assert_same(SINGLESTEP, setting.write, both, **setting.options)


@pytest.mark.parametrize("algorithm", SPACES)
def test_coefficients_without_lower_orders_equal_theirs(algorithm):
    for order in ORDERS:
        setting = Setting(algorithm, "sigma_min", order, lower=False)
        both = cases(spacings=("linspace",), nums=(6, 12, 24))
        assert_same(SINGLESTEP, setting.write, both, **setting.options)


@each_end
def test_untouched_schedulers_come_close(algorithm, final):
    for order, case in product(ORDERS, cases(spacings=("linspace",))):
        setting = Setting(algorithm, final, order)
        close = single_precision(case, setting.space)
        assert_same(SINGLESTEP, setting.write, [case], close, exact=False, **setting.options)


@pytest.mark.parametrize("option", ["use_karras_sigmas", "use_exponential_sigmas"])
def test_formulas_equal_theirs_at_levels_between_the_times(option):
    setting = Setting("dpmsolver++", "zero", 3)
    for num in (5, 6, 7, 20):
        case = CASE._replace(num=num)
        table = theirs(SINGLESTEP, case, **setting.options, **{option: True})
        plan = setting.of(*levels(table.sigmas))
        assert difference(ours(plan), table.rows) < FORMULAS, num


@pytest.mark.parametrize("algorithm", SPACES)
def test_exception_their_third_call_of_a_step_is_reached_by_the_midpoint_form(algorithm):
    # The paper's algorithm 2 integrates the slope there exactly, as our default does. Of order 3
    # are both.
    setting = Setting(algorithm, "sigma_min", 3)
    table = theirs(SINGLESTEP, CASE, **setting.options)
    plan = setting.of(CASE.schedule, table.times, 0, compat=None)
    assert difference(ours(plan)[:1], table.rows[:1]) < FORMULAS
    assert 1e-3 < difference(ours(plan), table.rows) < 1
    # With "heun" it is exact in theirs too.
    setting = Setting(algorithm, "sigma_min", 3, "heun")
    table = theirs(SINGLESTEP, CASE, **setting.options)
    plan = setting.of(CASE.schedule, table.times, 0, compat=None)
    assert difference(ours(plan), table.rows) < FORMULAS


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_exception_they_turn_lower_orders_on_where_calls_do_not_divide(final):
    # And always for a step to the data. A plan's orders are what it is told, or it refuses.
    lowered = Setting("dpmsolver++", final, 3, lower=True)
    options = lowered.options | {"lower_order_final": False}
    assert_same(SINGLESTEP, lowered.write, [CASE], **options)
    with pytest.raises(ValueError, match="9 calls in all, and there are 10"):
        plans.singlestep(CASE.schedule, range(900, -1, -100), [3, 3, 3])
