"""What DPM-Solver-v3 needs to know of a network: measured, and against what is known."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from known_statistics import LINEAR, MIXTURE, even, gaussian, predicted, run, visited

from skipjax import grids, plans, schedules
from skipjax.denoisers import Point, from_eps
from skipjax.evaluation.exact import Gaussian
from skipjax.plans import Plan
from skipjax.plans.dpm_v3 import Statistics, dpm_v3
from skipjax.tuning.examples import Examples, draw
from skipjax.tuning.statistics import statistics

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
KEYS = jax.random.split(jax.random.key(0), 256)


def examples(schedule, dim, num, dtype=np.float64):
    x = schedule.sigma[-1] * np.random.default_rng(0).normal(size=(num, dim))
    return Examples(x.astype(dtype), KEYS[:num])


def of(target):
    return Partial(lambda examples, denoise: denoise, denoise=Partial(target.denoise))


EXPLODING, FLOW = schedules.variance_exploding(100), schedules.rectified_flow()
ROUND = {  # schedule, mean, dtype, tolerance
    "linear": (LINEAR, 0.5, np.float64, 1e-13),
    "without f": (LINEAR, 0.0, np.float32, 1e-6),  # f is 0, and any s is as good
    "variance_exploding": (EXPLODING, 0.5, np.float64, 1e-13),
    "rectified_flow": (FLOW, 0.5, np.float32, 1e-6),
}
QUICK = ["linear", "without f", "variance_exploding"]


@pytest.mark.parametrize(
    "names",
    [QUICK, pytest.param(["rectified_flow"], marks=pytest.mark.slow)],
    ids=", ".join,
)
def test_statistics_of_a_round_gaussian(float64, names):
    for name in names:
        schedule, mean, dtype, atol = ROUND[name]
        target = Gaussian(np.full(3, mean), 0.25 * np.eye(3))
        found = statistics(of(target), schedule, examples(schedule, 3, 32, dtype), batch=20)
        exact = gaussian(found.log_snr, 0.25)
        np.testing.assert_allclose(found.log_snr, even(schedule, 120), atol=1e-9, err_msg=name)
        np.testing.assert_allclose(found.l, exact.l, rtol=0, atol=atol, err_msg=name)
        s = exact.s if mean else 0.0
        np.testing.assert_allclose(found.s, s, rtol=0, atol=0.05, err_msg=name)


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


@Partial
def network(examples, size):
    return from_eps(lambda x, t: size * jnp.tanh(x) * jnp.cos(t / 1e3)[:, None])


def test_a_network_has_statistics_and_a_plan_that_can_be_kept():
    denoiser, some = Partial(network, size=1.0), examples(LINEAR, 4, 6, np.float32)
    known = statistics(denoiser, LINEAR, some, points=9, batch=4)
    assert all(column.dtype == np.float64 and len(column) == 9 for column in known)
    times = grids.uniform_log_snr(LINEAR, 5)
    plan = dpm_v3(LINEAR, times, known, order=3)
    again = Plan.from_json(plan.to_json())
    assert again.origin.method == "dpm_v3_3" and not plan.noise.any() and plan.belongs(LINEAR)
    jax.tree.map(np.testing.assert_array_equal, again, plan)
    x = draw(denoiser, again, some)
    assert x.shape == (6, 4) and np.isfinite(x).all()


def test_a_network_that_is_not_finite_has_no_statistics():
    broken, some = Partial(network, size=np.nan), examples(LINEAR, 4, 6, np.float32)
    with pytest.raises(FloatingPointError, match="is not finite"):
        statistics(broken, LINEAR, some, points=9, batch=4)


def test_statistics_along_a_plan_of_ones_own():
    schedule, some = schedules.rectified_flow(50), examples(LINEAR, 2, 8, np.float32)
    plan = plans.ddim(schedule, [49, 30, 20, 0])
    found = statistics(of(MIXTURE), schedule, some, plan=plan)
    # Of zero SNR there are none.
    np.testing.assert_allclose(found.log_snr, schedule.log_snr(plan.t[1:]))
    assert np.isfinite(found.l).all() and np.isfinite(found.s).all()
    with pytest.raises(ValueError, match="written for another schedule: write it for this one"):
        statistics(of(MIXTURE), LINEAR, some, plan=plan)
    with pytest.raises(ValueError, match="one call a step, from noise to data"):
        statistics(of(MIXTURE), LINEAR, some, plan=plans.heun(LINEAR, [999, 400, 20]))


def test_statistics_refuse_what_they_cannot_do(subtests):
    for changes, message in [
        ({"points": 1}, "points is 1"),
        ({"probes": 0}, "probes is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"examples": Examples(np.zeros((0, 2)), KEYS)}, "there are no examples"),
    ]:
        asked = {"examples": examples(LINEAR, 2, 2, np.float32)} | changes
        with subtests.test(message), pytest.raises(ValueError, match=message):
            statistics(of(MIXTURE), LINEAR, **asked)
