"""Which times the grids visit."""

import json
from itertools import product

import numpy as np
import pytest

from skipjax import grids


def test_skipped_strides_from_the_noisiest_time():
    times = grids.skipped(1000, skip=20)
    assert times.tolist() == list(range(999, 18, -20))
    assert len(times) == 50 and times[-1] == 19
    assert (grids.skipped(1000) == times).all()


def test_every_jump_of_skipped_is_skip_and_only_the_last_is_shorter():
    for skip in (1, 2, 3, 7, 20, 50, 333, 500, 999, 1000):
        times = grids.skipped(1000, skip)
        assert len(times) == -(-1000 // skip), skip
        jumps = -np.diff(np.append(times, -1))
        assert (jumps[:-1] == skip).all(), skip
        assert jumps[-1] == (1000 % skip or skip), skip


def test_skipped_visits_as_many_times_as_it_says_for_every_skip():
    for T in (1, 2, 17):
        for skip in range(1, T + 1):
            times = grids.skipped(T, skip)
            assert len(times) == -(-T // skip) and times[0] == T - 1 and times[-1] >= 0


def test_respaced_equals_guided_diffusions_respacing(goldens):
    golden = json.loads((goldens / "diffusion" / "respacing.json").read_text())["timesteps"]
    assert len(golden) == 18
    for case, kept in golden.items():
        T, steps = case.split("|")
        steps = json.loads(steps.removeprefix("(list)")) if "(list)" in steps else steps
        assert grids.respaced(int(T), steps).tolist() == kept[::-1], case


def test_respaced_accepts_and_refuses_what_guided_diffusion_does(goldens):
    golden = json.loads((goldens / "diffusion" / "respacing.json").read_text())["edge_cases"]
    assert len(golden) == 4
    for case, expected in golden.items():
        T, steps = case.split("|")
        if expected["ok"]:
            assert grids.respaced(int(T), steps).tolist() == expected["result"][::-1], case
        else:
            with pytest.raises(ValueError, match=steps):
                grids.respaced(int(T), steps)


def test_respaced_with_nothing_said_keeps_all_times():
    assert grids.respaced(5).tolist() == [4, 3, 2, 1, 0]


def test_grids_of_diffusers():
    for grid, times in [
        (grids.leading(1000, 5), [800, 600, 400, 200, 0]),
        (grids.leading(1000, 5, offset=1), [801, 601, 401, 201, 1]),
        (grids.leading(10, 3), [6, 3, 0]),
        (grids.leading(3, 3), [2, 1, 0]),
        (grids.trailing(1000, 5), [999, 799, 599, 399, 199]),
        (grids.trailing(10, 3), [9, 6, 2]),
        (grids.trailing(7, 1), [6]),
        (grids.linspace(1000, 5), [999, 749, 500, 250, 0]),
        (grids.linspace(10, 10), list(range(9, -1, -1))),
        (grids.linspace(10, 3), [9, 4, 0]),
    ]:
        assert grid.tolist() == times
        assert np.issubdtype(grid.dtype, np.integer)


BY_NUMBER = (grids.leading, grids.trailing, grids.linspace)


def test_grids_decrease_strictly_within_the_times():
    for grid, num in product(BY_NUMBER, (1, 2, 3, 7, 50, 333, 999, 1000)):
        times, case = grid(1000, num), f"{grid.__name__}, {num}"
        assert len(times) == num and (np.diff(times) < 0).all(), case
        assert times[0] <= 999 and times[-1] >= 0, case


def test_skip_that_is_no_whole_number_in_its_range_is_refused(subtests):
    for skip in (0, -1, 1001):
        message = rf"skip is {skip}: it must be a whole number in 1 \.\. 1000"
        with subtests.test(skip=skip), pytest.raises(ValueError, match=message):
            grids.skipped(1000, skip)
    for skip in (2.5, 20.0, "20", None, True, np.float64(3)):
        message = "skip is .*: it must be a whole number"
        with subtests.test(skip=skip), pytest.raises(ValueError, match=message):
            grids.skipped(1000, skip)


def test_number_of_times_outside_its_range_is_refused(subtests):
    for grid, num in product(BY_NUMBER, (0, -3, 11, 2.5)):
        message = f"num is {num}: it must be"
        with subtests.test(grid.__name__, num=num), pytest.raises(ValueError, match=message):
            grid(10, num)


def test_offset_beyond_the_last_time_is_refused():
    assert grids.leading(10, 5, offset=1)[0] == 9
    with pytest.raises(ValueError, match="offset is 2"):
        grids.leading(10, 5, offset=2)


def test_respacing_that_cannot_be_is_refused(subtests):
    for steps, message in [
        ("abc", "'abc' is not a respacing"),
        ("10,,10", "is not a respacing"),
        ("2.5", "is not a respacing"),
        ("ddim", "is not a respacing"),
        ("ddim0", "no whole stride"),
        ("ddim11", "no whole stride"),
        ("-1", "asks for -1"),
        ("11", "asks for 11 of the 10 times"),
        ("0", "keeps no time"),
        ([], "keeps no time"),
        ([5, 6], "asks for 6 of the 5 times in section 2 of 2"),
    ]:
        with subtests.test(steps=steps), pytest.raises(ValueError, match=message):
            grids.respaced(10, steps)


def test_multistep_grids_are_one_time_denser_and_leave_out_the_last():
    for num in (1, 5, 7, 999):
        assert grids.linspace(1000, num, multistep=True).tolist() == (
            np.round(np.linspace(999, 0, num + 1)).astype(int)[:-1].tolist()
        )
        stride = 1000 // (num + 1)
        times = grids.leading(1000, num, 1 if stride > 1 else 0, multistep=True)
        assert times.tolist() == [(stride > 1) + stride * i for i in range(num, 0, -1)]


def test_multistep_grids_have_one_time_less(subtests):
    for grid in (grids.leading, grids.linspace):
        assert len(grid(10, 9, multistep=True)) == 9
        for num in (0, 10, 2.5):
            message = rf"num is {num}: it must be a whole number in 1 \.\. 9"
            with subtests.test(grid.__name__, num=num):
                with pytest.raises(ValueError, match=message):
                    grid(10, num, multistep=True)
