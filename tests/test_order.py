"""Order of convergence of every deterministic plan, against the flow solved to the last digits."""

from collections.abc import Callable
from functools import cache, partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import NOISY, by_space

from skipjax import grids, plans, schedules
from skipjax.evaluation.exact import Mixture, reference
from skipjax.plans import METHODS
from skipjax.sampling import integrate

# Many times: at each the schedule has a kink, which methods that go by t would see. It begins in
# nearly pure noise, and ends where x_0 is still uncertain, so that the last step is felt.
SCHEDULE = schedules.linear(20_000, beta_end=0.03)
START, END = SCHEDULE.T - 1, 2000
TARGET = Mixture([0.4, 0.3, 0.2, 0.1], [[1.0, 0.8], [-1.2, 0.6], [-0.5, -1.1], [0.9, -0.9]], 0.35)
X = np.random.default_rng(0).normal(size=(16, 2))


class Case(NamedTuple):
    """A method that makes `calls` N + `more` calls for N times, and the order expected of it."""

    write: Callable
    order: int
    calls: int = 1
    more: int = 0
    start: int = START
    further: int = 0  # calls beyond those of the others


def forms(names, options, order, calls=1):
    """Methods by name, each with every one of some options."""
    return {
        f"{name} {chosen}": Case(partial(getattr(plans, name), **chosen), order, calls)
        for name, chosen in product(names, options)
    }


HEUN, DIFFUSERS = {"solver_type": "heun"}, {"compat": "diffusers"}
CATALOGUE = {
    name: Case(method.write, method.order, method.calls, max(method.more, 0))
    for name, method in METHODS.items()
    if name not in NOISY
}
FORMS = {
    **forms(("dpm_2m", "dpmpp_2m"), [HEUN], 2),
    **forms(("dpm_2s", "dpmpp_2s"), [HEUN, {"r": 0.3}], 2, 2),
    **forms(
        ("dpm_3s", "dpmpp_3s"),
        [HEUN, DIFFUSERS, {"r": (0.4, 2 / 3)}, {"r": (0.4, 2 / 3)} | HEUN],
        3,
        3,
    ),
    **forms(("dpm_3s", "dpmpp_3s"), [{"r": (0.4, 0.8)}, {"r": (0.4, 0.8)} | HEUN], 2, 3),
    # Half a second derivative leaves order 2.
    **forms(("dpm_3m", "dpmpp_3m"), [DIFFUSERS], 2),
}
UNIPC = {
    f"{variant}, {space}, {p}, {corrector}": Case(
        partial(plans.unipc, order=p, variant=variant, space=space, corrector=corrector),
        p + corrector,
    )
    for (variant, space), p, corrector in product(
        [("bh1", "x_0"), ("bh1", "eps"), ("bh2", "eps")], (1, 2, 3), (True, False)
    )
}
LOWER_AT_THE_END = {
    write.__name__: Case(partial(write, lower_order_final=True, **options), 2)
    for write, options in [(plans.dpmpp_3m, {}), (plans.unipc, {"order": 3}), (plans.deis, {})]
}
# With a last step of order 1, and without.
FAST = {
    f"dpm_fast {space}, {further} more": Case(
        partial(plans.dpm_fast, space=space), order, further=further
    )
    for space, (order, further) in product(("x_0", "eps"), [(2, 0), (3, 2)])
}
MIDWAY = {
    f"{name} midway": Case(METHODS[name].write, limited, METHODS[name].calls, start=5000)
    for name, limited in {
        "dpmpp_2m": 2, "dpmpp_3m": 2, "deis_tab3": 2, "unipc_3": 3, "dpmpp_3s": 3
    }.items()
}  # fmt: skip
CASES = CATALOGUE | FORMS | UNIPC | LOWER_AT_THE_END | FAST | MIDWAY
FEW = (192, 384)
MANY = (192, 384, 768, 1536)
# What few calls do not show yet, and what takes long to write beside others of its kind.
LATE = {"deis_log_rho3", "dpm_fast x_0, 0 more", "deis_tab1", "deis_tab2"}


@jax.jit
@partial(jax.vmap, in_axes=(0, None))
def run(plan, x):
    return integrate(plan, TARGET.denoise, x, jax.random.split(jax.random.key(0), len(x)))


@cache
def exact(start):
    levels = [tuple(map(float, SCHEDULE.at(t))) for t in (start, END)]
    return reference(TARGET.denoise, X, *levels, rtol=1e-13)


def written(case, nfe):
    num = (nfe - case.more) // case.calls
    times = grids.uniform_log_snr(SCHEDULE, num + 1, start=case.start, last=END)
    plan = case.write(SCHEDULE, times[:-1], end=END)
    assert plan.nfe == nfe and not plan.noise.any()
    return plan


@pytest.fixture(
    scope="module", params=[FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"]
)
def steeper(request, compiled_in_a_hurry):
    """By how much an error falls more steeply with NFE than is expected, of every case: the slope
    of the rms error over grids even in log_snr."""
    nfes, errors = request.param, {}
    chosen = [name for name in CASES if nfes is MANY or name not in LATE]
    tables = {
        (name, nfe): written(CASES[name], nfe + CASES[name].further)
        for name, nfe in product(chosen, nfes)
    }
    with jax.enable_x64(True):
        for names, stacked in by_space(tables, max(nfes) + 2):
            for (name, nfe), ends in zip(names, run(stacked, jnp.asarray(X)), strict=True):
                off = np.asarray(ends) - exact(CASES[name].start)
                errors[name, nfe] = np.sqrt(np.mean(np.square(off)))

    def slope(name):
        logs = np.log([(nfe + CASES[name].further, errors[name, nfe]) for nfe in nfes])
        return -np.polyfit(*logs.T, 1)[0]

    return {name: slope(name) - CASES[name].order for name in chosen}


def unexpected(steeper, cases):
    return {name: off for name, off in steeper.items() if name in cases and not abs(off) < 0.15}


def test_the_order_is_what_the_catalogue_says(steeper):
    assert not unexpected(steeper, CATALOGUE)


def test_other_forms_of_dpm_solver_are_of_their_order(steeper):
    assert not unexpected(steeper, FORMS)


def test_unipc_is_of_order_p_plus_1_with_its_corrector(steeper):
    assert not unexpected(steeper, UNIPC)


def test_going_down_to_order_1_at_the_end_leaves_order_2(steeper):
    assert not unexpected(steeper, LOWER_AT_THE_END)


def test_dpm_fast_is_of_order_3_without_a_last_step_of_order_1(steeper):
    assert plans.fast_orders(MANY[0])[-1] == 1 and plans.fast_orders(MANY[0] + 2)[-1] == 2
    assert not unexpected(steeper, FAST)


def test_a_first_step_of_order_1_limits_multistep_methods_that_start_midway(steeper):
    # From nearly pure noise x_0 and eps hardly change at first, and it does not show.
    assert not unexpected(steeper, MIDWAY)
