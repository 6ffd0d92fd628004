"""The search over per-step solvers and times, by evolution.

Of a generation of genomes most are judged on few examples, the best of them on more, and only
those that come through on all; those best on all are the parents of the next.

Sources: Liu et al. 2023, "A Unified Sampling Framework for Solver Searching of Diffusion
Probabilistic Models" (arXiv:2312.07243), section 4.3 and algorithm 2; Li et al. 2023,
"AutoDiffusion" (arXiv:2309.10438), algorithm 1. Both judge by FID; here it is what the caller's
score says. The halving is Jamieson & Talwalkar 2016 (arXiv:1502.07943).
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from skipjax import checks
from skipjax.plans import Plan
from skipjax.schedules import Schedule
from skipjax.tuning.genome import Genome, Pool

# (plans, num) -> the error of each on the first `num` examples; not finite is worst.
Score = Callable[[list[Plan], int], np.ndarray]
OnGeneration = Callable[[int, float], None]
KEPT = 4  # one in so many is judged on so many times the examples


class Evolved(NamedTuple):
    """What a search came to.

    Attributes:
        plans: Those that were judged on all examples and drew finite pictures, best first.
        errors: Of each of them, float64.
        genomes: What they were written from.
        rounds: Least error on all examples, of the starts and after every generation.
        calls: Network calls spent, for one picture each.
    """

    plans: list[Plan]
    errors: np.ndarray
    genomes: list[Genome]
    rounds: list[float]
    calls: int


def evolve(
    score: Score,
    schedule: Schedule,
    nfe: int,
    num: int,
    *,
    whole: bool = False,
    starts: Iterable[Genome] | None = None,
    population: int = 48,
    generations: int = 10,
    parents: int = 8,
    least: int = 64,
    group: int = 4,
    seed: int = 0,
    on_generation: OnGeneration | None = None,
) -> Evolved:
    """Searches for the times of a plan, and for what each of its steps is made by.

    All starts are judged on all examples, so that what is found is never worse than the best of
    them there. Nothing is judged twice.

    The score is asked for `group` plans at a time, the last of them repeated where there are fewer
    to be judged: of `nfe` calls, on x_0, with a history of `nfe`. One that takes examples in
    batches of one size, of which `least` is a multiple, thereby compiles once in all.

    Args:
        score: Tells the errors of plans on the first so many examples.
        schedule: The forward process.
        nfe: Network calls of the plan, at least 2.
        num: Examples there are.
        whole: Whether to visit whole times alone, as AutoDiffusion does.
        starts: Where to start from; all that `Pool.named` knows, unless told.
        population: New genomes in a generation.
        generations: How many; with 0 the starts are judged, and no more.
        parents: From how many of the best the next ones descend.
        least: Examples that all of a generation are judged on.
        group: Plans that are scored at a time.
        seed: Of all that is random; the same seed gives the same plans.
        on_generation: Told the number of the generation, and the least error so far.

    Raises:
        ValueError: If a number is out of its range, there is no start, a start does not fit, or
            the score does not give one error for each plan.
        FloatingPointError: If no start draws finite pictures.
    """
    pool = Pool(schedule, nfe, whole)
    num, least, population, parents, group = (
        checks.whole(name, value, 1)
        for name, value in [
            ("num", num),
            ("least", least),
            ("population", population),
            ("parents", parents),
            ("group", group),
        ]
    )
    generations = checks.whole("generations", generations, 0)
    rng = np.random.default_rng(checks.whole("seed", seed, 0))
    given = pool.named().values() if starts is None else map(pool.taken, starts)
    first = list(dict.fromkeys(given))
    if not first:
        raise ValueError("there is no start to evolve from: give one or more")
    judge = _Judge(score, schedule, group)
    judge.errors(first, num)
    best = judge.best(num)
    if not best:
        raise FloatingPointError(f"no start of {nfe} calls draws finite pictures of this network")
    rounds = [best[0][1]]
    for generation in range(generations):
        ancestors = [genome for genome, _ in best[:parents]]
        young = _children(rng, pool, ancestors, population, judge.seen)
        many = min(least, num)
        while many < num:
            order = np.argsort(judge.errors(young, many), kind="stable")
            # What is left fills a group: to judge fewer would cost as much.
            young = [young[i] for i in order[: max(group, len(young) // KEPT)]]
            many = min(KEPT * many, num)
        judge.errors(young, num)
        best = judge.best(num)
        rounds.append(best[0][1])
        if on_generation is not None:
            on_generation(generation + 1, rounds[-1])
    return Evolved(
        [genome.plan(schedule) for genome, _ in best],
        np.array([error for _, error in best]),
        [genome for genome, _ in best],
        rounds,
        judge.calls,
    )


class _Judge:
    """Scores genomes, each once on so many examples, and remembers.

    Attributes:
        seen: All that were ever scored.
        calls: Network calls spent.
    """

    def __init__(self, score: Score, schedule: Schedule, group: int):
        self._score, self._schedule, self._group = score, schedule, group
        self._known: dict[int, dict[Genome, float]] = {}
        self.seen: set[Genome] = set()
        self.calls = 0

    def errors(self, genomes: list[Genome], num: int) -> np.ndarray:
        """Of each on the first `num` examples, infinite where they are not finite."""
        known = self._known.setdefault(num, {})
        new = [genome for genome in dict.fromkeys(genomes) if genome not in known]
        self.seen.update(new)
        for at in range(0, len(new), self._group):
            some = new[at : at + self._group]
            plans = [genome.plan(self._schedule) for genome in some]
            plans = [plan.widened(plan.nfe) for plan in plans]
            plans += [plans[-1]] * (self._group - len(some))
            errors = np.asarray(self._score(plans, num), np.float64)
            if errors.shape != (self._group,):
                raise ValueError(
                    f"the score gave errors of shape {errors.shape} for {self._group} plans: it "
                    "must give one for each"
                )
            errors = np.where(np.isfinite(errors), errors, np.inf)
            known |= zip(some, errors.tolist(), strict=False)
            self.calls += self._group * plans[0].nfe * num
        return np.array([known[genome] for genome in genomes])

    def best(self, num: int) -> list[tuple[Genome, float]]:
        """All that were judged on `num` examples with a finite error, best first."""
        known = [pair for pair in self._known[num].items() if np.isfinite(pair[1])]
        return sorted(known, key=lambda pair: pair[1])


def _children(
    rng: np.random.Generator, pool: Pool, ancestors: list[Genome], num: int, seen: set[Genome]
) -> list[Genome]:
    """As many genomes that were not seen before, as there are to be found."""
    young: dict[Genome, None] = {}
    # Of few whole times there may be no more sets than were seen.
    for _ in range(20 * num):
        one, other = (ancestors[i] for i in rng.integers(len(ancestors), size=2))
        kind = rng.random()
        if kind < 0.1:
            made = pool.drawn(rng)
        elif kind < 0.5:
            made = pool.crossed(rng, one, other)
            made = pool.mutated(rng, made) if rng.random() < 0.5 else made
        else:
            made = pool.mutated(rng, one)
        if made not in seen:
            young[made] = None
        if len(young) == num:
            break
    return list(young)
