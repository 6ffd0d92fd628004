"""DPM-Solver-v3: what it is with known statistics, how exact, of which order."""

from functools import partial
from itertools import product

import numpy as np
import pytest
from known_statistics import LINEAR, MIXTURE, constant, even, gaussian, run
from tables import in_eps

from skipjax import grids, plans, schedules
from skipjax.evaluation.exact import Gaussian, reference
from skipjax.plans.dpm_v3 import Statistics, dpm_v3

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
HEUN = {"solver_type": "heun"}


def test_two_choices_of_the_statistics_are_known_methods():
    times = [999, 871.5, 640, 402, 133.25, 20]
    methods = {
        "dpmpp": (constant(1.0, 0.0), [plans.dpmpp_1, plans.dpmpp_2m, plans.dpmpp_3m]),
        "dpm": (constant(0.0, -1.0), [plans.dpm_1, plans.dpm_2m, plans.dpm_3m]),
    }
    for name, order, end in product(methods, (1, 2, 3), (schedules.DATA, 3)):
        known, writers = methods[name]
        write = partial(writers[order - 1], **HEUN) if order > 1 else writers[0]
        for lower in (False, True) if order > 1 else (False,):
            options = {"lower_order_final": True} if lower else {}
            ours = dpm_v3(LINEAR, times, known, order=order, corrector=False, end=end, **options)
            theirs = write(LINEAR, times, end=end, **options)
            case = f"{name}, order {order}, to {end}, {options}"
            np.testing.assert_allclose(
                in_eps(ours), in_eps(theirs), rtol=0, atol=1e-11, err_msg=case
            )


def test_the_corrector_of_order_2_is_the_line_through_both_ends():
    """With l = 1 and s = 0 it makes a step from s to t again with x_0 on a line from s to t."""
    times = [900.0, 600.0, 300.0]
    plan = dpm_v3(LINEAR, times, constant(1.0, 0.0), order=2, end=100)
    predicted = dpm_v3(LINEAR, times, constant(1.0, 0.0), order=2, corrector=False, end=100)
    np.testing.assert_allclose(plan.matrix()[:2], predicted.matrix()[:2], atol=1e-12)
    levels = [plans.path.levels(LINEAR, [t])[0] for t in (600.0, 300.0, 100.0)]
    m = np.eye(4)[1:]  # x_0 of the calls, beside the noise
    x = plan.matrix()[0]
    for (s, t), here, there, v in [
        (levels[:2], m[1], m[2], 1.0),  # what led to the third call, made again
        (levels[1:], m[2], m[1], (levels[0].log_snr - levels[1].log_snr)),
    ]:
        step = plans.exponential.Step(s, t)
        v = v if v == 1 else v / step.h
        x = step.keep * x + step.weight(0) * here + step.weight(1) * (there - here) / v
    np.testing.assert_allclose(plan.matrix()[2], x, atol=1e-12)


def test_with_its_statistics_steps_on_a_round_gaussian_are_exact(float64):
    known, x = gaussian(even(LINEAR), 0.25), np.random.default_rng(0).normal(size=(8, 3))
    start, end = ((float(a), float(s)) for a, s in map(LINEAR.at, (999, 0)))
    for mean in (0.0, 0.7):
        target = Gaussian(np.full(3, mean), 0.25 * np.eye(3))
        exact = target.flow(x, start, end)
        for order in (1, 2, 3):
            plan = dpm_v3(LINEAR, [999, 300.5, 50], known, order=order, end=0)
            found, case = run(plan, target, x), f"mean {mean}, order {order}"
            np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6, err_msg=case)


# As in test_order.py: many times, from nearly pure noise to where x_0 is uncertain.
FINE = schedules.linear(20_000, beta_end=0.03)
END = 2000


@pytest.fixture(scope="module")
def flow():
    x = np.random.default_rng(0).normal(size=(16, 2))
    levels = [tuple(map(float, FINE.at(t))) for t in (FINE.T - 1, END)]
    return x, reference(MIXTURE.denoise, x, *levels, rtol=1e-12)


WIDE = gaussian(even(FINE, 100), 1.0)  # of other data, and in noise that of all
ODD = Statistics(even(FINE, 12), np.cos(even(FINE, 12) / 2) ** 2, np.sin(even(FINE, 12)))


FEW = (64, 128)
# Order, statistics, with and without the corrector, NFE, and the order that shows.
SOON = [
    (1, ODD, (True, False), FEW, 1),
    (2, ODD, (True, False), FEW, 2),
    (2, WIDE, (True, False), FEW, 2),
    (3, WIDE, (False,), FEW, 3),
    (3, ODD, (True,), FEW, 2),  # g changes in noise, where the first step is of order 1
]
LATE = [
    (1, ODD, (True, False), (48, 96, 192), 1),
    (2, ODD, (True, False), (48, 96, 192), 2),
    (2, WIDE, (True, False), (48, 96, 192), 2),
    (3, WIDE, (True, False), (256, 512), 3),
    (3, ODD, (True, False), (128, 256), 2),
]


@pytest.mark.parametrize(
    "cases", [SOON, pytest.param(LATE, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_the_order_is_what_it_says(float64, flow, cases):
    x, exact = flow
    for order, known, correctors, nfes, expected in cases:
        for corrector in correctors:
            errors = []
            for nfe in nfes:
                times = grids.uniform_log_snr(FINE, nfe + 1, last=END)
                plan = dpm_v3(FINE, times[:-1], known, order=order, corrector=corrector, end=END)
                assert plan.history <= 48  # what is not felt is left out
                errors.append(np.sqrt(np.mean(np.square(run(plan, MIXTURE, x) - exact))))
            slope = -np.polyfit(np.log(nfes), np.log(errors), 1)[0]
            case = f"order {order}, {'WIDE' if known is WIDE else 'ODD'}, {corrector}: {errors}"
            assert slope == pytest.approx(expected, abs=0.25), case


def test_it_starts_from_zero_snr(float64):
    schedule = schedules.rectified_flow()
    target = Gaussian(np.zeros(2), 0.25 * np.eye(2))
    known = gaussian(even(schedule), 0.25)
    plan = dpm_v3(schedule, [999, 800, 500, 200], known, order=3, end=0)
    x = np.random.default_rng(0).normal(size=(8, 2))
    start = run(plans.ddim(schedule, [999], end=800), target, x)
    levels = [tuple(map(float, schedule.at(t))) for t in (800, 0)]
    np.testing.assert_allclose(run(plan, target, x), target.flow(start, *levels), atol=1e-5)


def test_what_does_not_fit_is_refused_in_words(subtests):
    known = constant(0.5, 0.1)
    for changes, message in [
        ({"order": 4}, "order is 4: it must be a whole number in 1 .. 3"),
        ({"times": [500], "order": 2}, "1 times are too few"),
        (
            {"statistics": constant(1.0, 0.0, np.linspace(-1, 2, 9))},
            r"time 900 has log_snr -4.* reach from -1 to 2: measure them on a wider range",
        ),
        ({"statistics": known._replace(s=known.s * np.nan)}, "s of the statistics holds .*nan"),
        ({"statistics": known._replace(l=known.l[:5])}, "they must be vectors of one length"),
        ({"statistics": known._replace(log_snr=known.l)}, "two or more levels, strictly incr"),
    ]:
        asked = {"times": [900, 500, 100], "statistics": known} | changes
        with subtests.test(message), pytest.raises(ValueError, match=message):
            dpm_v3(LINEAR, asked.pop("times"), asked.pop("statistics"), **asked)
