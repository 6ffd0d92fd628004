"""A step of DPM-Solver-12 or -23 that is as long as all: the singlestep method's."""

import numpy as np
import pytest
from stepping import FORMS, SCHEDULES, follow, noise, one_step, solve
from tables import padded


@pytest.mark.slow
@pytest.mark.parametrize(("order", "space"), FORMS)
def test_a_step_that_is_as_long_as_all_is_the_singlestep_methods(order, space, subtests, float64):
    x = noise(5, dtype=np.float64)
    for name in ("linear", "variance_exploding", "rectified_flow"):
        with subtests.test(name):
            start = SCHEDULES[name].T - 3
            settings = dict(order=order, space=space, start=start, end=20, h=np.inf, atol=1e9)
            out = solve(x, schedule=name, **settings)
            assert (out.nfe == order).all() and (out.accepted == 1).all()
            assert (out.rejected == 0).all()
            _, plan = one_step(order, space, name, start, 20)
            expected = follow(padded(plan, 3, history=3), x)
            largest = np.abs(expected).max()
            np.testing.assert_allclose(out.x, expected, rtol=0, atol=1e-11 * largest)
