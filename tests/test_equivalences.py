"""Plans that are the same sampler under different names, to the last digits of their tables."""

from functools import partial
from itertools import pairwise, product

import numpy as np
from tables import SCHEDULES, in_eps, loop

from skipjax import grids, plans
from skipjax.plans import METHODS
from skipjax.schedules import DATA, Schedule

GRIDS = {
    "trailing": lambda schedule: grids.trailing(1000, 14)[1:],
    "real": lambda schedule: grids.uniform_log_snr(schedule, 13, start=950.5, last=3.25),
}
PROCESSES = [name for name in SCHEDULES if name != "sigmoid"]
# What a plan is written for: schedule, times, end.
CASES = {
    f"{schedule}, {grid}, to {end}": (SCHEDULES[schedule], GRIDS[grid](SCHEDULES[schedule]), end)
    for schedule, grid, end in product(PROCESSES, GRIDS, (DATA, 0))
}
UNIP = partial(plans.unipc, corrector=False)


def written(write, case, **options):
    schedule, times, end = CASES[case]
    return write(schedule, times, end=end, **options)


def gap(one, other):
    """How far apart, in any point as a sum of the starting noise and the eps said so far."""
    ours, theirs = in_eps(one), in_eps(other)
    return (np.abs(ours - theirs) / np.abs(theirs).max(axis=1, keepdims=True)).max()


def assert_same(one, other, case, tolerance=1e-12):
    """Every point is the same sum, and so is the fresh noise."""
    for column in ("t", "alpha", "sigma"):
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column), case)
    assert gap(one, other) < tolerance, case
    np.testing.assert_allclose(one.noise, other.noise, rtol=tolerance, atol=1e-14, err_msg=case)


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


def test_ddim_has_many_names():
    for name, case in product(DDIM, CASES):
        assert_same(written(DDIM[name], case), written(plans.ddim, case), f"{name}, {case}")


def test_ddim_is_ancestral_euler():
    for eta, case in product((0.3, 1.0, np.linspace(0, 1, 13)), CASES):
        ours, theirs = (written(f, case, eta=eta) for f in (plans.euler_ancestral, plans.ddim))
        assert_same(ours, theirs, f"eta {eta}, {case}")


def test_ddim_with_eta_1_is_the_sde_solver_and_ddpm():
    for case in CASES:
        ddim = written(plans.ddim, case, eta=1.0)
        for write in (plans.dpmpp_1_sde, plans.ddpm):
            assert_same(written(write, case), ddim, f"{write.__name__}, {case}")


def test_etas_between_0_and_1_mean_different_noise():
    # DDIM's is a share of the standard deviation, the SDE's one of the rate.
    for case, (schedule, times, _) in CASES.items():
        ddim, sde = (f(schedule, times, eta=0.5, end=0) for f in (plans.ddim, plans.dpmpp_1_sde))
        assert (ddim.noise < sde.noise * 0.95).all(), case


