"""Our plans of PNDM, PLMS and iPNDM against diffusers' PNDMScheduler and IPNDMScheduler."""

import numpy as np
import pytest
from diffusers_oracle import (
    FORMULAS,
    Case,
    assert_same,
    cases,
    difference,
    diffusers,
    ours,
    single_precision,
    theirs,
)

from skipjax import grids, plans
from skipjax.schedules import DATA, Schedule

PNDM, IPNDM = diffusers.PNDMScheduler, diffusers.IPNDMScheduler
# Where their steps are those between the times: see the exceptions.
EVEN = [
    *cases(("epsilon",), ("leading",), (5, 6, 7, 10, 15, 20, 50)),
    *cases(("epsilon",), ("trailing",), (5, 10, 20, 50)),
]
CASE = Case("linear", 10, "leading", "epsilon")


def starts(table, skip):
    """Where steps begin, of all times of calls: the others belong to the first steps."""
    times = table.times
    return np.delete(times, 1) if skip else np.r_[times[0:12:4], times[12:]]


def writer(skip, end=DATA):
    def write(case, table):
        times = starts(table, skip)
        if skip:
            return plans.plms(case.schedule, times, end=end)
        return plans.f_pndm(case.schedule, times, end=end, whole_times=True)

    return write


each_start = pytest.mark.parametrize("skip", [False, True], ids=["f_pndm", "plms"])


@each_start
def test_coefficients_equal_theirs(skip):
    options = {"skip_prk_steps": skip}
    assert_same(PNDM, writer(skip), EVEN, set_alpha_to_one=True, **options)
    # A step that begins below T // N goes to the picture, with whatever offset.
    leading = [case for case in EVEN if case.spacing == "leading"]
    assert_same(PNDM, writer(skip, 0), leading, steps_offset=1, **options)
    assert_same(PNDM, writer(skip), leading, steps_offset=1, set_alpha_to_one=True, **options)
    trailing = [case for case in EVEN if case.spacing == "trailing"]
    assert_same(PNDM, writer(skip, 0), trailing, **options)


@each_start
def test_untouched_schedulers_come_close(skip):
    for case in EVEN:
        close = single_precision(case, "x_0") / 10  # sigma at time 0 is only stepped to
        options = {"skip_prk_steps": skip, "set_alpha_to_one": True}
        assert_same(PNDM, writer(skip), [case], close, exact=False, **options)


@each_start
def test_exception_without_set_alpha_to_one_they_step_from_time_0_to_time_0(skip):
    # As they are by default: their last call changes nothing, and a plan has no such step.
    table = theirs(PNDM, CASE, skip_prk_steps=skip)
    assert table.times[-1] == 0
    assert difference(table.rows[-1:], table.rows[-2:-1]) < FORMULAS
    short = table._replace(times=table.times[:-1])
    rows = ours(writer(skip, 0)(CASE, short))
    calls = len(rows)
    assert difference(rows[:, : 1 + calls], table.rows[:-1, : 1 + calls]) < FORMULAS
    assert not table.rows[:-1, 1 + calls :].any()


@each_start
@pytest.mark.parametrize(("spacing", "num"), [("linspace", 10), ("trailing", 15)])
def test_exception_they_jump_by_a_whole_stride_and_miss_the_next_time(skip, spacing, num):
    # To t - T // N (and to half of that below, first), as their DDIM does: where times are
    # rounded, or farther apart, that is not where the network is called next.
    case = CASE._replace(num=num, spacing=spacing)
    table = theirs(PNDM, case, skip_prk_steps=skip, set_alpha_to_one=True)
    assert 1e-3 < difference(ours(writer(skip)(case, table)), table.rows)
    first = 999 - 1000 // num // (1 if skip else 2)
    jump = ours(plans.ddim(case.schedule, [999], end=first))[0, :2]
    np.testing.assert_allclose(table.rows[0, :2], jump, rtol=FORMULAS)


def test_exception_their_middle_is_not_where_they_call_if_the_stride_is_odd():
    # A stride of 111: they step down by 55, and call the network a time below, 55 above the next.
    case = CASE._replace(num=9)
    table = theirs(PNDM, case, set_alpha_to_one=True)
    assert table.times[:4].tolist() == [888, 832, 832, 777]
    jump = ours(plans.ddim(case.schedule, [888], end=833))[0, :2]
    np.testing.assert_allclose(table.rows[0, :2], jump, rtol=FORMULAS)
    # That middle is used for the first of four slopes of a step.
    found = difference(ours(writer(False)(case, table)), table.rows)
    assert 1e-3 < found < 1e-1


@each_start
def test_exception_they_average_v_where_the_method_averages_eps(skip):
    # And read the mean as if all of it were said of the newest point. Liu et al. average eps, as a
    # plan does whatever the network says. The first step has but one prediction.
    case = CASE._replace(prediction="v_prediction")
    table = theirs(PNDM, case, skip_prk_steps=skip, set_alpha_to_one=True)
    rows = ours(writer(skip)(case, table), case.prediction)
    assert difference(rows[:1], table.rows[:1]) < FORMULAS
    assert 0.1 < difference(rows, table.rows) < 1


V = ("v_prediction",)  # of which IPNDM is always, though it is not called so


@pytest.mark.parametrize("end", [0, DATA])
def test_ipndm_equals_theirs_on_the_levels_of_a_schedule(end):
    for case in cases(V, ("trailing",)):
        times = grids.trailing(1000, case.num)
        _, sigma = case.schedule.at(np.append(times, end))
        options = {"told": False, "trained_betas": sigma.tolist()}  # sigma, called beta there

        def write(case, table, times=times):
            return plans.ipndm(case.schedule, times, end=end)

        assert_same(IPNDM, write, [case], **options)
        # In float32 their alpha follows from sigma, which is 1 - 1e-9 at cosine's last time.
        if case.name != "cosine":
            assert_same(IPNDM, write, [case], 1e-4, exact=False, **options)


def test_exception_their_ipndm_starts_where_there_is_no_data_and_ignores_the_network():
    # sigma = sin^2(pi u / 2) is 1 at the start, where eps is x, and says nothing of x_0. They take
    # 0 for it, though v says it is -v. Our plan refuses the start, and close to it has -v.
    table = theirs(IPNDM, CASE._replace(num=20))
    sigma = np.sin(np.linspace(1, 0, 21) * np.pi / 2)[:-1] ** 2
    alpha = np.sqrt(1 - sigma**2)
    assert table.rows[0, 0] == pytest.approx(sigma[1]) and not table.rows[0, 1:].any()
    times = np.arange(20)[::-1]
    with pytest.raises(ValueError, match="alpha is 0"):
        plans.ipndm(Schedule(alpha[::-1], sigma[::-1]), times)
    alpha[0] = 1e-6
    almost = Schedule(alpha[::-1], np.sqrt(1 - alpha**2)[::-1])
    rows = ours(plans.ipndm(almost, times), "v_prediction")
    assert rows[0, :2] == pytest.approx([sigma[1], -alpha[1]], abs=1e-6)
    assert alpha[1] > 0.1
    # All else is the same.
    rows[:, 1] = table.rows[:, 1]
    assert difference(rows, table.rows) < 1e-5
