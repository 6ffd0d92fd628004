"""What every plan of the catalogue promises, on every kind of schedule and grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import NOISY, loop

from skipjax import grids, plans, schedules
from skipjax.denoisers import Prediction
from skipjax.plans import METHODS
from skipjax.sampling import integrate
from skipjax.schedules import DATA

SCHEDULES = {
    "linear": schedules.linear(),
    "scaled_linear": schedules.scaled_linear(),
    "cosine": schedules.cosine(),
    "sigmoid": schedules.sigmoid(),
    "rectified_flow": schedules.rectified_flow(shift=3.0),
    "variance_exploding": schedules.variance_exploding(),
}
# Below T-1, where rectified flow has no signal and cosine next to none.
GRIDS = {
    "trailing 4": lambda schedule: grids.trailing(980, 4),
    "trailing 25": lambda schedule: grids.trailing(980, 25),
    "even in log_snr": lambda schedule: grids.uniform_log_snr(schedule, 10, start=979, last=1),
    "real": lambda schedule: grids.power_law(1000, 7, 1.7, start=900.25, last=2.5),
}
X_0, EPS = np.array([0.3, -1.2, 2.0]), np.array([1.1, 0.4, -0.7])


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return SCHEDULES[request.param]


@pytest.fixture
def written(name, schedule):
    """(times, end, plan) of the method on every grid, to both ends."""
    pairs = [(grid(schedule), end) for grid in GRIDS.values() for end in (DATA, 0)]
    return [(t, end, METHODS[name].write(schedule, t, end=end)) for t, end in pairs]


def test_the_table_is_whole_and_has_the_calls_that_the_catalogue_says(written, name, schedule):
    method = METHODS[name]
    for times, end, plan in written:
        more = method.more if end == DATA else max(method.more, 0)
        assert plan.nfe == method.calls * len(times) + more
        assert plan.mix.shape == (plan.nfe, plan.history) and plan.mix[:, -1].any()
        for column in ("t", "alpha", "sigma", "keep", "mix", "noise"):
            values = getattr(plan, column)
            assert len(values) == plan.nfe and values.dtype == np.float64
            assert np.isfinite(values).all()
        assert (plan.noise >= 0).all() and plan.noise.any() == (name in NOISY)
        assert plan.origin.end == end and plan.belongs(schedule)


def test_the_levels_are_those_of_the_schedule(written, schedule):
    for times, end, plan in written:
        assert plan.t[0] == times[0] and np.isin(times, plan.t).all()
        assert (plan.t >= max(end, 0)).all() and (plan.t <= times[0]).all()
        alpha, sigma = schedule.at(plan.t)
        np.testing.assert_array_equal(plan.alpha, alpha)
        np.testing.assert_array_equal(plan.sigma, sigma)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in NOISY])
def test_a_constant_prediction_is_carried_to_the_level_of_the_end(written, schedule):
    for _, end, plan in written:
        alpha, sigma = schedule.at(end)
        constant = X_0 if plan.space == "x_0" else EPS
        x = plan.alpha[0] * X_0 + plan.sigma[0] * EPS
        x = loop(plan, lambda *_, m=constant: m, x, np.zeros((plan.nfe, 3)))
        np.testing.assert_allclose(x, alpha * X_0 + sigma * EPS, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", NOISY)
def test_noise_makes_up_for_what_a_step_forgets(written, name, schedule):
    for _, end, plan in written:
        alpha, sigma = schedule.at(end)
        still = np.zeros((plan.nfe, 3))
        x = loop(plan, predicts_x_0(plan, X_0), plan.alpha[0] * X_0, still)
        np.testing.assert_allclose(x, alpha * X_0, rtol=0, atol=1e-10)
        variance = noise_variance(plan)
        if name == "ddpm_large":
            assert variance > sigma**2 or end == DATA
        else:
            np.testing.assert_allclose(variance, sigma**2, rtol=1e-9, atol=1e-18)


def predicts_x_0(plan, x_0):
    """A network that says x_0 wherever it is asked."""
    if plan.space == "x_0":
        return lambda *_: x_0
    return lambda x, t, alpha, sigma: (x - alpha * x_0) / sigma


def noise_variance(plan):
    """Of x at the end, from N(0, sigma^2) at the start, where x_0 is predicted to be 0."""
    predict, total = predicts_x_0(plan, np.zeros(1)), 0.0
    for i in range(-1, plan.nfe):
        z = np.zeros((plan.nfe, 1))
        z[max(i, 0)] = i >= 0
        total += loop(plan, predict, np.array([plan.sigma[0] * (i < 0)]), z).item() ** 2
    return total


@pytest.mark.parametrize("name", ["ddim", "heun", "dpm_2s", "unipc_3", "plms"])
def test_the_network_is_called_once_a_row_and_no_more(name):
    plan = METHODS[name].write(SCHEDULES["linear"], grids.trailing(980, 4))
    told = []

    def denoise(x, point):
        told.append(float(point.t))
        return Prediction(0.1 * x, x)

    with jax.disable_jit():
        x, keys = jnp.ones((1, 2)), jax.random.split(jax.random.key(0), 1)
        integrate(plan, denoise, x, keys, noise=jnp.zeros((plan.nfe, 1, 2)))
    np.testing.assert_allclose(told, plan.t, rtol=1e-6)


ZERO = schedules.zero_terminal_snr(schedules.scaled_linear())
ON_X_0 = [
    name
    for name, method in METHODS.items()
    if method.write(schedules.linear(), grids.trailing(1000, 6)).space == "x_0"
]


@pytest.mark.parametrize("end", [DATA, 0])
@pytest.mark.parametrize("name", ON_X_0)
@pytest.mark.parametrize("schedule", [ZERO, SCHEDULES["rectified_flow"]], ids=["zsnr", "flow"])
def test_methods_on_x_0_start_from_noise_alone(schedule, name, end):
    times = grids.trailing(1000, 8)
    assert schedule.alpha[times[0]] == 0
    plan = METHODS[name].write(schedule, times, end=end)
    assert all(np.isfinite(column).all() for column in (plan.keep, plan.mix, plan.noise))
    alpha, _ = schedule.at(end)
    x = loop(plan, lambda *_: X_0, np.zeros(3), np.zeros((plan.nfe, 3)))
    np.testing.assert_allclose(x, alpha * X_0, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ON_X_0])
def test_methods_on_eps_refuse_noise_alone(name):
    with pytest.raises(ValueError, match="at time 999 alpha is 0, and eps says nothing of x_0"):
        METHODS[name].write(ZERO, grids.trailing(1000, 8))


def test_x_0_methods_are_those_that_say_so():
    assert {"ddim", "ddpm", "dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "unipc_3"} <= set(ON_X_0)


def test_write_names_the_plan_after_the_catalogue():
    times = grids.trailing(1000, 5)
    for name in METHODS:
        assert plans.write(name, SCHEDULES["linear"], times).origin.method == name
