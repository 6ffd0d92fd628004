"""Every plan through `integrate`: against a plain loop, other dtypes, and other predictions."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import loop, padded

from skipjax import denoisers, grids, schedules
from skipjax.denoisers import Prediction
from skipjax.evaluation.exact import Mixture
from skipjax.plans import METHODS
from skipjax.sampling import integrate

SCHEDULE = schedules.linear()
TARGET = Mixture([0.4, 0.3, 0.3], [[1.0, 0.8], [-1.2, 0.6], [-0.5, -1.1]], 0.3)
ROWS = 100
X = np.random.default_rng(0).normal(size=(4, 2))
Z = np.random.default_rng(1).normal(size=(ROWS, 4, 2))


@jax.jit
def wave(x, point):
    """A network like none: it goes by t, and is not linear."""
    eps = jnp.sin(0.3 * x + 0.01 * point.t) + 0.1 * x
    return Prediction((x - point.sigma * eps) / point.alpha, eps)


@partial(jax.jit, static_argnames="denoise")
def run(plan, x, z, denoise):
    return integrate(plan, denoise, x, jax.random.split(jax.random.key(0), len(x)), noise=z)


@jax.jit
def loss(plan):
    return jnp.sum(jnp.square(run(plan, jnp.asarray(X), jnp.asarray(Z[:20]), wave)))


slope = jax.jit(jax.grad(loss))


def on_device(plan, denoise=TARGET.denoise, rows=ROWS, dtype=np.float64):
    table = padded(plan, rows)
    return np.asarray(run(table, X.astype(dtype), Z[:rows].astype(dtype), denoise))


@pytest.mark.parametrize("name", METHODS)
def test_integrate_is_a_plain_loop_over_the_rows(float64, name):
    plan = METHODS[name].write(SCHEDULE, grids.trailing(1000, 9))

    def predict(x, t, alpha, sigma):
        point = denoisers.Point(jnp.float64(t), jnp.float64(alpha), jnp.float64(sigma))
        return np.asarray(getattr(wave(x, point), plan.space))

    expected = loop(plan, predict, X, Z)
    found = on_device(plan, wave)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("nfe", [15, 100])
@pytest.mark.parametrize("end", [schedules.DATA, 0])
@pytest.mark.parametrize("name", METHODS)
def test_single_precision_drifts_by_less_than_1e_4(name, end, nfe):
    method = METHODS[name]
    num = (nfe - max(method.more, 0)) // method.calls
    times = grids.uniform_log_snr(SCHEDULE, num + 1)
    plan = method.write(SCHEDULE, times[:-1], end=end)
    single = on_device(plan, dtype=np.float32)
    with jax.enable_x64(True):
        double = on_device(plan)
    assert single.dtype == np.float32 and double.dtype == np.float64
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-4)


def network(kind):
    """The exact prediction of a kind, as a network that is told whole times."""
    alpha, sigma = jnp.asarray(SCHEDULE.alpha), jnp.asarray(SCHEDULE.sigma)

    def predict(x, t):
        a, s = (column[t.astype(int)[0]] for column in (alpha, sigma))
        x_0, eps, *_ = TARGET.denoise(x, denoisers.Point(t[0], a, s))
        kinds = {"eps": eps, "x_0": x_0, "score": -eps / s, "v": a * eps - s * x_0}
        return kinds.get(kind, eps - x_0)

    return predict


@pytest.mark.parametrize("kind", ["eps", "x_0", "score", "v", "velocity"])
def test_it_does_not_matter_what_the_network_predicts(float64, kind):
    denoise = getattr(denoisers, f"from_{kind}")(network(kind))
    times = grids.trailing(1000, 16)
    for name in ("ddim", "ddpm", "dpmpp_2m", "dpm_3m", "unipc_3", "deis_tab3", "plms"):
        plan = METHODS[name].write(SCHEDULE, times)
        found, exact = on_device(plan, denoise), on_device(plan)
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("name", METHODS)
def test_every_column_has_a_gradient(float64, name):
    plan = METHODS[name].write(SCHEDULE, np.linspace(600, 50, 7))
    plan = jax.tree.map(jnp.asarray, padded(plan, 20))

    gradient = slope(plan)
    assert all(np.isfinite(column).all() for column in jax.tree.leaves(gradient))
    for column, entry in [
        ("t", (2,)), ("alpha", (1,)), ("sigma", (3,)), ("keep", (2,)), ("mix", (4, 0)),
        ("mix", (3, 1)), ("noise", (1,)),
    ]:  # fmt: skip
        values = getattr(plan, column)
        step = 1e-5 * max(1.0, abs(float(values[entry])))
        up, down = (
            loss(replace(plan, **{column: values.at[entry].add(by)})) for by in (step, -step)
        )
        found = float(getattr(gradient, column)[entry])
        scale = np.abs(getattr(gradient, column)).max() + 1e-3
        assert found == pytest.approx(float(up - down) / (2 * step), rel=1e-5, abs=1e-7 * scale)
