"""Which times the grids visit that stand between the training times."""

import inspect
from functools import partial
from itertools import product

import numpy as np
import pytest
from tables import SCHEDULES

from skipjax import grids, plans, schedules

LINEAR, SD, FLOW = (SCHEDULES[name] for name in ("linear", "scaled_linear", "rectified_flow"))
ZERO = schedules.zero_terminal_snr(SD)
BY_LEVEL = {
    "uniform_log_snr": grids.uniform_log_snr,
    "karras": grids.karras,
    "karras_5": partial(grids.karras, rho=5.0),
}
# Each as a function of (num, start, last), for T = 1000.
GRIDS = {
    "uniform": partial(grids.uniform, 1000),
    "quadratic": partial(grids.quadratic, 1000),
    "power": partial(grids.power_law, 1000, power=1.2),
    "root": partial(grids.power_law, 1000, power=0.5),
    **{name: partial(grid, LINEAR) for name, grid in BY_LEVEL.items()},
}


def refused(message):
    return pytest.raises(ValueError, match=message)


def evenly(values):
    """Whether there is as much between any two neighbours."""
    steps = np.diff(values)
    return np.abs(steps - steps.mean()).max() < 1e-9 * np.abs(steps).max()


def test_ends_are_exact_and_times_decrease_strictly():
    ends = [(None, 0), (998, 3), (700.25, 0.1), (1 / 3, 0.0)]
    for name, num, (start, last) in product(GRIDS, (1, 2, 3, 8, 50, 999, 4000), ends):
        case = f"{num} times, {name}, from {start} to {last}"
        times = GRIDS[name](num, start=start, last=last)
        assert times.shape == (num,) and times.dtype == np.float64, case
        assert times[0] == (999 if start is None else start), case
        assert num == 1 or times[-1] == last, case
        assert (np.diff(times) < 0).all(), case


def test_grids_by_time_are_even_in_a_power_of_it():
    for start, last in [(None, 0), (900.5, 3)]:
        ends = {"start": start, "last": last}
        assert evenly(grids.uniform(1000, 7, **ends))
        assert evenly(np.sqrt(grids.quadratic(1000, 7, **ends)))
        assert evenly(grids.power_law(1000, 7, 1.2, **ends) ** (1 / 1.2))
        assert not evenly(grids.quadratic(1000, 7, **ends))


def test_grids_by_level_are_even_in_it():
    for (name, schedule), last in product((SCHEDULES | {"zero": ZERO}).items(), (0, 2.5)):
        case, start = f"{name}, to {last}", schedule.T - 2
        times = grids.uniform_log_snr(schedule, 9, start=start, last=last)
        assert evenly(schedule.log_snr(times)), case
        for rho in (1.0, 5.0, 7.0):
            alpha, sigma = schedule.at(grids.karras(schedule, 9, rho, start=start, last=last))
            assert evenly((sigma / alpha) ** (1 / rho)), f"{case}, rho {rho}"


def test_karras_of_edm_is_its_table():
    schedule = schedules.variance_exploding(1000, 0.002, 80.0)
    sigma = schedule.at(grids.karras(schedule, 18))[1]
    i = np.arange(18)
    theirs = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(sigma, theirs, rtol=1e-11)


def test_karras_becomes_uniform_in_log_snr():
    limit = grids.uniform_log_snr(LINEAR, 12)
    gaps = [np.abs(grids.karras(LINEAR, 12, rho) - limit).max() for rho in (7, 70, 700, 7e5)]
    assert gaps[0] > 100 and gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.01


def test_few_steps_are_those_published_for_stable_diffusion():
    five = grids.few_steps(SD, 6)
    assert five.round(1).tolist() == [999, 772.5, 556.7, 354.2, 170, 18.3]
    eight = grids.few_steps(SD, 9)
    assert eight.round().tolist() == [999, 857, 719, 586, 457, 334, 219, 113, 23]
    # Where the pictures are left: sigma / alpha.
    sigma, alpha = (np.array([SD.at(t[-1])[i] for t in (five, eight)]) for i in (1, 0))
    np.testing.assert_allclose(sigma / alpha, [0.132, 0.147], atol=5e-4)


