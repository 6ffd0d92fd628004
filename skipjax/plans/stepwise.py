"""Multistep plans in which every step chooses its own solver.

A step takes the newest predictions in the reading it works on, x_0 or eps, through as many of them
as its order a polynomial in log_snr, t, sigma / alpha or the number of the step, and integrates
that as DPM-Solver, UniPC (`unipc`), DEIS (`deis`) or iPNDM (`pndm`) does. It may be corrected once
the network is called where it led. With one choice for all steps these are the methods of those
names.

Source: Liu et al. 2023, "A Unified Sampling Framework for Solver Searching of Diffusion
Probabilistic Models" (arXiv:2312.07243), section 4; of its space of solvers what calls the network
once a step.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import inf
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike

from skipjax.checks import whole
from skipjax.plans.deis import weights
from skipjax.plans.dpm import SolverType, check_forms
from skipjax.plans.exponential import Step, usable
from skipjax.plans.path import Level, path
from skipjax.plans.plan import Plan, Space
from skipjax.plans.pndm import ADAMS_BASHFORTH
from skipjax.plans.tape import Called, Combination, Tape, combine
from skipjax.plans.unipc import Points, corrected, predicted, through
from skipjax.schedules import DATA, Schedule
from skipjax.schedules.arguments import takes_schedule

Variable = Literal["log_snr", "t", "rho", "index"]
REACHES_DATA = ("rho", "index")  # variables that are finite there
# The correctors of `pndm.ADAMS_BASHFORTH`: of evenly spaced times, the new prediction last.
ADAMS_MOULTON = (
    np.array([1.0, 1.0]) / 2,
    np.array([8.0, -1.0, 5.0]) / 12,
    np.array([19.0, -5.0, 1.0, 9.0]) / 24,
    np.array([646.0, -264.0, 106.0, -19.0, 251.0]) / 720,
)
HIGHEST = 4  # order that a step may have


class Choice(NamedTuple):
    """How one step is made.

    Attributes:
        space: What it works on: "x_0" or "eps".
        order: How many predictions it takes, 1 .. 4; fewer where fewer are known. With one it is
            DDIM.
        corrector: Whether it is made again when the network was called where it led, with what
            was said there as one prediction more, of the same space.
        variable: What its polynomial is in: "log_snr" as DPM-Solver has it; or, of eps alone, "t"
            or "rho" = sigma / alpha as in DEIS, or "index", the number of the step, as in iPNDM.
        solver_type: How two predictions are used in log_snr: "midpoint" as 2M and UniPC (B = e^h -
            1) do, or "heun", with the integral of the straight line through them.
    """

    space: Space = "x_0"
    order: int = 2
    corrector: bool = False
    variable: Variable = "log_snr"
    solver_type: SolverType = "midpoint"


@takes_schedule
def stepwise(
    schedule: Schedule, times: ArrayLike, steps: Sequence[Choice], *, end: float = DATA
) -> Plan:
    """A multistep plan whose steps are each made in their own way; its table is in x_0.

    With the same choice for all steps:

        Choice("x_0", 2), Choice("x_0", 3)         DPM-Solver++ 2M, 3M
        Choice("eps", 2), Choice("eps", 3)         DPM-Solver 2M, 3M
        Choice("x_0", p, corrector=True)           UniPC of order p
        Choice("eps", q + 1, variable="t")         DEIS (tAB) of degree q; "rho" is rhoAB
        Choice("eps", p, variable="index")         iPNDM of p predictions

    A prediction of eps is a sum of the point it was made at and of x_0, and older points are sums
    of the newest and of predictions: such a step looks further back in the table than its order.

    Args:
        schedule: The forward process.
        times: Where the network is called, [N], strictly decreasing, in 0 .. T-1, real or whole.
        steps: How to go on from each, N of them. Of the last no corrector is used.
        end: Where the picture stands: a time below the last, or the data. A step to the data is of
            order 1, but in "rho" or "index", which are finite there.

    Raises:
        ValueError: If `times` do not fit the schedule, there are not as many steps, one of them is
            no such choice, or the first starts from zero SNR with another than x_0 and "midpoint".
    """
    levels = path(schedule, times, end)
    num = len(levels) - 1
    if len(steps) != num:
        raise ValueError(f"there are {len(steps)} steps for {num} times: each needs one")
    choices = [_checked(i, choice) for i, choice in enumerate(steps)]
    if levels[0].alpha == 0 and not (
        choices[0].space == "x_0" and choices[0].solver_type == "midpoint"
    ):
        raise ValueError(
            f"steps[0] is {choices[0]}: from zero SNR it must work on x_0, by 'midpoint'"
        )
    tape = Tape(schedule, "x_0")
    x = base = tape.start()  # what the network is called at, and what the step starts from
    past: list[tuple[Level, Called]] = []
    before = None  # the step that led to x, and what it took
    for i, ((s, t), choice) in enumerate(zip(pairwise(levels), choices, strict=True)):
        called = tape.call(x, s)
        if before is not None and before.choice.corrector:
            base = tape.since(before.corrected(base, (s, called)))
        else:
            base = called.x
        # A polynomial reaches no level of zero SNR but the one that it starts from.
        past = [(s, called), *(point for point in past if point[0].log_snr > -inf)][:HIGHEST]
        known = past[: choice.order]
        if choice.variable not in REACHES_DATA:
            known = usable(known, t, num - i, False)
        before = _Step(schedule, s, t, choice, known)
        x = before.predicted(base)
    return tape.plan(x, "stepwise", end)


class _Step(NamedTuple):
    """A step from s to t, and the calls it knows of, the newest first and at s."""

    schedule: Schedule
    s: Level
    t: Level
    choice: Choice
    known: list[tuple[Level, Called]]

    def predicted(self, base: Combination) -> Combination:
        """Where it leads from the point `base` at s."""
        step, points = Step(self.s, self.t, self.choice.space), self._read(self.known)
        match self.choice:
            case Choice(variable="index"):
                added = self._even(step, ADAMS_BASHFORTH, points)
            case Choice(variable="log_snr", solver_type="midpoint"):
                added = predicted(step, points)
            case _:
                added = self._through(step, points)
        return step.keep * base + added

    def corrected(self, base: Combination, new: tuple[Level, Called]) -> Combination:
        """Where it leads, with what the network said at t."""
        step, points = Step(self.s, self.t, self.choice.space), self._read(self.known)
        (there,) = self._read([new])
        match self.choice:
            case Choice(variable="index"):
                added = self._even(step, ADAMS_MOULTON, [*points, there])
            case Choice(variable="log_snr", solver_type="midpoint"):
                added = corrected(step, points, there)
            case _:
                added = self._through(step, [*points, there])
        return step.keep * base + added

    def _read(self, calls: list[tuple[Level, Called]]) -> Points:
        return [(level, getattr(called, self.choice.space)) for level, called in calls]

    def _even(self, step: Step, table: tuple[np.ndarray, ...], points: Points) -> Combination:
        """What it adds to keep x_s: DDIM's jump, with a mean of the predictions."""
        factors = table[len(self.known) - 1]
        return step.weight(0) * combine(factors, [m for _, m in points])

    def _through(self, step: Step, points: Points) -> Combination:
        """What it adds to keep x_s: the polynomial through all points, integrated."""
        if self.choice.variable == "log_snr":
            return through(step, points)
        assert self.choice.variable != "index"
        nodes = [level for level, _ in points]
        factors = weights(self.schedule, self.s, self.t, nodes, self.choice.variable)
        return combine(factors, [m for _, m in points])


def _checked(i: int, choice: Choice) -> Choice:
    """The choice of step i, if it is one."""
    name = f"steps[{i}]"
    if not isinstance(choice, Choice):
        raise ValueError(f"{name} is {choice!r}: it must be a Choice")
    whole(f"the order of {name}", choice.order, 1, HIGHEST)
    check_forms(choice.solver_type, None)
    for field, value, accepted in [
        ("space", choice.space, get_args(Space)),
        ("variable", choice.variable, get_args(Variable)),
    ]:
        if value not in accepted:
            said = " or ".join(map(repr, accepted))
            raise ValueError(f"the {field} of {name} is {value!r}: it must be {said}")
    if not isinstance(choice.corrector, bool):
        raise ValueError(f"the corrector of {name} is {choice.corrector!r}: it must be a bool")
    if choice.variable != "log_snr" and choice.space != "eps":
        raise ValueError(f"{name} has a polynomial in {choice.variable}: its space must be 'eps'")
    return choice
