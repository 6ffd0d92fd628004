"""Our plans of UniPC against diffusers' UniPCMultistepScheduler."""

from itertools import product

import numpy as np
import pytest
from diffusers_oracle import (
    FORMULAS,
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
    torch,
    without_last,
)

from skipjax import plans
from skipjax.schedules import DATA

UNIPC = diffusers.UniPCMultistepScheduler
each_order = pytest.mark.parametrize("order", [1, 2, 3])
# x_0 and "bh2" is all with which they step to the data.
FORMS = [("x_0", "bh2", "zero"), ("x_0", "bh2", "sigma_min"), ("x_0", "bh1", "sigma_min")]
FORMS += [("eps", "bh1", "sigma_min"), ("eps", "bh2", "sigma_min")]
CASE = Case("scaled_linear", 10, "leading", "epsilon")


class Setting:
    """Options of theirs, and how our plan for a case of them is written."""

    def __init__(self, order, space="x_0", variant="bh2", final="zero", lower=True, correct=True):
        self.space, self.order = space, order
        self.end = DATA if final == "zero" else 0
        self.ours = {"variant": variant, "lower_order_final": lower, "corrector": correct}
        self.options = {
            "solver_order": order,
            "solver_type": variant,
            "predict_x0": space == "x_0",
            "final_sigmas_type": final,
            "lower_order_final": lower,
            "disable_corrector": [] if correct else list(range(50)),
        }

    def write(self, case, table):
        return self.of(case.schedule, table.times, self.end)

    def of(self, schedule, times, end):
        return plans.unipc(schedule, times, self.order, space=self.space, end=end, **self.ours)


@each_order
def test_coefficients_equal_theirs(order):
    for form in FORMS:
        setting = Setting(order, *form)
        assert_same(UNIPC, setting.write, cases(), **setting.options)


@each_order
def test_coefficients_without_the_corrector_or_lower_orders_equal_theirs(order):
    switches = (True, False), (False, True)
    for space, variant, switch in product(("x_0", "eps"), ("bh1", "bh2"), switches):
        setting = Setting(order, space, variant, "sigma_min", *switch)
        assert_same(UNIPC, setting.write, cases(nums=(5, 20)), **setting.options)


@each_order
def test_untouched_schedulers_come_close(order):
    for form, case in product(FORMS, cases(nums=(5, 7, 50))):
        setting = Setting(order, *form)
        close = single_precision(case, setting.space)
        assert_same(UNIPC, setting.write, [case], close, exact=False, **setting.options)


@each_order
@pytest.mark.parametrize("option", ["use_karras_sigmas", "use_exponential_sigmas"])
def test_formulas_equal_theirs_at_levels_between_the_times(order, option):
    setting = Setting(order)
    options = setting.options | {option: True}
    for case in cases(spacings=("linspace",), nums=(5, 20)):
        table = theirs(UNIPC, case, change=from_the_start, **options)
        plan = setting.of(*levels(table.sigmas))
        assert difference(ours(plan, case.prediction), table.rows) < FORMULAS, case


@each_order
@pytest.mark.parametrize(("space", "variant"), [("x_0", "bh1"), ("eps", "bh1"), ("eps", "bh2")])
def test_exception_their_last_picture_is_not_a_number(order, space, variant):
    # Of a step to the data that is infinitely long, they multiply B = h by 0, or e^h by sigma.
    setting = Setting(order, space, variant)
    table = theirs(UNIPC, CASE, **setting.options)
    assert np.isnan(table.rows[-1]).all()
    rows = ours(setting.write(CASE, table))
    assert np.isfinite(rows).all()
    assert difference(rows[:-1], table.rows[:-1]) < FORMULAS


def test_exception_they_have_no_step_to_the_data_without_lower_order_final():
    # Its order would be 2 or 3 over an infinite distance. Ours is 1 there.
    for order in (2, 3):
        setting = Setting(order, lower=False)
        if order == 2:
            assert not np.isfinite(theirs(UNIPC, CASE, **setting.options).rows[-1]).all()
        else:
            with pytest.raises(torch.linalg.LinAlgError, match="singular"):
                theirs(UNIPC, CASE, **setting.options)
        plan = setting.of(CASE.schedule, np.arange(900, 0, -100), DATA)
        assert np.isfinite(ours(plan)).all()


def test_exception_karras_levels_end_where_the_last_call_is():
    # With "sigma_min" the last step goes from there to the same level, and changes nothing.
    setting = Setting(2, final="sigma_min")
    table = theirs(UNIPC, CASE, use_karras_sigmas=True, **setting.options)
    schedule, times, end = levels(table.sigmas[:-1])
    short = ours(setting.of(schedule, times, end))
    # Their last step but one is not the last, which is of order 1; and it is corrected.
    assert difference(short[:-1], without_last(table.rows)[:-1]) < FORMULAS
    assert 1e-6 < difference(table.rows[-1:], table.rows[-2:-1]) < 1
