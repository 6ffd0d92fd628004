"""What EDM's baselines are told of a point, against their formulas in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from skipjax.process import Iddpm, Point, Process, Ve, Vp

SIGMAS = np.geomspace(0.002, 150, 40)


def told(precondition, rho, alpha=1.0):
    """c_in / alpha (so that it multiplies x / alpha) and c_noise at a level."""
    rho = jnp.asarray(rho, jnp.float32)
    point = Point(jnp.float32(0), jnp.float32(alpha), alpha * rho)
    return alpha * np.asarray(precondition.c_in(point)), np.asarray(precondition.c_noise(point))


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_vp_is_told_its_time(alpha):
    t = (np.sqrt(0.1**2 + 2 * 19.9 * np.log1p(SIGMAS**2)) - 0.1) / 19.9
    c_in, c_noise = told(Vp(), SIGMAS, alpha)
    np.testing.assert_allclose(c_in, 1 / np.sqrt(SIGMAS**2 + 1), rtol=1e-5)
    np.testing.assert_allclose(c_noise, 999 * t, rtol=1e-5)
    np.testing.assert_allclose([Vp().rho(one) for one in t], SIGMAS, rtol=1e-9)
    np.testing.assert_allclose(
        told(Vp(10.0, 0.2, 500), Vp(10.0, 0.2).rho(0.5))[1], 499 * 0.5, rtol=1e-5
    )


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_ve_is_told_half_the_level(alpha):
    c_in, c_noise = told(Ve(), SIGMAS, alpha)
    np.testing.assert_allclose(c_in, 1, rtol=1e-6)
    np.testing.assert_allclose(c_noise, np.log(SIGMAS / 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_iddpm_is_told_the_nearest_of_its_levels(alpha):
    u = Iddpm().levels()
    assert len(u) == 1001 and u[-1] == 0 and (np.diff(u) < 0).all()
    # abar of the levels is that of the cosine schedule, as far as ratios are not bounded.
    j = np.arange(200, 1000)
    abar = np.sin(np.pi / 2 * j / 1000 / 1.008) ** 2 / np.sin(np.pi / 2 / 1.008) ** 2
    np.testing.assert_allclose(1 / (1 + u[200:1000] ** 2), abar, rtol=1e-9)
    c_in, c_noise = told(Iddpm(), SIGMAS, alpha)
    np.testing.assert_allclose(c_in, 1 / np.sqrt(SIGMAS**2 + 1), rtol=1e-5)
    nearest = np.abs(SIGMAS[:, None] - u).argmin(1)
    np.testing.assert_array_equal(c_noise, 999 - nearest)
    assert told(Iddpm(), u[123], alpha)[1] == 999 - 123


def test_a_process_tells_a_batch():
    """Scalars for all, or a level for each sample."""
    x = jnp.ones((3, 2, 2, 1))
    for precondition in (Vp(), Ve(), Iddpm()):
        process = Process("variance_exploding", "eps", precondition, bounds=None)
        sigma = jnp.asarray([0.5, 2.0, 9.0])
        each = Point(jnp.zeros(3), jnp.ones((3, 1, 1, 1)), sigma[:, None, None, None])
        scaled, t = process.tell(x, each)
        assert scaled.shape == x.shape and t.shape == (3,)
        for i, one in enumerate(sigma):
            alone, when = process.tell(x[:1], Point(jnp.float32(0), jnp.float32(1), one))
            np.testing.assert_allclose(alone[0], scaled[i], rtol=1e-6)
            np.testing.assert_allclose(when[0], t[i], rtol=1e-6)
