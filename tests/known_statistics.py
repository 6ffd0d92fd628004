"""What DPM-Solver-v3 asks to know of a network, where it is known, and plans run call by call."""

from functools import partial

import jax
import numpy as np
from tables import loop

from skipjax import schedules
from skipjax.denoisers import Point
from skipjax.evaluation.exact import Mixture
from skipjax.plans.dpm_v3 import Statistics

LINEAR = schedules.linear()
MIXTURE = Mixture([0.4, 0.3, 0.2, 0.1], [[1.0, 0.8], [-1.2, 0.6], [-0.5, -1.1], [0.9, -0.9]], 0.35)


def even(schedule, num=400):
    """Levels from the noisiest that has a signal to time 0."""
    noisiest = np.flatnonzero(schedule.alpha > 0)[-1]
    return np.linspace(*schedule.log_snr([noisiest, 0]), num)


def constant(l, s, log_snr=even(LINEAR, 30)):  # noqa: B008, E741
    return Statistics(log_snr, np.full(len(log_snr), l), np.full(len(log_snr), s))


def gaussian(log_snr, variance):
    """Of a Gaussian that is N(mean, variance I): sigma eps = l (x - alpha mean)."""
    l = 1 / (1 + variance * np.exp(2 * log_snr))  # noqa: E741
    return Statistics(log_snr, l, -2 * (1 - l))


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
