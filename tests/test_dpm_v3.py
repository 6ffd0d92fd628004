"""DPM-Solver-v3: what it is with known statistics, its order, and statistics in closed form."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from tables import in_eps, loop

from skipjax import grids, plans, schedules
from skipjax.denoisers import Point, from_eps
from skipjax.evaluation.exact import Gaussian, Mixture, reference
from skipjax.plans import Plan
from skipjax.plans.dpm_v3 import Statistics, dpm_v3
from skipjax.tuning.examples import Examples, drawn
from skipjax.tuning.statistics import statistics

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
LINEAR = schedules.linear()
MIXTURE = Mixture([0.4, 0.3, 0.2, 0.1], [[1.0, 0.8], [-1.2, 0.6], [-0.5, -1.1], [0.9, -0.9]], 0.35)
KEY = jax.random.key(0)
HEUN = {"solver_type": "heun"}


def even(schedule, num=400):
    """Levels from the noisiest that has a signal to time 0."""
    noisiest = np.flatnonzero(schedule.alpha > 0)[-1]
    return np.linspace(*schedule.log_snr([noisiest, 0]), num)


LEVELS = even(LINEAR, 30)


def constant(l, s, log_snr=LEVELS):  # noqa: E741
    return Statistics(log_snr, np.full(len(log_snr), l), np.full(len(log_snr), s))


def gaussian(log_snr, variance):
    """Of a Gaussian that is N(mean, variance I): sigma eps = l (x - alpha mean)."""
    l = 1 / (1 + variance * np.exp(2 * log_snr))  # noqa: E741
    return Statistics(log_snr, l, -2 * (1 - l))


def examples(schedule, dim, num, dtype=jnp.float64):
    x = float(schedule.sigma[-1]) * jax.random.normal(KEY, (num, dim), dtype)
    return Examples(x, jax.random.split(KEY, num))


def visited(plan, target, x):
    """Every point that a plan comes to, [N + 1, B, D]: one program for all plans."""
    points = []

    def predict(x, t, alpha, sigma):
        points.append(x)
        return np.asarray(predicted(target.denoise, x, alpha, sigma).x_0)

    end = loop(plan, predict, np.asarray(x), np.zeros(plan.nfe))
    return np.array([*points, end])


@partial(jax.jit, static_argnums=0)
def predicted(denoise, x, alpha, sigma):
    return denoise(x, Point(0.0, alpha, sigma))


def run(plan, target, x):
    return visited(plan, target, x)[-1]


def of(target):
    return Partial(lambda examples, denoise: denoise, denoise=Partial(target.denoise))


@pytest.mark.parametrize("end", [schedules.DATA, 3])
@pytest.mark.parametrize(
    ("known", "writers"),
    [
        (constant(1.0, 0.0), [plans.dpmpp_1, plans.dpmpp_2m, plans.dpmpp_3m]),
        (constant(0.0, -1.0), [plans.dpm_1, plans.dpm_2m, plans.dpm_3m]),
    ],
    ids=["dpmpp", "dpm"],
)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_two_choices_of_the_statistics_are_known_methods(known, writers, order, end):
    times = [999, 871.5, 640, 402, 133.25, 20]
    write = partial(writers[order - 1], **HEUN) if order > 1 else writers[0]
    for lower in (False, True) if order > 1 else (False,):
        options = {"lower_order_final": True} if lower else {}
        ours = dpm_v3(LINEAR, times, known, order=order, corrector=False, end=end, **options)
        theirs = write(LINEAR, times, end=end, **options)
        np.testing.assert_allclose(in_eps(ours), in_eps(theirs), rtol=0, atol=1e-11)


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


@pytest.mark.parametrize("mean", [0.0, 0.7])
def test_with_its_statistics_steps_on_a_round_gaussian_are_exact(float64, mean):
    target = Gaussian(np.full(3, mean), 0.25 * np.eye(3))
    known = gaussian(even(LINEAR), 0.25)
    x = np.random.default_rng(0).normal(size=(8, 3))
    for order in (1, 2, 3):
        plan = dpm_v3(LINEAR, [999, 300.5, 50], known, order=order, end=0)
        start, end = ((float(a), float(s)) for a, s in map(LINEAR.at, (999, 0)))
        found = run(plan, target, x)
        np.testing.assert_allclose(found, target.flow(x, start, end), rtol=0, atol=1e-6)


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


@pytest.mark.parametrize("corrector", [True, False])
@pytest.mark.parametrize(
    ("order", "known", "nfes", "expected"),
    [
        (1, ODD, [48, 96, 192], 1),
        (2, ODD, [48, 96, 192], 2),
        (2, WIDE, [48, 96, 192], 2),
        (3, WIDE, [256, 512], 3),
        (3, ODD, [128, 256], 2),  # g changes in noise, where the first step is of order 1
    ],
)
def test_the_order_is_what_it_says(float64, flow, order, known, nfes, expected, corrector):
    (x, exact), errors = flow, []
    for nfe in nfes:
        times = grids.uniform_log_snr(FINE, nfe + 1, last=END)
        plan = dpm_v3(FINE, times[:-1], known, order=order, corrector=corrector, end=END)
        assert plan.history <= 48  # what is not felt is left out
        errors.append(np.sqrt(np.mean(np.square(run(plan, MIXTURE, x) - exact))))
    slope = -np.polyfit(np.log(nfes), np.log(errors), 1)[0]
    print(f"order {slope:.2f}: errors {errors}")
    assert slope == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize(
    ("schedule", "mean", "dtype", "atol"),
    [
        (LINEAR, 0.5, jnp.float64, 1e-13),
        (LINEAR, 0.0, jnp.float32, 1e-6),  # f is 0, and any s is as good
        (schedules.variance_exploding(100), 0.5, jnp.float64, 1e-13),
        (schedules.rectified_flow(), 0.5, jnp.float32, 1e-6),
    ],
    ids=["linear", "without f", "variance_exploding", "rectified_flow"],
)
def test_statistics_of_a_round_gaussian(float64, schedule, mean, dtype, atol):
    target = Gaussian(np.full(3, mean), 0.25 * np.eye(3))
    found = statistics(of(target), schedule, examples(schedule, 3, 32, dtype), batch=20)
    exact = gaussian(found.log_snr, 0.25)
    np.testing.assert_allclose(found.log_snr, even(schedule, 120), atol=1e-9)
    np.testing.assert_allclose(found.l, exact.l, rtol=0, atol=atol)
    np.testing.assert_allclose(found.s, exact.s if mean else 0.0, rtol=0, atol=0.05)


class Measured(NamedTuple):
    known: Statistics
    plan: Plan  # with its levels
    points: np.ndarray  # where that goes
    probes: int


@pytest.fixture(scope="module")
def measured():
    """Statistics of the mixture, and the way that they were taken on."""
    with jax.enable_x64(True):
        some = examples(LINEAR, 2, 256)
        known = statistics(of(MIXTURE), LINEAR, some, points=160, probes=3, batch=96)
        plan = plans.dpmpp_3m(LINEAR, LINEAR.time(known.log_snr))
        return Measured(known, plan, visited(plan, MIXTURE, some.x), 3)


def test_the_trace_is_exact_but_for_its_probes(float64, measured):
    known, plan, points, probes = measured

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None, None))
    def by_x(x, alpha, sigma):
        return jax.jacfwd(lambda x: MIXTURE.denoise(x[None], Point(0.0, alpha, sigma)).eps[0])(x)

    for i in (50, 100, 120, 140):
        sigma = plan.sigma[i]
        derivative = sigma * np.asarray(by_x(points[i], plan.alpha[i], sigma))
        exact = np.trace(derivative, axis1=1, axis2=2).mean() / 2
        across = derivative[:, 0, 1]  # v . J v = trace + 2 J_01 v_0 v_1
        error = np.sqrt(np.square(across).mean() / (len(across) * probes))
        assert error < 0.02 and abs(known.l[i] - exact) < 5 * error + 1e-12


def test_f_and_its_derivative_are_those_of_the_flow(float64, measured):
    """s from differences of f between neighbouring levels of the trajectories."""
    known, plan, points, _ = measured
    f = []
    for x, alpha, sigma, l in zip(points, plan.alpha, plan.sigma, known.l, strict=False):  # noqa: E741
        f.append(sigma * np.asarray(predicted(MIXTURE.denoise, x, alpha, sigma).eps) - l * x)
        f[-1] /= alpha
    rate = np.gradient(np.array(f), known.log_snr, axis=0)
    s = (f * rate).sum(axis=(1, 2)) / np.square(f).sum(axis=(1, 2))
    np.testing.assert_allclose(known.s[2:-2], s[2:-2], rtol=0, atol=0.03)


def test_a_v3_plan_betters_the_others_on_a_mixture(float64, measured):
    x = np.random.default_rng(1).normal(size=(256, 2))
    times = grids.quadratic(1000, 8)
    target, ours, *theirs = (
        run(plan, MIXTURE, x)
        for plan in (
            plans.dpmpp_3m(LINEAR, grids.uniform_log_snr(LINEAR, 200)),
            dpm_v3(LINEAR, times, measured.known),
            plans.dpmpp_2m(LINEAR, times),
            plans.unipc(LINEAR, times, 3),
        )
    )
    ours, *theirs = (np.sqrt(np.square(x - target).mean()) for x in (ours, *theirs))
    assert ours < 0.5 * min(theirs)


def test_a_network_has_statistics_and_a_plan_that_can_be_kept():
    denoiser = Partial(
        lambda examples: from_eps(lambda x, t: jnp.tanh(x) * jnp.cos(t / 1e3)[:, None])
    )
    some = examples(LINEAR, 4, 6, jnp.float32)
    known = statistics(denoiser, LINEAR, some, points=9, batch=4)
    assert all(column.dtype == np.float64 and len(column) == 9 for column in known)
    times = grids.uniform_log_snr(LINEAR, 5)
    plan = dpm_v3(LINEAR, times, known, order=3)
    again = Plan.from_json(plan.to_json())
    assert again.origin.method == "dpm_v3_3" and not plan.noise.any() and plan.belongs(LINEAR)
    jax.tree.map(np.testing.assert_array_equal, again, plan)
    x = drawn(denoiser, again, some)
    assert x.shape == (6, 4) and np.isfinite(x).all()


def test_statistics_along_a_plan_of_ones_own():
    schedule, some = schedules.rectified_flow(50), examples(LINEAR, 2, 8, jnp.float32)
    plan = plans.ddim(schedule, [49, 30, 20, 0])
    found = statistics(of(MIXTURE), schedule, some, plan=plan)
    # Of zero SNR there are none.
    np.testing.assert_allclose(found.log_snr, schedule.log_snr(plan.t[1:]))
    assert np.isfinite(found.l).all() and np.isfinite(found.s).all()
    with pytest.raises(ValueError, match="written for another schedule: write it for this one"):
        statistics(of(MIXTURE), LINEAR, some, plan=plan)
    with pytest.raises(ValueError, match="one call a step, from noise to data"):
        statistics(of(MIXTURE), LINEAR, some, plan=plans.heun(LINEAR, [999, 400, 20]))


def test_it_starts_from_zero_snr(float64):
    schedule = schedules.rectified_flow()
    target = Gaussian(np.zeros(2), 0.25 * np.eye(2))
    known = gaussian(even(schedule), 0.25)
    plan = dpm_v3(schedule, [999, 800, 500, 200], known, order=3, end=0)
    x = np.random.default_rng(0).normal(size=(8, 2))
    start = run(plans.ddim(schedule, [999], end=800), target, x)
    levels = [tuple(map(float, schedule.at(t))) for t in (800, 0)]
    np.testing.assert_allclose(run(plan, target, x), target.flow(start, *levels), atol=1e-5)


KNOWN = constant(0.5, 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": 4}, "order is 4: it must be a whole number in 1 .. 3"),
        ({"times": [500], "order": 2}, "1 times are too few"),
        (
            {"statistics": constant(1.0, 0.0, np.linspace(-1, 2, 9))},
            r"time 900 has log_snr -4.* reach from -1 to 2: measure them on a wider range",
        ),
        ({"statistics": KNOWN._replace(s=KNOWN.s * np.nan)}, "s of the statistics holds .*nan"),
        ({"statistics": KNOWN._replace(l=KNOWN.l[:5])}, "they must be vectors of one length"),
        ({"statistics": KNOWN._replace(log_snr=KNOWN.l)}, "two or more levels, strictly incr"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(changes, message):
    asked = {"times": [900, 500, 100], "statistics": KNOWN} | changes
    with pytest.raises(ValueError, match=message):
        dpm_v3(LINEAR, asked.pop("times"), asked.pop("statistics"), **asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": 1}, "points is 1"),
        ({"probes": 0}, "probes is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"examples": Examples(jnp.zeros((0, 2)), KEY)}, "there are no examples"),
    ],
)
def test_statistics_refuse_what_they_cannot_do(changes, message):
    asked = {"examples": examples(LINEAR, 2, 2, jnp.float32)} | changes
    with pytest.raises(ValueError, match=message):
        statistics(of(MIXTURE), LINEAR, **asked)


def test_a_network_that_is_not_finite_has_no_statistics():
    broken = Partial(lambda examples: from_eps(lambda x, t: jnp.full_like(x, jnp.nan)))
    with pytest.raises(FloatingPointError, match="is not finite"):
        statistics(broken, LINEAR, examples(LINEAR, 2, 2, jnp.float32), points=4)
