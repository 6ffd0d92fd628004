"""What outputs mean: every row gives back what it was told; processes are equal by content."""

import numpy as np
import pytest

from skipjax.process import PARAMETERIZATIONS, Edm, Point, Process, Times, edm

ANGLES = np.linspace(0.05, 1.5, 30)


def draws():
    """x_0 and eps, [30, 5], at 30 points that preserve variance."""
    x_0, eps = np.random.default_rng(0).normal(size=(2, 30, 5)).astype(np.float32)
    alpha, sigma = (f(ANGLES)[:, None].astype(np.float32) for f in (np.cos, np.sin))
    return x_0, eps, Point(np.arange(30.0), alpha, sigma)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_what_a_network_learns_is_what_a_sampler_reads(name):
    x_0, eps, point = draws()
    row = PARAMETERIZATIONS[name]
    x = point.alpha * x_0 + point.sigma * eps
    read = row.predict(row.target(x_0, eps, point), x, point)
    np.testing.assert_allclose(read[0], x_0, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(read[1], eps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("data", [0.5, 1.3])
def test_edm_is_the_papers(data):
    x_0, eps, _ = draws()
    sigma = np.geomspace(0.02, 80, 30)[:, None].astype(np.float32)
    point = Point(np.arange(30.0), np.ones_like(sigma), sigma)
    x, F, told = x_0 + sigma * eps, eps[::-1], Edm(data)
    c_skip = data**2 / (sigma**2 + data**2)
    c_out = sigma * data / np.sqrt(sigma**2 + data**2)
    read, _ = edm(data).predict(F, x, point)
    np.testing.assert_allclose(read, c_skip * x + c_out * F, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(told.c_in(point), 1 / np.sqrt(sigma**2 + data**2), rtol=1e-5)
    np.testing.assert_allclose(told.c_noise(point), np.log(sigma) / 4, rtol=1e-4, atol=1e-6)


def test_processes_are_equal_by_content():
    one, same = Process("linear"), Process("linear")
    assert one == same and hash(one) == hash(same)
    others = (Process("cosine"), one.replace(precondition=Times(0.25)), one.replace(bounds=None))
    others += (one.replace(parameterization="x_0"), one.replace(variance="large"))
    assert len({one, same, *others}) == 6
    assert len(repr(one)) < 200