def test_few_steps_end_within_a_karras_grid():
    for num, points, rho, i in [(2, 8, 5, 5), (5, 8, 5, 5), (7, 8, 5, 6), (8, 12, 7, 9)]:
        times = grids.few_steps(LINEAR, num)
        assert len(times) == num and times[0] == 999, num
        assert times[-1] == grids.karras(LINEAR, points, rho)[i], num
        assert num == 2 or evenly(times ** (1 / 1.2)), num


def test_grids_by_level_do_not_start_at_zero_snr(subtests):
    message = "at time 999 the SNR is zero.*: give start=998, and put 999 before the grid.*uniform"
    by_level = BY_LEVEL | {"few_steps": grids.few_steps}
    for (name, schedule), grid in product({"flow": FLOW, "zero": ZERO}.items(), by_level):
        with subtests.test(grid, schedule=name):
            with refused(message):
                by_level[grid](schedule, 5)
            assert by_level[grid](schedule, 5, start=998)[0] == 998
        for by_time in (grids.trailing, grids.uniform, grids.quadratic):
            assert schedule.at(by_time(1000, 5))[0][0] == 0


def test_ends_that_are_none_are_refused(subtests):
    ends = [(1000, 0), (999.5, 0), (-1, 0), (5, 5), (5, 7), (5, -1), (np.nan, 0), (5, np.nan)]
    for name, (start, last) in product(GRIDS, ends):
        message = rf"start is {start} and last is {last}: .* 999 \.\. 0"
        with subtests.test(name, start=start, last=last), refused(message):
            GRIDS[name](4, start=start, last=last)


def test_number_of_times_is_whole(subtests):
    message = "num is .*: it must be a whole number of at least 1"
    for name, num in product(GRIDS, (0, -1, 2.5, "4", None, True)):
        with subtests.test(name, num=num), refused(message):
            GRIDS[name](num)


def test_few_steps_have_two_ends(subtests):
    for num in (1, 0, 4.0):
        with subtests.test(num=num), refused(f"num is {num}: .* of at least 2"):
            grids.few_steps(LINEAR, num)


def test_powers_are_positive(subtests):
    for power in (0, -1, np.inf, np.nan):
        with subtests.test(power=power):
            with refused(f"power is {power}: it must be a positive number"):
                grids.power_law(1000, 5, power)
            with refused(f"rho is {power}: it must be a positive number"):
                grids.karras(LINEAR, 5, power)


def test_times_that_fall_together_are_refused():
    with refused("not all of 5 times can be told apart: ask for fewer"):
        grids.power_law(1000, 5, 1e9)


def test_schedules_of_a_time_or_two():
    for T in (1, 2):
        schedule = schedules.from_betas(np.full(T, 0.1))
        for num in (1, T):
            for times in (grids.uniform(T, num), grids.karras(schedule, num)):
                assert times.tolist() == list(range(T - 1, T - 1 - num, -1))


def test_a_plan_takes_all_times_or_ends_at_the_last():
    for name, grid in GRIDS.items():
        times = grid(6, last=2.5)
        assert plans.ddim(LINEAR, times).nfe == 6, name
        ended = plans.ddim(LINEAR, times[:-1], end=times[-1])
        assert ended.nfe == 5, name
        alpha, sigma = LINEAR.at(times)
        np.testing.assert_array_equal(ended.alpha, alpha[:-1], name)
        np.testing.assert_array_equal(ended.sigma, sigma[:-1], name)


def test_every_grid_is_tested_here_or_is_of_whole_times():
    whole = {"skipped", "respaced", "leading", "trailing", "linspace"}
    here = {"uniform", "quadratic", "power_law", "uniform_log_snr", "karras", "few_steps"}
    found = {name for name, _ in inspect.getmembers(grids, inspect.isfunction)}
    assert found - {"named"} == whole | here