PAIRS = {
    "2M SDE, eta 0": (partial(plans.dpmpp_2m_sde, eta=0), plans.dpmpp_2m),
    "3M SDE, eta 0": (partial(plans.dpmpp_3m_sde, eta=0), plans.dpmpp_3m),
    "3M SDE diffusers, eta 0": (
        partial(plans.dpmpp_3m_sde, eta=0, compat="diffusers"),
        partial(plans.dpmpp_3m, compat="diffusers"),
    ),
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


def test_two_papers_have_the_same_solver():
    for name, lower, case in product(PAIRS, (False, True), CASES):
        one, other = (written(write, case, lower_order_final=lower) for write in PAIRS[name])
        assert_same(one, other, f"{name}, {'lower at the end, ' * lower}{case}")


def test_what_is_published_apart_is_apart():
    for case, (schedule, times, _) in CASES.items():
        two_m, three_m, three_s, unip = (
            partial(write, schedule, times, end=0)
            for write in (plans.dpmpp_2m, plans.dpmpp_3m, plans.dpmpp_3s, partial(UNIP, order=2))
        )
        for name, one, other in [
            ("heun", two_m(), two_m(solver_type="heun")),
            ("diffusers", three_m(), three_m(compat="diffusers")),
            ("eps", two_m(), plans.dpm_2m(schedule, times, end=0)),
            ("heun, singlestep", three_s(), three_s(solver_type="heun")),
            ("diffusers, singlestep", three_s(), three_s(compat="diffusers")),
            ("bh1", unip(), unip(variant="bh1")),
        ]:
            assert gap(one, other) > 1e-12, f"{name}, {case}"


def linear_multistep(levels, nodes):
    """Integrals over rho of the Lagrange polynomials of some rho, by their antiderivatives."""
    for j, node in enumerate(nodes):
        others = np.delete(nodes, j)
        polynomial = np.poly1d(np.poly(others)) / np.prod(node - others)
        antiderivative = polynomial.integ()
        yield antiderivative(levels[1]) - antiderivative(levels[0])


def test_deis_in_rho_is_the_linear_multistep_method():
    for degree, (case, (schedule, times, end)) in product((1, 2, 3), CASES.items()):
        plan = plans.deis(schedule, times, degree, variable="rho", end=end)
        close = partial(np.testing.assert_allclose, err_msg=f"degree {degree}, {case}")
        alpha, sigma = schedule.at(np.append(times, end))
        rho = sigma / alpha
        close(plan.keep, alpha[1:] / alpha[:-1], rtol=1e-14)
        for i, levels in enumerate(pairwise(rho)):
            nodes = rho[max(i - degree, 0) : i + 1][::-1]
            # Moved to 0: antiderivatives far from it lose digits.
            weights = list(linear_multistep(np.array(levels) - rho[i], nodes - rho[i]))
            scale = alpha[i + 1] * np.abs(weights).max()
            found = plan.mix[i, : len(weights)] / scale
            close(found, alpha[i + 1] * np.array(weights) / scale, atol=1e-11)


def predict(x, t, alpha, sigma):
    """A network like none: it goes by t, and is not linear."""
    return np.sin(x / np.hypot(alpha, sigma) + 0.01 * t)


def test_heun_is_the_trapezoidal_rule_in_rho():
    for case, (schedule, times, end) in CASES.items():
        x = y = np.linspace(-2, 2, 7)
        for s, e in pairwise(np.append(times, end)):
            (a, b), (c, d) = schedule.at(s), schedule.at(e)
            slope = predict(y, s, a, b)
            ahead = c * (y / a + (d / c - b / a) * slope)
            if e != DATA:
                slope = (slope + predict(ahead, e, c, d)) / 2
            y = c * (y / a + (d / c - b / a) * slope)
        plan = plans.heun(schedule, times, end=end)
        found = loop(plan, predict, x, np.zeros((plan.nfe, 7)))
        np.testing.assert_allclose(found, y, rtol=1e-11, atol=1e-11, err_msg=case)


PNDM = {  # predictions at most, how it starts, and for how many steps
    "ipndm": (partial(plans.ipndm, order=3), 3, None, 0),
    "s_pndm": (plans.s_pndm, 2, "improved Euler", 1),
    "plms": (plans.plms, 4, "improved Euler", 1),
    "f_pndm": (plans.f_pndm, 4, "Runge-Kutta", 3),
    "f_pndm at whole times": (partial(plans.f_pndm, whole_times=True), 4, "Runge-Kutta", 3),
}
ADAMS = {
    1: [1.0],
    2: [3 / 2, -1 / 2],
    3: [23 / 12, -16 / 12, 5 / 12],
    4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
}


def test_pndm_is_adams_bashforth_of_ddims_jumps_after_a_start():
    for name, (case, (schedule, times, end)) in product(PNDM, CASES.items()):
        write, order, start, started = PNDM[name]

        def eps(x, t, schedule=schedule):
            return predict(x, t, *schedule.at(t))

        def jump(x, e, s, t, schedule=schedule):
            (a, b), (c, d) = schedule.at(s), schedule.at(t)
            return c / a * x + (d - c / a * b) * e

        x, past = np.linspace(-2, 2, 7), []
        for i, (s, t) in enumerate(pairwise(np.append(times, end))):
            e = eps(x, s)
            past = [e, *past][:order]
            mean = sum(w * e for w, e in zip(ADAMS[len(past)], past, strict=True))
            if i < started and start == "improved Euler":
                mean = (e + eps(jump(x, e, s, t), t)) / 2
            elif i < started:
                middle = (s + t) // 2 if "whole" in name else (s + t) / 2
                second = eps(jump(x, e, s, middle), middle)
                third = eps(jump(x, second, s, middle), middle)
                mean = (e + 2 * second + 2 * third + eps(jump(x, third, s, t), t)) / 6
            x = jump(x, mean, s, t)
        plan = write(schedule, times, end=end)
        found = loop(plan, predict, np.linspace(-2, 2, 7), np.zeros((plan.nfe, 7)))
        np.testing.assert_allclose(found, x, rtol=1e-10, atol=1e-10, err_msg=f"{name}, {case}")


def test_2s_and_3s_are_steps_through_a_grid_of_their_calls():
    names = {"dpm_2s": 2, "dpmpp_2s": 2, "dpm_3s": 3, "dpmpp_3s": 3}
    for (name, calls), (case, (schedule, times, _)) in product(names.items(), CASES.items()):
        plan = getattr(plans, name)(schedule, times, end=0)
        between = np.diff(schedule.log_snr([*plan.t, 0])).reshape(-1, calls)  # evenly
        np.testing.assert_allclose(between, between[:, :1] + 0 * between, rtol=1e-8, err_msg=case)
        other = plans.singlestep(schedule, plan.t, [calls] * len(times), space=plan.space, end=0)
        assert_same(other, plan, f"{name}, {case}", 1e-11)


def test_dpm_fast_ends_in_steps_of_lower_order():
    schedule = SCHEDULES["linear"]
    times = plans.fast_times(schedule, 9)
    fast = plans.dpm_fast(schedule, times, end=0)
    assert_same(fast, plans.singlestep(schedule, times, [3, 3, 2, 1], space="eps", end=0), "")


# Times between the whole ones stand at other levels in each process, and so does the variance of
# q(x_t | x_s), that "large" takes from x_s, stand to that of x_s itself.
OTHERS = {"deis_tab0", "deis_tab1", "deis_tab2", "deis_tab3", "f_pndm", "ddpm_large"}


def along(plan):
    """x / alpha, in terms of the first x / alpha, eps and noise."""
    sums = np.column_stack([in_eps(plan), np.diag(plan.noise)])
    scale = np.append(plan.alpha[0], np.ones(2 * plan.nfe))
    return sums / np.append(plan.alpha[1:], 1.0)[:, None] * scale


def test_the_scale_of_the_process_does_not_matter():
    preserving, times = SCHEDULES["linear"], grids.trailing(1000, 14)
    scales = {
        "variance exploding": 1 / preserving.alpha,
        "rectified flow": 1 / (preserving.alpha + preserving.sigma),
    }
    for name in [name for name in METHODS if name not in OTHERS]:
        ours = along(METHODS[name].write(preserving, times))
        largest = np.abs(ours).max(axis=1, keepdims=True)
        for scaling, scale in scales.items():
            other = Schedule(scale * preserving.alpha, scale * preserving.sigma)
            theirs = along(METHODS[name].write(other, times))
            np.testing.assert_allclose(
                theirs / largest, ours / largest, rtol=0, atol=1e-11, err_msg=f"{name}, {scaling}"
            )
