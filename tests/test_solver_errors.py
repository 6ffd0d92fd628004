"""What the writers of plans refuse, and what they say of it."""

import re
from functools import partial
from itertools import product

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


def refused(message):
    return pytest.raises(ValueError, match=re.escape(message))


def test_times_that_do_not_fit_the_schedule(subtests):
    bad = [
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
    ]
    for name, (times, message) in product(WRITERS, bad):
        with subtests.test(name, times=times), refused(message):
            WRITERS[name](LINEAR, times)


def test_an_end_that_is_not_below_the_last_call(subtests):
    for name, end in product(WRITERS, (TIMES[-1], 900, -0.5, -2, np.nan)):
        message = f"end is {end}: it must be -1, the data, or a time in 0 .. {TIMES[-1]}, below"
        with subtests.test(name, end=end), refused(message):
            WRITERS[name](LINEAR, TIMES, end=end)


def test_too_few_times_for_the_order(subtests):
    for name, method in METHODS.items():
        few = method.fewest - 1
        if not few:
            continue
        message = f"{few} times are too few: this method and order need {few + 1} or more"
        with subtests.test(name), refused(message):
            method.write(LINEAR, grids.trailing(1000, few))
        assert method.write(LINEAR, grids.trailing(1000, few + 1)).nfe >= few + 1, name


def test_another_form_of_dpm_solver(subtests):
    for write in [*MULTISTEP, *SINGLESTEP]:
        message = "solver_type is 'trapezoid': it must be 'midpoint' or 'heun'"
        with subtests.test(write.__name__), refused(message):
            write(LINEAR, TIMES, solver_type="trapezoid")
    for write in (plans.dpm_3m, plans.dpmpp_3m, plans.dpm_3s, plans.dpmpp_3s):
        message = "compat is 'k-diffusion': it must be None or 'diffusers'"
        with subtests.test(write.__name__), refused(message):
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


def test_another_space(subtests):
    writers = {
        "unipc": plans.unipc,
        "dpm_fast": plans.dpm_fast,
        "singlestep": WRITERS["singlestep"],
    }
    for name, space in product(writers, ("v", "eps ", None)):
        message = f"space is {space!r}: it must be 'x_0' or 'eps'"
        with subtests.test(name, space=space), refused(message):
            writers[name](LINEAR, TIMES, space=space)


def test_an_order_out_of_its_range(subtests):
    for write, low, high in [(plans.unipc, 1, 3), (plans.deis, 0, 3), (plans.ipndm, 1, 4)]:
        for order in (low - 1, high + 1, 1.5, "2", None, True):
            message = f"order is {order!r}: it must be a whole number in {low} .. {high}"
            with subtests.test(write.__name__, order=order), refused(message):
                write(LINEAR, TIMES, order)


def test_calls_outside_their_step_or_out_of_order(subtests):
    for write, r in product((plans.dpm_2s, plans.dpmpp_2s), (0.0, 1.0, -0.5, np.nan)):
        message = f"r is {(r,)}: it must lie within 0 .. 1"
        with subtests.test(write.__name__, r=r), refused(message):
            write(LINEAR, TIMES, r=r)
    pairs = [(0.0, 0.5), (0.5, 1.0), (0.6, 0.4), (0.5, 0.5), (np.nan, 0.5)]
    for write, r in product((plans.dpm_3s, plans.dpmpp_3s), pairs):
        message = f"r is {r}: it must lie within 0 .. 1, and increase"
        with subtests.test(write.__name__, r=r), refused(message):
            write(LINEAR, TIMES, r=r)


def test_orders_that_do_not_fit_the_calls(subtests):
    for orders, message in [
        ([3, 3, 1], "orders [3, 3, 1] are 7 calls in all, and there are 6"),
        ([], "orders [] are 0 calls in all, and there are 6"),
        ([4, 2], "orders is 4: it must be a whole number in 1 .. 3"),
        ([3, 0, 3], "orders is 0: it must be a whole number in 1 .. 3"),
        ([1, 2, 3], "the step from time 499 to -1 is infinitely long in log_snr: its order must"),
    ]:
        with subtests.test(orders=orders), refused(message):
            plans.singlestep(LINEAR, TIMES, orders)
    with refused("nfe is 0: it must be a whole number of at least 1"):
        plans.fast_times(LINEAR, 0)


def test_an_eta_out_of_its_range(subtests):
    writers = [plans.ddim, plans.euler_ancestral]
    writers += [plans.dpmpp_1_sde, plans.dpmpp_2m_sde, plans.dpmpp_3m_sde]
    for write, eta in product(writers, (-0.1, 1.1, np.nan, [0.5, 0.5], [[0.5]])):
        message = "eta must be a number in 0 .. 1, or 6 of them, one per step"
        with subtests.test(write.__name__, eta=eta), refused(message):
            write(LINEAR, TIMES, eta=eta)


def test_a_name_that_is_not_in_the_catalogue():
    with refused("plan is 'dpm++': it must be one of skipped, ddpm"):
        plans.write("dpm++", LINEAR, TIMES)
