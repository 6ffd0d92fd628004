"""The space that evolution searches: the times that a plan visits, and how it goes on from each.

Sources: Li et al. 2023, "AutoDiffusion" (arXiv:2309.10438), section 3.3, for sets of times; Liu et
al. 2023 (arXiv:2312.07243), section 4.3, for the solvers of the steps.
"""

import itertools
from typing import NamedTuple, get_args

import numpy as np

from skipjax import checks, grids
from skipjax.plans import Choice, Plan, stepwise
from skipjax.plans.dpm import SolverType
from skipjax.plans.plan import Space
from skipjax.plans.stepwise import HIGHEST, REACHES_DATA, Variable
from skipjax.schedules import Schedule

# Methods that make all steps alike.
ALIKE = {
    "ddim": Choice("x_0", 1),
    "dpmpp_2m": Choice("x_0", 2),
    "dpmpp_3m": Choice("x_0", 3),
    "dpm_2m": Choice("eps", 2),
    "dpm_3m": Choice("eps", 3),
    **{f"unipc_{p}": Choice("x_0", p, corrector=True) for p in (1, 2, 3)},
    **{f"deis_tab{q}": Choice("eps", q + 1, variable="t") for q in (1, 2, 3)},
    **{f"deis_rhoab{q}": Choice("eps", q + 1, variable="rho") for q in (1, 2, 3)},
    **{f"ipndm_{p}": Choice("eps", p, variable="index") for p in (2, 3, 4)},
}
NEAREST = 1e-4  # of T: how close real times may come to one another


class Candidate(NamedTuple):
    """Times, strictly decreasing, [N], and how to go on from each; two that are equal are one
    plan.
    """

    times: tuple[float, ...]
    steps: tuple[Choice, ...]

    def plan(self, schedule: Schedule) -> Plan:
        """What it stands for, with the sample at the data."""
        return stepwise(schedule, np.array(self.times), self.steps).named("evolved")


