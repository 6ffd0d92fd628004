"""Plans whose steps choose for themselves: those of one choice have names, and all are plans."""

import re
from functools import partial
from itertools import product

import numpy as np
import pytest
from tables import SCHEDULES, in_eps, loop

from skipjax import grids, plans
from skipjax.evaluation.exact import Gaussian, law
from skipjax.plans import Choice, stepwise
from skipjax.schedules import DATA

LINEAR = SCHEDULES["linear"]
PROCESSES = ("linear", "cosine", "rectified_flow", "variance_exploding")
GRIDS = {
    "trailing": lambda schedule: grids.trailing(980, 9),
    "real": lambda schedule: grids.uniform_log_snr(schedule, 8, start=950.5, last=3.25),
}
SAME = {
    "ddim": (plans.ddim, Choice("x_0", 1)),
    "ddim, eps": (plans.ddim, Choice("eps", 1)),
    "dpmpp_2m": (plans.dpmpp_2m, Choice("x_0", 2)),
    "dpmpp_3m": (plans.dpmpp_3m, Choice("x_0", 3)),
    "dpm_2m": (plans.dpm_2m, Choice("eps", 2)),
    "dpm_3m": (plans.dpm_3m, Choice("eps", 3)),
    "2m heun": (partial(plans.dpmpp_2m, solver_type="heun"), Choice(solver_type="heun")),
    "adams": (partial(plans.deis, variable="log_rho"), Choice("eps", 4, solver_type="heun")),
    **{
        f"unipc_{p}, {space}": (
            partial(plans.unipc, order=p, space=space),
            Choice(space, p, corrector=True),
        )
        for p in (1, 2, 3)
        for space in ("x_0", "eps")
    },
    **{
        f"deis {variable}{q}": (
            partial(plans.deis, order=q, variable=variable),
            Choice("eps", q + 1, variable=variable),
        )
        for q in (0, 1, 2, 3)
        for variable in ("t", "rho")
    },
    **{
        f"ipndm_{p}": (partial(plans.ipndm, order=p), Choice("eps", p, variable="index"))
        for p in (1, 2, 3, 4)
    },
}


def some(rng, num):
    """Choices at random."""
    found = []
    for _ in range(num):
        variable = str(rng.choice(["log_snr", "t", "rho", "index"]))
        space = str(rng.choice(["x_0", "eps"])) if variable == "log_snr" else "eps"
        form = str(rng.choice(["midpoint", "heun"]))
        order, corrector = int(rng.integers(1, 5)), bool(rng.integers(2))
        found.append(Choice(space, order, corrector, variable, form))
    return found


def test_one_choice_for_all_steps_is_the_method_of_that_name():
    for name, schedule, grid, end in product(SAME, PROCESSES, GRIDS, (DATA, 0)):
        case = f"{name}, {schedule}, {grid}, to {end}"
        (write, choice), chosen = SAME[name], SCHEDULES[schedule]
        times = GRIDS[grid](chosen)
        ours = stepwise(chosen, times, [choice] * len(times), end=end)
        theirs = write(chosen, times, end=end)
        assert ours.space == "x_0" and ours.nfe == len(times) and ours.belongs(chosen), case
        close = partial(np.testing.assert_allclose, rtol=0, atol=1e-9, err_msg=case)
        if theirs.space == "x_0":
            close(ours.matrix(), theirs.matrix())
        # In eps the weights of points beside nearly pure noise are huge, and so is the rounding.
        ours, theirs = in_eps(ours), in_eps(theirs)
        largest = np.abs(theirs).max(axis=1, keepdims=True)
        close(ours / largest, theirs / largest)


def adams(places):
    """Weights of values at some places, 0 being here, that integrate a polynomial to 1."""
    moments = 1 / np.arange(1, len(places) + 1)
    return np.linalg.solve(np.vander(places, increasing=True).T, moments)


def test_in_the_number_of_the_step_it_predicts_and_corrects_as_adams_does():
    times = grids.trailing(980, 7)
    for process, end, order in product(PROCESSES, (DATA, 3), (1, 2, 3, 4)):
        schedule = SCHEDULES[process]

        def eps(x, t, alpha, sigma):
            return np.sin(x / np.hypot(alpha, sigma) + 0.01 * t)

        def jump(x, e, s, t, schedule=schedule):
            (a, b), (c, d) = schedule.at(s), schedule.at(t)
            return c / a * x + (d - c / a * b) * e

        x = base = start = np.linspace(-2, 2, 7)
        past, levels = [], [*times, end]
        for i, t in enumerate(times):
            e = eps(x, t, *schedule.at(t))
            if i:
                weights = adams([*range(0, -len(past), -1), 1])
                base = jump(base, weights @ [*past, e], times[i - 1], t)
            past = [e, *past][:order]
            x = jump(base, adams(range(0, -len(past), -1)) @ past, t, levels[i + 1])
        steps = [Choice("eps", order, True, "index")] * 7
        plan = stepwise(schedule, times, steps, end=end)

        def x_0(x, t, alpha, sigma):
            return (x - sigma * eps(x, t, alpha, sigma)) / alpha

        found = loop(plan, x_0, start, np.zeros((7, 7)))
        case = f"{process}, to {end}, order {order}"
        np.testing.assert_allclose(found, x, rtol=1e-8, atol=1e-8, err_msg=case)


