"""The study's control: the same samplers where eps has no error, and no samples are needed."""

import numpy as np

from skipjax.evaluation import exact
from skipjax.study import design
from skipjax.study.design import Study, Variant

COLUMNS = ("sampler", "cutoff", "nfe", "w2")
# Sixteen directions, of which the least varies a hundredth of the most.
TARGET = exact.Gaussian(np.zeros(16), np.diag(np.geomspace(1, 1e-2, 16)))


def cells(study: Study) -> list[tuple[str, float | None, int, float]]:
    """Wasserstein distance of each sampler's law to the data's, of a Gaussian.

    Returns:
        `COLUMNS` of each sampler, hybrids among them, at each number of calls.
    """
    schedule, ones = study.run.process.schedule, np.ones(study.run.T)
    ways = [(name, None) for name in design.SAMPLERS]
    ways += [("hybrid", cutoff) for cutoff in design.CUTOFFS if 0 < cutoff < 1]
    found = []
    for nfe in study.nfe:
        for sampler, cutoff in ways:
            plan = design.plan(schedule, Variant(sampler, cutoff, "none", ones), nfe)
            distance = exact.w2(exact.law(plan, TARGET), TARGET)
            found.append((sampler, cutoff, nfe, float(f"{distance:.5g}")))
    return found
