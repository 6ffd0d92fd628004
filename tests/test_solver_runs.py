"""Every plan through `integrate`: against a plain loop, other dtypes, and other predictions."""

from dataclasses import replace
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import by_space, loop

from skipjax import denoisers, grids, schedules
from skipjax.denoisers import Point, Prediction
from skipjax.evaluation.exact import Mixture
from skipjax.plans import METHODS
from skipjax.sampling import integrate

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
SCHEDULE = schedules.linear()
TARGET = Mixture([0.4, 0.3, 0.3], [[1.0, 0.8], [-1.2, 0.6], [-0.5, -1.1]], 0.3)
ROWS = 100
X = np.random.default_rng(0).normal(size=(4, 2))
Z = np.random.default_rng(1).normal(size=(ROWS, 4, 2))


def eps_of(x, t, sin):
    """A network like none: it goes by t, and is not linear."""
    return sin(0.3 * x + 0.01 * t) + 0.1 * x


def wave(x, point):
    eps = eps_of(x, point.t, jnp.sin)
    return Prediction((x - point.sigma * eps) / point.alpha, eps)


def run_one(plan, x, z, denoise):
    return integrate(plan, denoise, x, jax.random.split(jax.random.key(0), len(x)), noise=z)


@partial(jax.jit, static_argnames="denoise")
def run(plans, x, z, denoise):
    """What each of stacked plans makes of the same noise."""
    return jax.vmap(lambda plan: run_one(plan, x, z, denoise))(plans)


def test_integrate_is_a_plain_loop_over_the_rows(float64):
    times = grids.trailing(1000, 7)
    written = {name: method.write(SCHEDULE, times) for name, method in METHODS.items()}
    for names, plans in by_space(written, 20):
        for name, found in zip(names, run(plans, X, Z[:20], wave), strict=True):
            plan = written[name]

            def predict(x, t, alpha, sigma, space=plan.space):
                eps = eps_of(x, t, np.sin)
                return eps if space == "eps" else (x - sigma * eps) / alpha

            expected = loop(plan, predict, X, Z)
            atol = 1e-12 * np.abs(expected).max()
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=atol, err_msg=name)


@pytest.mark.slow
def test_single_precision_drifts_by_less_than_1e_4():
    written = {}
    for (name, method), nfe, end in product(METHODS.items(), (15, 100), (schedules.DATA, 0)):
        num = (nfe - max(method.more, 0)) // method.calls
        times = grids.uniform_log_snr(SCHEDULE, num + 1)
        plan = method.write(SCHEDULE, times[:-1], end=end)
        written[f"{name}, {nfe} NFE, to {end}"] = plan
    for names, plans in by_space(written, ROWS):
        single = np.asarray(run(plans, np.float32(X), np.float32(Z), TARGET.denoise))
        with jax.enable_x64(True):
            double = np.asarray(run(plans, X, Z, TARGET.denoise))
        assert single.dtype == np.float32 and double.dtype == np.float64
        for name, one, other in zip(names, single, double, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-4, err_msg=name)


KINDS = ("eps", "x_0", "score", "v", "velocity")


def network(kind):
    """What `wave` says, as a network of a kind that is told whole times."""
    alpha, sigma = jnp.asarray(SCHEDULE.alpha), jnp.asarray(SCHEDULE.sigma)

    def predict(x, t):
        a, s = (column[t.astype(int)[0]] for column in (alpha, sigma))
        x_0, eps, *_ = wave(x, Point(t[0], a, s))
        kinds = {"eps": eps, "x_0": x_0, "score": -eps / s, "v": a * eps - s * x_0}
        return kinds.get(kind, eps - x_0)

    return getattr(denoisers, f"from_{kind}")(predict)


@jax.jit
def run_kinds(plans, x, z):
    """Each of stacked plans with networks of all kinds, after the denoiser that they stand for."""
    said = [wave, *map(network, KINDS)]

    def run(plan, kind):
        return run_one(plan, x, z, lambda x, point: jax.lax.switch(kind, said, x, point))

    return jax.vmap(jax.vmap(run, (None, 0)), (0, None))(plans, jnp.arange(len(said)))


def test_it_does_not_matter_what_the_network_predicts(float64):
    times = grids.trailing(1000, 16)
    names = ("ddim", "ddpm", "dpmpp_2m", "dpm_3m", "unipc_3", "deis_tab3", "plms")
    written = {name: METHODS[name].write(SCHEDULE, times) for name in names}
    for names, plans in by_space(written, 20):
        for name, (exact, *found) in zip(names, run_kinds(plans, X, Z[:20]), strict=True):
            for kind, ours in zip(KINDS, found, strict=True):
                case = f"{name}, {kind}"
                np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-10, err_msg=case)


def losses(plans):
    return jnp.square(run(plans, X, Z[:20], wave)).sum(axis=(1, 2))


slopes = jax.jit(jax.grad(lambda plans: losses(plans).sum()))  # no plan feels another's numbers


def test_every_column_has_a_gradient(float64):
    times = np.linspace(600, 50, 7)
    written = {name: method.write(SCHEDULE, times) for name, method in METHODS.items()}
    for names, plans in by_space(written, 20):
        gradient = slopes(plans)
        assert all(np.isfinite(column).all() for column in jax.tree.leaves(gradient))
        for column, entry in [
            ("t", (2,)), ("alpha", (1,)), ("sigma", (3,)), ("keep", (2,)), ("mix", (4, 0)),
            ("mix", (3, 1)), ("noise", (1,)),
        ]:  # fmt: skip
            values, found = getattr(plans, column), np.asarray(getattr(gradient, column))
            at = (slice(None), *entry)
            step = 1e-5 * np.maximum(1.0, np.abs(values[at]))

            def bumped(by, column=column, values=values, at=at):
                values = values.copy()
                values[at] += by
                return np.asarray(losses(replace(plans, **{column: values})))  # noqa: B023

            expected = (bumped(step) - bumped(-step)) / (2 * step)
            scale = np.abs(found).max(axis=tuple(range(1, found.ndim))) + 1e-3
            for i, name in enumerate(names):
                near = pytest.approx(expected[i], rel=1e-5, abs=1e-7 * scale[i])
                assert found[i][entry] == near, f"{name}, {column} {entry}"