class SearchSpace:
    """Candidates of N calls on a schedule: how they are drawn, changed and crossed.

    Whatever comes out has N times in 0 .. T-1 that are distinct, whole or at least T / 10,000
    apart, and is a plan; where the SNR at T-1 is zero, the times are in 0 .. T-2.

    Args:
        schedule: The forward process.
        nfe: N, at least 2.
        whole: Whether the times are whole numbers.

    Raises:
        ValueError: If `nfe` is no such number, or the schedule has not as many times.
    """

    def __init__(self, schedule: Schedule, nfe: int, whole: bool = False):
        self._schedule, self._whole = schedule, whole
        self._highest = schedule.T - 1 - int(schedule.alpha[-1] == 0)
        self._num = checks.whole("nfe", nfe, 2, self._highest + 1)
        self._nearest = 1.0 if whole else NEAREST * schedule.T

    def known_methods(self) -> dict[str, Candidate]:
        """Those of known methods on known grids, as "dpmpp_2m on karras".

        For whole times the grids are rounded; those that then visit a time twice are left out, and
        of several names of one candidate the first is there.
        """
        found: dict[Candidate, str] = {}
        for grid, (name, choice) in itertools.product(grids.GRIDS, ALIKE.items()):
            try:
                times = grids.named(grid, self._schedule, self._num)
            except ValueError:  # the grid has no such number of times
                continue
            times = np.round(times) if self._whole else times
            if times[0] <= self._highest and (np.diff(times) <= -self._nearest).all():
                found.setdefault(self._canonical(times, [choice] * self._num), f"{name} on {grid}")
        return {name: candidate for candidate, name in found.items()}

    def draw(self, rng: np.random.Generator) -> Candidate:
        """A candidate at random."""
        times = self._distinct(rng, np.array([self._time(rng) for _ in range(self._num)]))
        return self._canonical(times, [_draw_choice(rng) for _ in range(self._num)])

    def mutate(self, rng: np.random.Generator, candidate: Candidate) -> Candidate:
        """One time or choice is another, and as often as not one more, and so on."""
        times, steps = np.array(candidate.times), list(candidate.steps)
        while True:
            i = int(rng.integers(self._num))
            if rng.random() < 0.5:
                times[i] = self._time(rng) if rng.random() < 0.2 else self._near(rng, times, i)
                times = self._distinct(rng, times)
            else:
                steps[i] = _change(rng, steps[i])
            made = self._canonical(times, steps)
            if made != candidate and rng.random() < 0.5:
                return made

    def cross(self, rng: np.random.Generator, one: Candidate, other: Candidate) -> Candidate:
        """Place by place the time of one of two candidates, and the choice of one of them."""
        from_one = rng.random(self._num) < 0.5
        times = np.where(from_one, one.times, other.times)
        if rng.random() < 0.5:
            from_one = rng.random(self._num) < 0.5
        pairs = zip(from_one, one.steps, other.steps, strict=True)
        return self._canonical(
            self._distinct(rng, times),
            [mine if first else theirs for first, mine, theirs in pairs],
        )

    def _canonical(self, times: np.ndarray, steps: list[Choice]) -> Candidate:
        """Of the candidates that come to the same, always the same one, but for rare cases."""
        plain = [_canonical_choice(i, self._num, choice) for i, choice in enumerate(steps)]
        if plain[-1] == Choice("x_0", 1):  # of the point that it starts from nothing is kept
            plain[-2] = _canonical_choice(
                self._num - 2, self._num, plain[-2]._replace(corrector=False)
            )
        return Candidate(tuple(times.astype(int if self._whole else float).tolist()), tuple(plain))

    def _time(self, rng: np.random.Generator) -> float:
        """A time at random; more of them where little noise is left, as few steps want them."""
        t = self._highest * rng.random() ** rng.uniform(1, 3)
        return np.round(t) if self._whole else t

    def _near(self, rng: np.random.Generator, times: np.ndarray, i: int) -> float:
        """A time part of the way from the i-th towards one of its neighbours."""
        bounds = np.concatenate([[self._highest], times, [0.0]])
        gap = bounds[i if rng.random() < 0.5 else i + 2] - times[i]
        # Parts of all sizes: a far move explores, and a small one polishes.
        t = times[i] + gap * 10 ** rng.uniform(-2, 0)
        if self._whole:
            t = times[i] + np.sign(gap) * max(1, np.round(abs(t - times[i])))
        return float(np.clip(t, 0, self._highest))

    def _distinct(self, rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
        """The times in order, with others at random for those too close to their neighbours."""
        times = np.sort(times)[::-1].astype(float)
        while (near := np.flatnonzero(-np.diff(times) < self._nearest)).size:
            if self._whole:
                unused = np.setdiff1d(np.arange(self._highest + 1.0), times)
                times[near] = rng.choice(unused, near.size, replace=False)
            else:
                times[near] = [self._time(rng) for _ in near]
            times = np.sort(times)[::-1]
        return times


def _draw_choice(rng: np.random.Generator) -> Choice:
    """A choice at random."""
    choice = Choice()
    for field in Choice._fields:
        choice = _with(rng, choice, field)
    return choice


def _change(rng: np.random.Generator, choice: Choice) -> Choice:
    """A choice with one thing another."""
    changed = choice
    while changed == choice:
        changed = _with(rng, choice, str(rng.choice(Choice._fields)))
    return changed


def _with(rng: np.random.Generator, choice: Choice, field: str) -> Choice:
    """A choice with a field drawn anew, and what goes with it."""
    match field:
        case "order":
            return choice._replace(order=int(rng.integers(1, HIGHEST + 1)))
        case "corrector":
            return choice._replace(corrector=bool(rng.integers(2)))
        case "solver_type":
            return choice._replace(solver_type=_one(rng, get_args(SolverType)))
        case "variable":
            variable = _one(rng, get_args(Variable))
            space = choice.space if variable == "log_snr" else "eps"
            return choice._replace(variable=variable, space=space)
    space = _one(rng, get_args(Space))
    return choice._replace(space=space, variable=choice.variable if space == "eps" else "log_snr")


def _one(rng: np.random.Generator, of: tuple):
    return of[rng.integers(len(of))]


def _canonical_choice(i: int, num: int, choice: Choice) -> Choice:
    """Of the choices that come to the same in step i of `num`, always the same one."""
    order, last = min(choice.order, i + 1), i == num - 1
    if last and choice.variable not in REACHES_DATA:
        order = 1
    choice = choice._replace(order=order, corrector=choice.corrector and not last)
    if order == 1 and not choice.corrector:
        return Choice("x_0", 1)
    if order == 1 and choice.variable in ("rho", "index"):  # the mean of two
        return choice._replace(variable="log_snr", solver_type="midpoint")
    if choice.variable != "log_snr" or order > 2:
        return choice._replace(solver_type="midpoint")
    return choice
