"""What every plan of the catalogue promises, on every kind of schedule and grid."""

from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import COLUMNS, NOISY, SCHEDULES, loop

from skipjax import grids, plans, schedules
from skipjax.denoisers import Prediction
from skipjax.plans import METHODS, Plan
from skipjax.sampling import integrate
from skipjax.schedules import DATA, Schedule

# Below T-1, where rectified flow has no signal and cosine next to none.
GRIDS = {
    "trailing 4": lambda schedule: grids.trailing(980, 4),
    "trailing 25": lambda schedule: grids.trailing(980, 25),
    "even in log_snr": lambda schedule: grids.uniform_log_snr(schedule, 10, start=979, last=1),
    "real": lambda schedule: grids.power_law(1000, 7, 1.7, start=900.25, last=2.5),
}
X_0, EPS = np.array([0.3, -1.2, 2.0]), np.array([1.1, 0.4, -0.7])


class Written(NamedTuple):
    """A plan, and what it was written for."""

    case: str
    name: str
    schedule: Schedule
    times: np.ndarray
    end: float
    plan: Plan


@pytest.fixture(scope="module")
def written():
    """Every method on every schedule and grid, to both ends."""

    def write(name, schedule, grid, end):
        chosen = SCHEDULES[schedule]
        times = GRIDS[grid](chosen)
        plan = METHODS[name].write(chosen, times, end=end)
        return Written(f"{name}, {schedule}, {grid}, {end}", name, chosen, times, end, plan)

    return [write(*case) for case in product(METHODS, SCHEDULES, GRIDS, (DATA, 0))]


def test_the_table_is_whole_and_has_the_calls_that_the_catalogue_says(written):
    for case, name, schedule, times, end, plan in written:
        method = METHODS[name]
        more = method.more if end == DATA else max(method.more, 0)
        assert plan.nfe == method.calls * len(times) + more, case
        assert plan.mix.shape == (plan.nfe, plan.history) and plan.mix[:, -1].any(), case
        for column in COLUMNS:
            values = getattr(plan, column)
            assert len(values) == plan.nfe and values.dtype == np.float64, case
            assert np.isfinite(values).all(), case
        assert (plan.noise >= 0).all() and plan.noise.any() == (name in NOISY), case
        assert plan.origin.end == end and plan.belongs(schedule), case


def test_the_levels_are_those_of_the_schedule(written):
    for case, _, schedule, times, end, plan in written:
        assert plan.t[0] == times[0] and np.isin(times, plan.t).all(), case
        assert (plan.t >= max(end, 0)).all() and (plan.t <= times[0]).all(), case
        alpha, sigma = schedule.at(plan.t)
        assert (plan.alpha == alpha).all() and (plan.sigma == sigma).all(), case


def test_a_constant_prediction_is_carried_to_the_level_of_the_end(written):
    for case, name, schedule, _, end, plan in written:
        if name in NOISY:
            continue
        alpha, sigma = schedule.at(end)
        constant = X_0 if plan.space == "x_0" else EPS
        x = plan.alpha[0] * X_0 + plan.sigma[0] * EPS
        x = loop(plan, lambda *_, m=constant: m, x, np.zeros((plan.nfe, 3)))
        assert np.abs(x - (alpha * X_0 + sigma * EPS)).max() < 1e-10, case


def test_noise_makes_up_for_what_a_step_forgets(written):
    for case, name, schedule, _, end, plan in written:
        if name not in NOISY:
            continue
        alpha, sigma = schedule.at(end)
        still = np.zeros((plan.nfe, 3))
        x = loop(plan, predicts_x_0(plan, X_0), plan.alpha[0] * X_0, still)
        assert np.abs(x - alpha * X_0).max() < 1e-10, case
        variance = noise_variance(plan)
        if name == "ddpm_large":
            assert variance > sigma**2 or end == DATA, case
        elif name == "consistency" and (schedule.alpha == 1).all():
            left = sigma**2 - schedule.sigma[0] ** 2  # the network leaves the rest
            np.testing.assert_allclose(variance, max(left, 0), rtol=1e-9, err_msg=case)
        else:
            np.testing.assert_allclose(variance, sigma**2, rtol=1e-9, atol=1e-18, err_msg=case)


def predicts_x_0(plan, x_0):
    """A network that says x_0 wherever it is asked."""
    if plan.space == "x_0":
        return lambda *_: x_0
    return lambda x, t, alpha, sigma: (x - alpha * x_0) / sigma


def noise_variance(plan):
    """Of x at the end, from N(0, sigma^2) at the start, where x_0 is predicted to be 0."""
    apart = np.eye(plan.nfe + 1)  # the start and every z, each on an axis of its own
    x = loop(plan, predicts_x_0(plan, 0.0 * apart[0]), plan.sigma[0] * apart[0], apart[1:])
    return np.square(x).sum()


def test_the_network_is_called_once_a_row_and_no_more():
    told = []

    def denoise(x, point):
        jax.debug.callback(lambda t: told.append(float(t)), point.t, ordered=True)
        return Prediction(0.1 * x, x)

    @jax.jit
    def run(plan):
        return integrate(plan, denoise, jnp.ones((1, 2)), jax.random.split(jax.random.key(0), 1))

    for name in ("ddim", "heun", "dpm_2s", "unipc_3", "plms"):
        plan = METHODS[name].write(
            SCHEDULES["linear"], grids.trailing(980, plans.times_for(name, 7))
        )
        told.clear()
        run(plan.widened(5)).block_until_ready()
        jax.effects_barrier()
        np.testing.assert_allclose(told, plan.t, rtol=1e-6, err_msg=name)


ZERO = schedules.zero_terminal_snr(schedules.scaled_linear())
ON_X_0 = [
    name
    for name, method in METHODS.items()
    if method.write(schedules.linear(), grids.trailing(1000, 6)).space == "x_0"
]


def test_methods_on_x_0_start_from_noise_alone():
    times = grids.trailing(1000, 8)
    for schedule, name, end in product((ZERO, SCHEDULES["rectified_flow"]), ON_X_0, (DATA, 0)):
        assert schedule.alpha[times[0]] == 0
        plan = METHODS[name].write(schedule, times, end=end)
        assert all(np.isfinite(column).all() for column in (plan.keep, plan.mix, plan.noise)), name
        alpha, _ = schedule.at(end)
        x = loop(plan, lambda *_: X_0, np.zeros(3), np.zeros((plan.nfe, 3)))
        np.testing.assert_allclose(x, alpha * X_0, rtol=0, atol=1e-10, err_msg=f"{name}, {end}")


def test_methods_on_eps_refuse_noise_alone(subtests):
    message = "at time 999 alpha is 0, and eps says nothing of x_0"
    for name in [name for name in METHODS if name not in ON_X_0]:
        with subtests.test(name), pytest.raises(ValueError, match=message):
            METHODS[name].write(ZERO, grids.trailing(1000, 8))


def test_x_0_methods_are_those_that_say_so():
    assert {"ddim", "ddpm", "dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "unipc_3"} <= set(ON_X_0)


def test_write_names_the_plan_after_the_catalogue():
    times = grids.trailing(1000, 5)
    for name in METHODS:
        assert plans.write(name, SCHEDULES["linear"], times).origin.method == name
