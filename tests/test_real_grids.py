"""Which times the grids visit that stand between the training times."""

import inspect
from functools import partial

import numpy as np
import pytest

from skipjax import grids, plans, schedules

SCHEDULES = {
    "linear": schedules.linear(),
    "scaled_linear": schedules.scaled_linear(),
    "cosine": schedules.cosine(),
    "sigmoid": schedules.sigmoid(),
    "exploding": schedules.variance_exploding(),
    "flow": schedules.rectified_flow(shift=3.0),
    "zero_snr": schedules.zero_terminal_snr(schedules.scaled_linear()),
}
LINEAR, SD = SCHEDULES["linear"], SCHEDULES["scaled_linear"]
BY_TIME = {
    "uniform": grids.uniform,
    "quadratic": grids.quadratic,
    "power": partial(grids.power_law, power=1.2),
    "root": partial(grids.power_law, power=0.5),
}
BY_LEVEL = {
    "uniform_log_snr": grids.uniform_log_snr,
    "karras": grids.karras,
    "karras_5": partial(grids.karras, rho=5.0),
}
by_level = pytest.mark.parametrize("grid", BY_LEVEL.values(), ids=BY_LEVEL)
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


# Each as a function of (num, start, last), for T = 1000.
GRIDS = {name: partial(grid, 1000) for name, grid in BY_TIME.items()}
GRIDS |= {name: partial(grid, LINEAR) for name, grid in BY_LEVEL.items()}
each_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def evenly(values):
    """Whether there is as much between any two neighbours."""
    steps = np.diff(values)
    return np.abs(steps - steps.mean()).max() < 1e-9 * np.abs(steps).max()


@each_grid
@pytest.mark.parametrize("num", [1, 2, 3, 8, 50, 999, 4000])
@pytest.mark.parametrize(("start", "last"), [(None, 0), (998, 3), (700.25, 0.1), (1 / 3, 0.0)])
def test_ends_are_exact_and_times_decrease_strictly(grid, num, start, last):
    times = grid(num, start=start, last=last)
    assert times.shape == (num,) and times.dtype == np.float64
    assert times[0] == (999 if start is None else start) and (num == 1 or times[-1] == last)
    assert (np.diff(times) < 0).all()


@pytest.mark.parametrize(("start", "last"), [(None, 0), (900.5, 3)])
def test_grids_by_time_are_even_in_a_power_of_it(start, last):
    ends = {"start": start, "last": last}
    assert evenly(grids.uniform(1000, 7, **ends))
    assert evenly(np.sqrt(grids.quadratic(1000, 7, **ends)))
    assert evenly(grids.power_law(1000, 7, 1.2, **ends) ** (1 / 1.2))
    assert not evenly(grids.quadratic(1000, 7, **ends))


@each_schedule
@pytest.mark.parametrize("last", [0, 2.5])
def test_grids_by_level_are_even_in_it(schedule, last):
    start = schedule.T - 2
    times = grids.uniform_log_snr(schedule, 9, start=start, last=last)
    assert evenly(schedule.log_snr(times))
    for rho in (1.0, 5.0, 7.0):
        alpha, sigma = schedule.at(grids.karras(schedule, 9, rho, start=start, last=last))
        assert evenly((sigma / alpha) ** (1 / rho))


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


@pytest.mark.parametrize(
    ("num", "points", "rho", "i"), [(2, 8, 5, 5), (5, 8, 5, 5), (7, 8, 5, 6), (8, 12, 7, 9)]
)
def test_few_steps_end_within_a_karras_grid(num, points, rho, i):
    times = grids.few_steps(LINEAR, num)
    assert len(times) == num and times[0] == 999
    assert times[-1] == grids.karras(LINEAR, points, rho)[i]
    assert num == 2 or evenly(times ** (1 / 1.2))


@by_level
@pytest.mark.parametrize("name", ["flow", "zero_snr"])
def test_grids_by_level_do_not_start_at_zero_snr(grid, name):
    schedule = SCHEDULES[name]
    message = "at time 999 the SNR is zero.*: give start=998, and put 999 before the grid.*uniform"
    for make in (grid, grids.few_steps):
        with pytest.raises(ValueError, match=message):
            make(schedule, 5)
    assert grid(schedule, 5, start=998)[0] == 998
    assert grids.few_steps(schedule, 5, start=998)[0] == 998
    for times in (grids.trailing(1000, 5), grids.uniform(1000, 5), grids.quadratic(1000, 5)):
        assert schedule.at(times)[0][0] == 0


@each_grid
@pytest.mark.parametrize(
    ("start", "last"),
    [(1000, 0), (999.5, 0), (-1, 0), (5, 5), (5, 7), (5, -1), (np.nan, 0), (5, np.nan)],
)
def test_ends_that_are_none_are_refused(grid, start, last):
    with pytest.raises(ValueError, match=rf"start is {start} and last is {last}: .* 999 \.\. 0"):
        grid(4, start=start, last=last)


@each_grid
@pytest.mark.parametrize("num", [0, -1, 2.5, "4", None, True], ids=repr)
def test_number_of_times_is_whole(grid, num):
    with pytest.raises(ValueError, match="num is .*: it must be a whole number of at least 1"):
        grid(num)


@pytest.mark.parametrize("num", [1, 0, 4.0])
def test_few_steps_have_two_ends(num):
    with pytest.raises(ValueError, match=f"num is {num}: .* of at least 2"):
        grids.few_steps(LINEAR, num)


@pytest.mark.parametrize("power", [0, -1, np.inf, np.nan])
def test_powers_are_positive(power):
    with pytest.raises(ValueError, match=f"power is {power}: it must be a positive number"):
        grids.power_law(1000, 5, power)
    with pytest.raises(ValueError, match=f"rho is {power}: it must be a positive number"):
        grids.karras(LINEAR, 5, power)


def test_times_that_fall_together_are_refused():
    with pytest.raises(ValueError, match="not all of 5 times can be told apart: ask for fewer"):
        grids.power_law(1000, 5, 1e9)


@pytest.mark.parametrize("T", [1, 2])
def test_schedules_of_a_time_or_two(T):
    schedule = schedules.from_betas(np.full(T, 0.1))
    for num in (1, T):
        for times in (grids.uniform(T, num), grids.karras(schedule, num)):
            assert times.tolist() == list(range(T - 1, T - 1 - num, -1))


@each_grid
def test_a_plan_takes_all_times_or_ends_at_the_last(grid):
    times = grid(6, last=2.5)
    assert plans.ddim(LINEAR, times).nfe == 6
    ended = plans.ddim(LINEAR, times[:-1], end=times[-1])
    assert ended.nfe == 5
    alpha, sigma = LINEAR.at(times)
    np.testing.assert_array_equal(ended.alpha, alpha[:-1])
    np.testing.assert_array_equal(ended.sigma, sigma[:-1])


def test_every_grid_is_tested_here_or_is_of_whole_times():
    whole = {"skipped", "respaced", "leading", "trailing", "linspace"}
    here = {"uniform", "quadratic", "power_law", "uniform_log_snr", "karras", "few_steps"}
    found = {name for name, _ in inspect.getmembers(grids, inspect.isfunction)}
    assert found - {"named"} == whole | here
