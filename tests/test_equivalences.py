"""Plans that are the same sampler under different names, to the last digits of their tables."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from tables import in_eps, loop

from skipjax import grids, plans, schedules
from skipjax.plans import METHODS
from skipjax.schedules import DATA, Schedule

SCHEDULES = {
    "linear": schedules.linear(),
    "scaled_linear": schedules.scaled_linear(),
    "cosine": schedules.cosine(),
    "rectified_flow": schedules.rectified_flow(shift=3.0),
    "variance_exploding": schedules.variance_exploding(),
}
GRIDS = {
    "trailing": lambda schedule: grids.trailing(1000, 14)[1:],
    "real": lambda schedule: grids.uniform_log_snr(schedule, 13, start=950.5, last=3.25),
}
ENDS = {"data": DATA, "time 0": 0}
UNIP = partial(plans.unipc, corrector=False)


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return SCHEDULES[request.param]


@pytest.fixture(params=GRIDS)
def times(request, schedule):
    return GRIDS[request.param](schedule)


@pytest.fixture(params=ENDS)
def end(request):
    return ENDS[request.param]


def assert_same(one, other, tolerance=1e-12):
    """Every point is the same sum of the starting noise, the eps said so far, and fresh noise."""
    for column in ("t", "alpha", "sigma"):
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column))
    ours, theirs = in_eps(one), in_eps(other)
    largest = np.abs(theirs).max(axis=1, keepdims=True)
    np.testing.assert_allclose(ours / largest, theirs / largest, rtol=0, atol=tolerance)
    np.testing.assert_allclose(one.noise, other.noise, rtol=tolerance, atol=1e-14)


DDIM = {
    "dpm_1": plans.dpm_1,
    "dpmpp_1": plans.dpmpp_1,
    "dpmpp_1_sde": partial(plans.dpmpp_1_sde, eta=0),
    "euler": plans.euler,
    "euler_ancestral": partial(plans.euler_ancestral, eta=0),
    "hybrid": partial(plans.hybrid, cutoff=1000),
    "ipndm": partial(plans.ipndm, order=1),
    "singlestep": lambda s, t, end: plans.singlestep(s, t, [1] * len(t), end=end),
    "unip bh1": partial(UNIP, order=1, variant="bh1"),
    "unip bh2": partial(UNIP, order=1),
    "unip eps": partial(UNIP, order=1, space="eps"),
    **{f"deis {v}": partial(plans.deis, order=0, variable=v) for v in ("t", "rho", "log_rho")},
}


@pytest.mark.parametrize("write", DDIM.values(), ids=DDIM)
def test_ddim_has_many_names(schedule, times, end, write):
    assert_same(write(schedule, times, end=end), plans.ddim(schedule, times, end=end))


@pytest.mark.parametrize("eta", [0.3, 1.0, np.linspace(0, 1, 13)], ids=["0.3", "1", "each"])
def test_ddim_is_ancestral_euler(schedule, times, end, eta):
    assert_same(
        plans.euler_ancestral(schedule, times, eta, end=end),
        plans.ddim(schedule, times, eta, end=end),
    )


@pytest.mark.parametrize("write", [plans.dpmpp_1_sde, plans.ddpm])
def test_ddim_with_eta_1_is_the_sde_solver_and_ddpm(schedule, times, end, write):
    assert_same(write(schedule, times, end=end), plans.ddim(schedule, times, 1.0, end=end))


def test_etas_between_0_and_1_mean_different_noise(schedule, times):
    # DDIM's is a share of the standard deviation, the SDE's one of the rate.
    ddim, sde = (f(schedule, times, 0.5, end=0) for f in (plans.ddim, plans.dpmpp_1_sde))
    assert (ddim.noise < sde.noise * 0.95).all()


PAIRS = {
    "2M SDE, eta 0": (partial(plans.dpmpp_2m_sde, eta=0), plans.dpmpp_2m),
    "3M SDE, eta 0": (partial(plans.dpmpp_3m_sde, eta=0), plans.dpmpp_3m),
    "2M SDE heun, eta 0": (
        partial(plans.dpmpp_2m_sde, eta=0, solver_type="heun"),
        partial(plans.dpmpp_2m, solver_type="heun"),
    ),
    "UniP-2, x_0": (partial(UNIP, order=2), plans.dpmpp_2m),
    "UniP-2, eps": (partial(UNIP, order=2, space="eps"), plans.dpm_2m),
    "UniP-3, x_0": (partial(UNIP, order=3), plans.dpmpp_3m),
    "UniP-3, eps": (partial(UNIP, order=3, space="eps"), plans.dpm_3m),
    "exponential Adams, 2": (
        partial(plans.deis, order=1, variable="log_rho"),
        partial(plans.dpm_2m, solver_type="heun"),
    ),
    "exponential Adams, 3": (
        partial(plans.deis, order=2, variable="log_rho"),
        partial(plans.dpm_3m, solver_type="heun"),
    ),
}


@pytest.mark.parametrize("lower_order_final", [False, True])
@pytest.mark.parametrize(("one", "other"), PAIRS.values(), ids=PAIRS)
def test_two_papers_have_the_same_solver(schedule, times, end, one, other, lower_order_final):
    options = dict(end=end, lower_order_final=lower_order_final)
    assert_same(one(schedule, times, **options), other(schedule, times, **options))


def test_what_is_published_apart_is_apart(schedule, times):
    def apart(one, other):
        with pytest.raises(AssertionError):
            assert_same(one, other)

    write = [partial(f, schedule, times, end=0) for f in (plans.dpmpp_2m, plans.dpmpp_3m)]
    for f, options in zip(write, ({"solver_type": "heun"}, {"compat": "diffusers"}), strict=True):
        apart(f(), f(**options))
    apart(write[0](), plans.dpm_2m(schedule, times, end=0))
    apart(*(UNIP(schedule, times, 2, variant=v, end=0) for v in ("bh1", "bh2")))


def linear_multistep(levels, nodes):
    """Integrals over rho of the Lagrange polynomials of some rho, by their antiderivatives."""
    for j, node in enumerate(nodes):
        others = np.delete(nodes, j)
        polynomial = np.poly1d(np.poly(others)) / np.prod(node - others)
        antiderivative = polynomial.integ()
        yield antiderivative(levels[1]) - antiderivative(levels[0])


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_deis_in_rho_is_the_linear_multistep_method(schedule, times, end, degree):
    plan = plans.deis(schedule, times, degree, variable="rho", end=end)
    t = np.append(times, end)
    alpha, sigma = schedule.at(t)
    rho = sigma / alpha
    np.testing.assert_allclose(plan.keep, alpha[1:] / alpha[:-1], rtol=1e-14)
    for i, levels in enumerate(pairwise(rho)):
        nodes = rho[max(i - degree, 0) : i + 1][::-1]
        # Moved to 0: antiderivatives far from it lose digits.
        weights = list(linear_multistep(np.array(levels) - rho[i], nodes - rho[i]))
        scale = alpha[i + 1] * np.abs(weights).max()
        found = plan.mix[i, : len(weights)] / scale
        np.testing.assert_allclose(found, alpha[i + 1] * np.array(weights) / scale, atol=1e-11)


def predict(x, t, alpha, sigma):
    """A network like none: it goes by t, and is not linear."""
    return np.sin(x / np.hypot(alpha, sigma) + 0.01 * t)


def test_heun_is_the_trapezoidal_rule_in_rho(schedule, times, end):
    x = y = np.linspace(-2, 2, 7)
    t = np.append(times, end)
    for s, e in pairwise(t):
        (a, b), (c, d) = schedule.at(s), schedule.at(e)
        slope = predict(y, s, a, b)
        ahead = c * (y / a + (d / c - b / a) * slope)
        if e != DATA:
            slope = (slope + predict(ahead, e, c, d)) / 2
        y = c * (y / a + (d / c - b / a) * slope)
    plan = plans.heun(schedule, times, end=end)
    found = loop(plan, predict, x, np.zeros((plan.nfe, 7)))
    np.testing.assert_allclose(found, y, rtol=1e-11, atol=1e-11)


def test_2s_and_3s_are_steps_through_a_grid_of_their_calls(schedule, times):
    for name, calls in [("dpm_2s", 2), ("dpmpp_2s", 2), ("dpm_3s", 3), ("dpmpp_3s", 3)]:
        plan = getattr(plans, name)(schedule, times, end=0)
        other = plans.singlestep(schedule, plan.t, [calls] * len(times), space=plan.space, end=0)
        assert_same(other, plan, 1e-11)


def test_dpm_fast_ends_in_steps_of_lower_order():
    schedule = SCHEDULES["linear"]
    times = plans.fast_times(schedule, 9)
    fast = plans.dpm_fast(schedule, times, end=0)
    assert_same(fast, plans.singlestep(schedule, times, [3, 3, 2, 1], space="eps", end=0))


# Times between the whole ones stand at other levels in each process, and so does the variance of
# q(x_t | x_s), that "large" takes from x_s, stand to that of x_s itself.
OTHERS = {"deis_tab0", "deis_tab1", "deis_tab2", "deis_tab3", "f_pndm", "ddpm_large"}
BY_LEVEL = [name for name in METHODS if name not in OTHERS]


@pytest.mark.parametrize("scaling", ["variance exploding", "rectified flow"])
@pytest.mark.parametrize("name", BY_LEVEL)
def test_the_scale_of_the_process_does_not_matter(name, scaling):
    preserving = SCHEDULES["linear"]
    scale = 1 / preserving.alpha
    if scaling == "rectified flow":
        scale = 1 / (preserving.alpha + preserving.sigma)
    other = Schedule(scale * preserving.alpha, scale * preserving.sigma)
    times = grids.trailing(1000, 14)
    ours, theirs = (METHODS[name].write(s, times) for s in (preserving, other))
    # x / alpha, in terms of the first x / alpha, eps and noise.
    along = [
        np.column_stack([in_eps(plan), np.diag(plan.noise)])
        / np.append(plan.alpha[1:], 1.0)[:, None]
        * np.append(plan.alpha[0], np.ones(2 * plan.nfe))
        for plan in (ours, theirs)
    ]
    largest = np.abs(along[0]).max(axis=1, keepdims=True)
    np.testing.assert_allclose(along[1] / largest, along[0] / largest, rtol=0, atol=1e-11)
