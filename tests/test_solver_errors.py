"""What the writers of plans refuse, and what they say of it."""

import re
from functools import partial

import numpy as np
import pytest

from skipjax import grids, plans, schedules
from skipjax.plans import METHODS

LINEAR = schedules.linear()
TIMES = grids.trailing(1000, 6)
WRITERS = {name: method.write for name, method in METHODS.items()} | {
    "hybrid": partial(plans.hybrid, cutoff=500),
    "singlestep": partial(plans.singlestep, orders=[3, 2, 1]),
}
MULTISTEP = [plans.dpm_2m, plans.dpm_3m, plans.dpmpp_2m, plans.dpmpp_3m]
MULTISTEP += [plans.dpmpp_2m_sde, plans.dpmpp_3m_sde]
SINGLESTEP = [plans.dpm_2s, plans.dpmpp_2s, plans.dpm_3s, plans.dpmpp_3s]


def named(writers):
    return pytest.mark.parametrize("write", writers, ids=lambda write: write.__name__)


def refused(message):
    return pytest.raises(ValueError, match=re.escape(message))


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_times_that_do_not_fit_the_schedule(write):
    for times, message in [
        ([10, 20, 30, 40, 50, 60], "times must decrease strictly within 999 .. 0, got [10, 20"),
        ([900, 500, 500, 300, 200, 100], "times must decrease strictly"),
        ([1000, 800, 600, 400, 200, 100], "times must decrease strictly within 999 .. 0"),
        ([900, 700, 500, 300, 100, -1], "times must decrease strictly within 999 .. 0"),
        ([900.0, 700.0, np.nan, 300.0, 200.0, 100.0], "times must decrease strictly"),
        ([np.inf, 700.0, 500.0, 300.0, 200.0, 100.0], "times must decrease strictly"),
        ([TIMES], "times must be a non-empty vector of numbers"),
        (["900", "700"], "times must be a non-empty vector of numbers"),
        ([], "times must be a non-empty vector of numbers"),
        (6, "times must be a non-empty vector of numbers, got 6"),
    ]:
        with refused(message):
            write(LINEAR, times)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("end", [TIMES[-1], 900, -0.5, -2, np.nan], ids=str)
def test_an_end_that_is_not_below_the_last_call(write, end):
    with refused(f"end is {end}: it must be -1, the data, or a time in 0 .. {TIMES[-1]}, below"):
        write(LINEAR, TIMES, end=end)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.fewest > 1])
def test_too_few_times_for_the_order(name):
    method = METHODS[name]
    few = method.fewest - 1
    with refused(f"{few} times are too few: this method and order need {few + 1} or more"):
        method.write(LINEAR, grids.trailing(1000, few))
    assert method.write(LINEAR, grids.trailing(1000, few + 1)).nfe >= few + 1


@named([*MULTISTEP, *SINGLESTEP])
def test_another_solver_type(write):
    with refused("solver_type is 'trapezoid': it must be 'midpoint' or 'heun'"):
        write(LINEAR, TIMES, solver_type="trapezoid")


@named([plans.dpm_3m, plans.dpmpp_3m, plans.dpm_3s, plans.dpmpp_3s])
def test_another_library_to_be_compatible_with(write):
    with refused("compat is 'k-diffusion': it must be None or 'diffusers'"):
        write(LINEAR, TIMES, compat="k-diffusion")


def test_another_variant_of_unipc():
    with refused("variant is 'bh3': it must be 'bh1' or 'bh2'"):
        plans.unipc(LINEAR, TIMES, variant="bh3")


def test_unipc_bh1_from_noise_alone():
    with refused("variant 'bh1' cannot start from zero SNR: use 'bh2'"):
        plans.unipc(schedules.zero_terminal_snr(LINEAR), TIMES, variant="bh1")


def test_another_variable_of_deis():
    with refused("variable is 'lambda': it must be one of t, rho, log_rho"):
        plans.deis(LINEAR, TIMES, variable="lambda")


@pytest.mark.parametrize("space", ["v", "eps ", None])
@pytest.mark.parametrize(
    "write",
    [plans.unipc, plans.dpm_fast, partial(plans.singlestep, orders=[3, 2, 1])],
    ids=["unipc", "dpm_fast", "singlestep"],
)
def test_another_space(write, space):
    with refused(f"space is {space!r}: it must be 'x_0' or 'eps'"):
        write(LINEAR, TIMES, space=space)


@pytest.mark.parametrize(
    ("write", "low", "high"),
    [(plans.unipc, 1, 3), (plans.deis, 0, 3), (plans.ipndm, 1, 4)],
    ids=["unipc", "deis", "ipndm"],
)
def test_an_order_out_of_its_range(write, low, high):
    for order in (low - 1, high + 1, 1.5, "2", None, True):
        with refused(f"order is {order!r}: it must be a whole number in {low} .. {high}"):
            write(LINEAR, TIMES, order)


@named([plans.dpm_2s, plans.dpmpp_2s])
@pytest.mark.parametrize("r", [0.0, 1.0, -0.5, np.nan])
def test_a_second_call_outside_its_step(write, r):
    with refused(f"r is {(r,)}: it must lie within 0 .. 1"):
        write(LINEAR, TIMES, r=r)


@named([plans.dpm_3s, plans.dpmpp_3s])
@pytest.mark.parametrize("r", [(0.0, 0.5), (0.5, 1.0), (0.6, 0.4), (0.5, 0.5), (np.nan, 0.5)])
def test_second_and_third_calls_outside_their_step(write, r):
    with refused(f"r is {r}: it must lie within 0 .. 1, and increase"):
        write(LINEAR, TIMES, r=r)


def test_orders_that_do_not_fit_the_calls():
    for orders, message in [
        ([3, 3, 1], "orders [3, 3, 1] are 7 calls in all, and there are 6"),
        ([], "orders [] are 0 calls in all, and there are 6"),
        ([4, 2], "orders is 4: it must be a whole number in 1 .. 3"),
        ([3, 0, 3], "orders is 0: it must be a whole number in 1 .. 3"),
        ([1, 2, 3], "the step from time 499 to -1 is infinitely long in log_snr: its order must"),
    ]:
        with refused(message):
            plans.singlestep(LINEAR, TIMES, orders)
    with refused("nfe is 0: it must be a whole number of at least 1"):
        plans.fast_times(LINEAR, 0)


SDE = [plans.dpmpp_1_sde, plans.dpmpp_2m_sde, plans.dpmpp_3m_sde]


@named([plans.ddim, plans.euler_ancestral, *SDE])
@pytest.mark.parametrize("eta", [-0.1, 1.1, np.nan, [0.5, 0.5], [[0.5]]], ids=str)
def test_an_eta_out_of_its_range(write, eta):
    with refused("eta must be a number in 0 .. 1, or 6 of them, one per step"):
        write(LINEAR, TIMES, eta)


def test_a_name_that_is_not_in_the_catalogue():
    with refused("plan is 'dpm++': it must be one of skipped, ddpm"):
        plans.write("dpm++", LINEAR, TIMES)
