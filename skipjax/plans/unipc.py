"""UniPC: a multistep predictor, and a corrector that costs no call.

The point x_i at which the network is called is a prediction. What it says there, m_i, also tells
how far off the step to x_i was: the step is taken again with m_i in its polynomial, and the next
one starts from there. The network is never called at the corrected point.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import inf
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from skipjax.checks import whole
from skipjax.plans.exponential import Step, usable
from skipjax.plans.path import Level, path
from skipjax.plans.plan import Plan, Space
from skipjax.plans.tape import Combination, Tape, combine
from skipjax.schedules import DATA, Schedule
from skipjax.schedules.arguments import takes_schedule

Variant = Literal["bh1", "bh2"]
Points = list[tuple[Level, Combination]]


@takes_schedule
def unipc(
    schedule: Schedule,
    times: ArrayLike,
    order: int = 2,
    *,
    variant: Variant = "bh2",
    space: Space = "x_0",
    corrector: bool | Sequence[bool] = True,
    end: float = DATA,
    lower_order_final: bool = False,
) -> Plan:
    """UniPC of order p, 1 .. 3: with the corrector its order of convergence is p + 1.

    With the polynomial through the newest p predictions (`exponential`), and the corrector's
    through these and the one at the new point. Two cases of small p are no such polynomials, and
    weigh a difference by half of B, which is h (`bh1`) or e^h - 1 (`bh2`; of x_0, 1 - e^-h):

        predictor, p = 2    keep x_s + w_0 m_s + B / 2 D_1,   D_1 = dm / dv through two points
        corrector, p = 1    keep x_s + w_0 m_s + B / 2 (m_t - m_s)

    The order grows from 1 over the first steps, which leaves order 3 at most (without the
    corrector 2) where they are not in nearly pure noise. Nothing is corrected after the last call.

    Args:
        schedule: The forward process.
        times: Where the network is called, [N], strictly decreasing, in 0 .. T-1, real or whole.
        order: p.
        variant: "bh1" or "bh2".
        space: What is predicted: "x_0" or "eps".
        corrector: Whether to correct; without, it is UniP, of order p. One for all steps, or one
            for each but the last, [N-1].
        end: Where the picture stands: a time below the last, or the data. A step to the data is of
            order 1.
        lower_order_final: Whether the last steps go down to order 1. It limits the order of
            convergence.

    Raises:
        ValueError: If `times` do not fit the schedule, or are fewer than the order; for another
            variant; or for "bh1" from zero SNR, where its h is infinite.

    Source: Zhao et al. 2023 (arXiv:2302.04867), algorithms 5 to 8.
    """
    order = whole("order", order, 1, 3)
    if variant not in ("bh1", "bh2"):
        raise ValueError(f"variant is {variant!r}: it must be 'bh1' or 'bh2'")
    levels = path(schedule, times, end, fewest=order)
    if variant == "bh1" and levels[0].alpha == 0:
        raise ValueError("variant 'bh1' cannot start from zero SNR: use 'bh2'")
    corrects = np.broadcast_to(corrector, len(levels) - 2)
    tape = Tape(schedule, space)
    x = base = tape.start()  # what the network is called at, and what the step starts from
    past: Points = []
    step = None
    for i, (s, t) in enumerate(pairwise(levels)):
        called = tape.call(x, s)
        new = s, getattr(called, space)
        if step is None or not corrects[i - 1]:
            base = called.x
        else:
            base = tape.since(step.keep * base + corrected(step, past, new, variant))
        past = [new, *(point for point in past if point[0].log_snr > -inf)][:order]
        step = Step(s, t, space)
        past = usable(past, t, len(levels) - 1 - i, lower_order_final)
        x = step.keep * base + predicted(step, past, variant)
    return tape.plan(x, f"unipc_{order}" if np.any(corrector) else f"unip_{order}", end)


def predicted(step: Step, past: Points, variant: Variant = "bh2") -> Combination:
    """What the predictor adds to keep x_s; the newest of `past` is at s."""
    if len(past) == 2:
        (_, m), (previous, before) = past
        (v,) = step.nodes([previous])
        return step.weight(0) * m + _half(step, variant) / v * (before - m)
    return through(step, past)


def corrected(
    step: Step, past: Points, new: tuple[Level, Combination], variant: Variant = "bh2"
) -> Combination:
    """What the corrector adds to keep x_s; the newest of `past` is at s, and `new` at t."""
    if len(past) == 1:
        (_, m), (_, m_t) = past[0], new
        return step.weight(0) * m + _half(step, variant) * (m_t - m)
    return through(step, [*past, new])


def _half(step: Step, variant: Variant) -> float:
    """B / 2, with the sign and scale of the form's weights."""
    return (step.weight(0) if variant == "bh2" else step.slow) / 2


def through(step: Step, points: Points) -> Combination:
    """The polynomial through all points, integrated exactly."""
    return combine(step.through([level for level, _ in points]), [m for _, m in points])
