"""Methods by the words of other libraries, by a number of calls, and arguments that are meant."""

import re
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from skipjax import grids, plans, schedules

LINEAR = schedules.linear()
TIMES = grids.trailing(1000, 6)


def refused(message, kind=ValueError):
    return pytest.raises(kind, match=re.escape(message))


def test_words_of_other_libraries():
    for words, name in {
        "DPM++ 2M": "dpmpp_2m",
        "dpmpp-2m": "dpmpp_2m",
        "dpm++2m": "dpmpp_2m",
        "DPM++ 3M SDE": "dpmpp_3m_sde",
        "euler_a": "euler_ancestral",
        "Euler a": "euler_ancestral",
        "unipc": "unipc_2",
        "PLMS": "plms",
    }.items():
        assert plans.write(words, LINEAR, TIMES).origin.method == name, words
    for name in plans.METHODS:
        assert plans.method_name(name) == name
    with refused("did you mean dpmpp_2m?"):
        plans.write("dpmpp_2mm", LINEAR, TIMES)


def test_as_many_calls_as_are_asked_for_of_every_method(subtests):
    zero = schedules.zero_terminal_snr(LINEAR)
    for name, nfe in product(plans.METHODS, (13, 14, 15)):
        plan = plans.with_nfe(name, LINEAR, nfe, nearest=True)
        assert nfe - 3 < plan.nfe <= nfe and plan.origin.method == name, (name, nfe)
        method = plans.METHODS[name]
        if (nfe - method.more) % method.calls == 0:
            assert plan.nfe == nfe, name
        else:
            with subtests.test(name, nfe=nfe), refused(f"nfe is {nfe}: {name} has {plan.nfe} or"):
                plans.with_nfe(name, LINEAR, nfe)
    with refused("heun has 9 or 11 calls"):
        plans.with_nfe("heun", LINEAR, 10)
    with refused("f_pndm has 13 or more calls"):
        plans.with_nfe("f_pndm", LINEAR, 5)
    assert plans.with_nfe("dpmpp_2s", zero, 10).nfe == 10


def test_a_schedule_where_it_is_plain_which(subtests):
    ours = plans.dpmpp_2m(LINEAR, TIMES)
    params = SimpleNamespace(schedule=LINEAR)
    for given in (params, SimpleNamespace(process=params)):
        assert (plans.dpmpp_2m(given, TIMES).mix == ours.mix).all()
        assert (plans.write("ddim", given, TIMES).t == TIMES).all()
        assert (grids.karras(given, 5) == grids.karras(LINEAR, 5)).all()
    for grid in (grids.trailing, grids.leading, grids.linspace, grids.uniform, grids.quadratic):
        assert (grid(LINEAR, 5) == grid(1000, 5)).all()
        assert (grid(np.int64(1000), 5) == grid(1000, 5)).all()
    for write in (*(method.write for method in plans.METHODS.values()), plans.hybrid):
        for wrong, got in (("linear", "'linear'"), (1000, "1000"), (None, "a NoneType")):
            message = f"schedule is {got}: it must be a Schedule"
            with subtests.test(write=write, got=got), refused(message, TypeError):
                write(wrong, TIMES)
    for grid, wrong in product((grids.karras, grids.uniform_log_snr), (1000, "linear")):
        with refused("it must be a Schedule", TypeError):
            grid(wrong, 5)
    with refused("schedule is 'linear': it must be a Schedule", TypeError):
        grids.trailing("linear", 5)


def test_a_gaussian_of_a_variance_exploding_process():
    # Euler's error is of first order: at 40 calls 6.5 %, and a quarter of it at 160.
    first, second = ("ddim", "euler"), ("heun", "dpmpp_2m")
    cases = [*product(second, [40]), *product(first, [160])]
    ve, std = schedules.variance_exploding(), 0.5
    for name, num in cases:
        plan = plans.write(name, ve, grids.uniform_log_snr(ve, num))
        x, past = ve.sigma[-1], []  # a Gaussian's x, x_0 and eps stay in proportion
        for i in range(plan.nfe):
            x_0 = x * std**2 / (std**2 + plan.sigma[i] ** 2)
            past = [x_0 if plan.space == "x_0" else (x - x_0) / plan.sigma[i], *past]
            past = past[: plan.history]
            x = plan.keep[i] * x + plan.mix[i][: len(past)] @ past
        assert abs(x - std) < 0.02 * std, name
