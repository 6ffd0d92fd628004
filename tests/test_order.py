"""Order of convergence of every deterministic plan, against the flow solved to the last digits."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import NOISY, padded

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
NFE = np.array([192, 384, 768, 1536])


@jax.jit
@partial(jax.vmap, in_axes=(0, None))
def run(plan, x):
    return integrate(plan, TARGET.denoise, x, jax.random.split(jax.random.key(0), len(x)))


@cache
def exact(start):
    levels = [tuple(map(float, SCHEDULE.at(t))) for t in (start, END)]
    return reference(TARGET.denoise, X, *levels, rtol=1e-13)


def order(write, calls=1, more=0, *, start=START, nfes=NFE):
    """How steeply the rms error falls with NFE: the slope over four grids even in log_snr."""
    tables = []
    for nfe in nfes:
        num = (nfe - more) // calls
        times = grids.uniform_log_snr(SCHEDULE, num + 1, start=start, last=END)
        plan = write(SCHEDULE, times[:-1], end=END)
        assert plan.nfe == nfe and not plan.noise.any()
        tables.append(padded(plan, NFE[-1] + 2))
    ends = run(jax.tree.map(lambda *columns: np.stack(columns), *tables), jnp.asarray(X))
    errors = np.sqrt(np.mean(np.square(np.asarray(ends) - exact(start)), axis=(1, 2)))
    slope = -np.polyfit(np.log(nfes), np.log(errors), 1)[0]
    print(f"order {slope:.2f}: errors {errors}")
    return slope


def about(order):
    return pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in NOISY])
def test_the_order_is_what_the_catalogue_says(float64, name):
    method = METHODS[name]
    assert order(method.write, method.calls, max(method.more, 0)) == about(method.order)


@pytest.mark.parametrize("name", ["dpm_2m", "dpmpp_2m"])
def test_2m_is_of_order_2_in_its_other_form(float64, name):
    assert order(partial(getattr(plans, name), solver_type="heun")) == about(2)


@pytest.mark.parametrize("name", ["dpm_2s", "dpmpp_2s"])
@pytest.mark.parametrize("options", [{"solver_type": "heun"}, {"r": 0.3}], ids=str)
def test_2s_is_of_order_2_in_its_other_forms(float64, name, options):
    assert order(partial(getattr(plans, name), **options), calls=2) == about(2)


@pytest.mark.parametrize("name", ["dpm_3s", "dpmpp_3s"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"solver_type": "heun"}, 3),
        ({"compat": "diffusers"}, 3),
        ({"r": (0.4, 2 / 3)}, 3),
        ({"r": (0.4, 2 / 3), "solver_type": "heun"}, 3),
        ({"r": (0.4, 0.8)}, 2),
        ({"r": (0.4, 0.8), "solver_type": "heun"}, 2),
    ],
    ids=str,
)
def test_order_of_3s_in_its_other_forms(float64, name, options, expected):
    assert order(partial(getattr(plans, name), **options), calls=3) == about(expected)


@pytest.mark.parametrize("write", [plans.dpm_3m, plans.dpmpp_3m])
def test_half_a_second_derivative_leaves_order_2(float64, write):
    assert order(partial(write, compat="diffusers")) == about(2)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("corrector", [True, False])
@pytest.mark.parametrize(("variant", "space"), [("bh1", "x_0"), ("bh1", "eps"), ("bh2", "eps")])
def test_unipc_is_of_order_p_plus_1_with_its_corrector(float64, p, corrector, variant, space):
    write = partial(plans.unipc, order=p, variant=variant, space=space, corrector=corrector)
    assert order(write) == about(p + corrector)


@pytest.mark.parametrize("write", [plans.dpmpp_3m, plans.unipc, plans.deis])
def test_going_down_to_order_1_at_the_end_leaves_order_2(float64, write):
    options = {} if write is plans.dpmpp_3m else {"order": 3}
    assert order(partial(write, lower_order_final=True, **options)) == about(2)


@pytest.mark.parametrize("space", ["x_0", "eps"])
def test_dpm_fast_is_of_order_3_without_a_last_step_of_order_1(float64, space):
    write = partial(plans.dpm_fast, space=space)
    assert plans.fast_orders(NFE[0])[-1] == 1 and plans.fast_orders(NFE[0] + 2)[-1] == 2
    assert order(write) == about(2)
    assert order(write, nfes=NFE + 2) == about(3)


@pytest.mark.parametrize(
    ("name", "limited"),
    [("dpmpp_2m", 2), ("dpmpp_3m", 2), ("deis_tab3", 2), ("unipc_3", 3), ("dpmpp_3s", 3)],
)
def test_a_first_step_of_order_1_limits_multistep_methods_that_start_midway(
    float64, name, limited
):
    # From nearly pure noise x_0 and eps hardly change at first, and it does not show.
    method = METHODS[name]
    assert order(method.write, method.calls, start=5000) == about(limited)
