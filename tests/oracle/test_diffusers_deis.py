"""Our plans of DEIS, polynomials in log rho, against diffusers' DEISMultistepScheduler.

They are the only ones it has: `solver_type="logrho"`.
"""

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
    without_last,
)

from skipjax import plans

DEIS = diffusers.DEISMultistepScheduler
each_order = pytest.mark.parametrize("order", [1, 2, 3])
CASE = Case("scaled_linear", 20, "leading", "epsilon")


def writer(order, lower=True):
    """Their order counts predictions, ours is the degree of the polynomial through them."""

    def write(case, table):
        # Theirs goes down to lower orders only for fewer than 15 calls.
        options = {"end": 0, "lower_order_final": lower and case.num < 15}
        return plans.deis(case.schedule, table.times, order - 1, variable="log_rho", **options)

    return write


@each_order
def test_coefficients_equal_theirs(order):
    assert_same(DEIS, writer(order), cases(), solver_order=order)
    bare = {"solver_order": order, "lower_order_final": False}
    assert_same(DEIS, writer(order, lower=False), cases(nums=(5, 20)), **bare)


@each_order
def test_untouched_schedulers_come_close(order):
    for case in cases(nums=(5, 7, 50)):
        close = single_precision(case, "eps")
        assert_same(DEIS, writer(order), [case], close, exact=False, solver_order=order)


@each_order
@pytest.mark.parametrize("option", ["use_karras_sigmas", "use_exponential_sigmas"])
def test_exception_levels_between_the_times_end_where_the_last_call_is(order, option):
    # Their last step goes from there to the same level, and changes nothing: a call for nothing.
    for name in ("linear", "scaled_linear"):
        case = CASE._replace(name=name)
        table = theirs(DEIS, case, solver_order=order, **{option: True})
        assert difference(table.rows[-1:], table.rows[-2:-1]) < FORMULAS
        schedule, times, end = levels(table.sigmas[:-1])
        plan = plans.deis(schedule, times, order - 1, variable="log_rho", end=end)
        assert difference(ours(plan), without_last(table.rows)) < FORMULAS


def test_exception_the_papers_polynomials_are_in_another_variable():
    # In t (tAB), our default, or in rho (rhoAB): what is the same is the first step, DDIM's.
    table = theirs(DEIS, CASE, solver_order=3)
    for variable in ("t", "rho"):
        rows = ours(plans.deis(CASE.schedule, table.times, 2, variable=variable, end=0))
        assert difference(rows[:1], table.rows[:1]) < FORMULAS
        assert 1e-3 < difference(rows, table.rows) < 1
