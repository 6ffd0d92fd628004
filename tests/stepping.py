"""DPM-Solver with steps of its own, compiled once for each way to ask for it."""

from functools import cache

import jax
import numpy as np

from skipjax import adaptive, plans, schedules
from skipjax.evaluation.exact import Gaussian, Mixture
from skipjax.sampling import integrate

LINEAR = schedules.linear()
SCHEDULES = {
    "linear": LINEAR,
    "cosine": schedules.cosine(),
    "zero_terminal_snr": schedules.zero_terminal_snr(LINEAR),
    "variance_exploding": schedules.variance_exploding(100),
    "rectified_flow": schedules.rectified_flow(shift=3.0),
}
TARGET = Gaussian([0.3, -0.5, 0.1], [[0.25, 0.1, 0.0], [0.1, 0.5, -0.2], [0.0, -0.2, 0.3]])
PAIR = Mixture([0.3, 0.7], [[-1.0, 0.5], [1.0, -0.5]], 0.05)
FORMS = [(2, "eps"), (3, "eps"), (2, "x_0"), (3, "x_0")]
NUMBERS = ("h", "atol", "rtol", "theta")  # which a program takes as they come
_SINGLESTEP = {
    (2, "eps"): plans.dpm_2s,
    (3, "eps"): plans.dpm_3s,
    (2, "x_0"): plans.dpmpp_2s,
    (3, "x_0"): plans.dpmpp_3s,
}


def noise(num, size=3, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=(num, size)).astype(dtype)


def solve(x, denoise=TARGET.denoise, schedule="linear", **settings):
    """What `adaptive.dpm` says; settings that are not told are its own."""
    numbers = {name: settings.pop(name) for name in NUMBERS if name in settings}
    return _program(denoise, schedule, tuple(settings.items()))(x, numbers)


@cache
def _program(denoise, schedule, settings):
    def run(x, numbers):
        return adaptive.dpm(SCHEDULES[schedule], denoise, x, **dict(settings), **numbers)

    return jax.jit(run)


def one_step(order, space, schedule, start, end):
    """The lower and the higher order's plan of a single step."""
    schedule = SCHEDULES[schedule]
    two, three = (_SINGLESTEP[k, space] for k in (2, 3))
    if order == 2:
        return plans.ddim(schedule, [start], end=end), two(schedule, [start], end=end)
    return two(schedule, [start], r=1 / 3, end=end), three(schedule, [start], end=end)


@jax.jit
def follow(plan, x):
    """Where a plan leads on `TARGET`."""
    return integrate(plan, TARGET.denoise, x, jax.random.split(jax.random.key(0), len(x)))