def test_any_choices_carry_a_true_prediction_to_the_end():
    """Where x_0 and eps never change, every step is exact."""
    times = grids.trailing(980, 7)
    x_0, eps = np.array([0.3, -1.2, 2.0]), np.array([1.1, 0.4, -0.7])
    for schedule, end in product(PROCESSES, (DATA, 0)):
        rng = np.random.default_rng(0)
        alpha, sigma = SCHEDULES[schedule].at(end)
        for i in range(50):
            plan = stepwise(SCHEDULES[schedule], times, some(rng, 7), end=end)
            assert plan.history <= 7 and not plan.noise.any()
            x = plan.alpha[0] * x_0 + plan.sigma[0] * eps
            x = loop(plan, lambda *_: x_0, x, np.zeros((7, 3)))
            case = f"{schedule}, to {end}, choices {i}"
            np.testing.assert_allclose(
                x, alpha * x_0 + sigma * eps, rtol=0, atol=1e-9, err_msg=case
            )


def test_steps_of_one_order_in_any_mixture_are_of_that_order():
    target = Gaussian([0.0], [[0.25]])
    start, end = (tuple(map(float, LINEAR.at(t))) for t in (999, 50))
    exact = target.flow([[1.0]], start, end)[0, 0]
    for order, falls in ((2, 3.4), (3, 6.0)):
        kinds = [Choice("x_0", order), Choice("eps", order, variable="rho"), Choice("eps", order)]
        errors = []
        for num in (40, 80, 160):
            times = grids.uniform_log_snr(LINEAR, num + 1, last=50)
            steps = [kinds[i % 3] for i in range(num)]
            plan = stepwise(LINEAR, times[:-1], steps, end=50)
            errors.append(abs(law(plan, target).cov[0, 0] ** 0.5 - exact))
        assert errors[0] > falls * errors[1] > falls**2 * errors[2], order


def test_a_step_is_its_own_and_leaves_the_others_alone():
    times = grids.trailing(1000, 6)
    two, one = Choice("x_0", 2), Choice("x_0", 1)
    mixed = stepwise(LINEAR, times, [two, two, two, one, two, two])
    full = plans.dpmpp_2m(LINEAR, times)
    np.testing.assert_allclose(np.delete(mixed.mix, 3, 0), np.delete(full.mix, 3, 0), rtol=1e-12)
    np.testing.assert_allclose(mixed.mix[3], [plans.ddim(LINEAR, times).mix[3, 0], 0], rtol=1e-12)


def test_a_corrector_acts_where_its_step_has_led():
    times = grids.trailing(1000, 6)
    plain, corrected = Choice("x_0", 2), Choice("x_0", 2, corrector=True)
    steps = [plain, plain, corrected, plain, plain, corrected]
    ours = stepwise(LINEAR, times, steps).matrix()
    theirs = plans.dpmpp_2m(LINEAR, times).matrix()
    np.testing.assert_allclose(ours[:3], theirs[:3], rtol=1e-12, atol=1e-12)
    assert np.abs(ours[3] - theirs[3]).max() > 1e-3


def test_a_first_step_on_x_0_starts_from_noise_alone():
    flow, times = SCHEDULES["rectified_flow"], grids.trailing(1000, 5)
    rest = some(np.random.default_rng(1), 4)
    plan = stepwise(flow, times, [Choice("x_0", 1, corrector=True), *rest])
    assert all(np.isfinite(column).all() for column in (plan.keep, plan.mix))
    unipc = plans.unipc(flow, times)
    same = stepwise(flow, times, [Choice(corrector=True)] * 5)
    np.testing.assert_allclose(same.matrix(), unipc.matrix(), rtol=0, atol=1e-12)
    for first in (Choice("eps", 1), Choice(solver_type="heun", corrector=True)):
        with pytest.raises(ValueError, match="from zero SNR it must work on x_0"):
            stepwise(flow, times, [first, *rest])


def test_what_is_no_choice_is_refused(subtests):
    for steps, message in [
        ([Choice()] * 4, "there are 4 steps for 5 times: each needs one"),
        ([], "there are 0 steps for 5 times"),
        ([Choice()] * 4 + ["x_0"], "steps[4] is 'x_0': it must be a Choice"),
        ([Choice("v")] * 5, "the space of steps[0] is 'v': it must be 'x_0' or 'eps'"),
        ([Choice(variable="x")] * 5, "the variable of steps[0] is 'x': it must be 'log_snr' or"),
        ([Choice(variable="t")] * 5, "has a polynomial in t: its space must be 'eps'"),
        ([Choice(solver_type="rk")] * 5, "solver_type is 'rk': it must be 'midpoint' or 'heun'"),
        ([Choice(corrector=1)] * 5, "the corrector of steps[0] is 1: it must be a bool"),
        *[
            ([Choice(order=o)] * 5, f"the order of steps[0] is {o!r}: it must be a whole number")
            for o in (0, 5, 1.5, "2", True)
        ],
    ]:
        with subtests.test(message), pytest.raises(ValueError, match=re.escape(message)):
            stepwise(LINEAR, grids.trailing(1000, 5), steps)


def test_times_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="times must decrease strictly"):
        stepwise(LINEAR, [100, 200], [Choice()] * 2)
    with pytest.raises(ValueError, match="end is 900"):
        stepwise(LINEAR, [900, 200], [Choice()] * 2, end=900)
