"""The search over per-step solvers and times, by evolution.

Of a generation most are judged on few examples, the best of them on more, and only those that come
through on all; those best on all are the parents of the next.

Sources: Liu et al. 2023, "A Unified Sampling Framework for Solver Searching of Diffusion
Probabilistic Models" (arXiv:2312.07243), section 4.3 and algorithm 2; Li et al. 2023,
"AutoDiffusion" (arXiv:2309.10438), algorithm 1. Both judge by FID; here it is by the loss.
"""

from collections.abc import Callable

import numpy as np

from skipjax.tuning.baselines import halve
from skipjax.tuning.search_space import Candidate, SearchSpace

POPULATION = 48  # new candidates in a generation
PARENTS = 8  # from how many of the best they descend

# (candidates, num) -> the error of each on the first `num` examples; infinite is worst.
Score = Callable[[list[Candidate], int], np.ndarray]


def evolve(
    score: Score,
    space: SearchSpace,
    starts: list[Candidate],
    num: int,
    *,
    generations: int,
    least: int,
    seed: int = 0,
) -> dict[Candidate, float]:
    """Searches for the times of a plan, and for what each of its steps is made by.

    All starts are judged on all examples, so that what is found is never worse than the best of
    them there. Nothing is judged twice.

    Args:
        score: Tells the errors of candidates on the first so many examples.
        space: In which they lie.
        starts: Where to start from.
        num: Examples there are.
        generations: How many; with 0 the starts are judged, and no more.
        least: Examples that all of a generation are judged on.
        seed: Of all that is random; the same seed gives the same plans.

    Returns:
        Those that were judged on all examples with a finite error, best first, and their errors.
    """
    rng = np.random.default_rng(seed)
    starts = list(dict.fromkeys(starts))
    seen = set(starts)
    best = _best(zip(starts, score(starts, num), strict=True))
    for _ in range(generations if best else 0):
        young = _children(rng, space, list(best)[:PARENTS], seen)
        seen.update(young)
        if young:
            best = _best([*best.items(), *zip(*halve(score, young, num, least), strict=True)])
    return best


def _best(judged) -> dict[Candidate, float]:
    """Those of finite error, best first."""
    finite = [(candidate, float(error)) for candidate, error in judged if np.isfinite(error)]
    return dict(sorted(finite, key=lambda pair: pair[1]))


def _children(
    rng: np.random.Generator, space: SearchSpace, parents: list[Candidate], seen: set[Candidate]
) -> list[Candidate]:
    """As many candidates that were not seen before, as there are to be found."""
    young: dict[Candidate, None] = {}
    # Of few whole times there may be no more sets than were seen.
    for _ in range(20 * POPULATION):
        one, other = (parents[i] for i in rng.integers(len(parents), size=2))
        kind = rng.random()
        if kind < 0.1:
            made = space.draw(rng)
        elif kind < 0.5:
            made = space.cross(rng, one, other)
            made = space.mutate(rng, made) if rng.random() < 0.5 else made
        else:
            made = space.mutate(rng, one)
        if made not in seen:
            young[made] = None
        if len(young) == POPULATION:
            break
    return list(young)
