"""DDPM, skipped-step sampling, DDIM, and their hybrid.

Each step jumps from a time t to a less noisy s, by the posterior that `schedules.posterior`
derives, or a relative of it. The four are one family:

    skipped-step = DDPM on the respaced chain = DDIM with eta 1
    hybrid = DDIM with eta 1, then 0

exactly, which the tests hold to 1e-12. DDIM is written as in its own paper, apart from the rest.
Steps that draw from the posterior are guided through their mean, all others through the
prediction, as ADM does it (Dhariwal & Nichol 2021, arXiv:2105.05233, algorithms 1 and 2).
"""

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from skipjax import grids
from skipjax.checks import whole
from skipjax.plans.path import Level, path
from skipjax.plans.plan import Plan
from skipjax.plans.tape import Combination, Tape
from skipjax.schedules import DATA, VARIANCES, Posterior, Schedule, Variance, posterior
from skipjax.schedules.arguments import takes_schedule


@takes_schedule
def ddpm(
    schedule: Schedule, times: ArrayLike, variance: Variance = "small", *, end: float = DATA
) -> Plan:
    """Ancestral sampling on the chain that visits only `times`.

        x_s = mean of q(x_s | x_t, x_0) + std z

    Args:
        schedule: The forward process.
        times: Grid of N times, strictly decreasing, in 0 .. T-1.
        variance: Of z. "small" is the posterior's, "large" that of q(x_t | x_s), "learned_range"
            what the network chooses between the two for each pixel, "learned" its log as the
            network says it: ADM's four kinds. No noise is added on the step to the data.
        end: Time at which the picture stands, as in `ddim`.

    Raises:
        ValueError: For a grid that does not fit the schedule, or another variance.

    Source: Ho et al. 2020 (arXiv:2006.11239), equations 6, 7 and 11, section 3.2; on a part of
    the times, and learned: Nichol & Dhariwal 2021 (arXiv:2102.09672), section 4, equation 15.
    """
    return hybrid(schedule, times, cutoff=0, variance=variance, end=end).named("ddpm")


@takes_schedule
def ddim(
    schedule: Schedule,
    times: ArrayLike,
    eta: ArrayLike = 0.0,
    *,
    end: float = DATA,
    clipped_eps: bool = True,
) -> Plan:
    """DDIM: jumps that need not be Markov, with as much noise as one likes.

        std^2 = eta^2 variance of q(x_s | x_t, x_0)
        x_s = alpha_s x_0 + sqrt(sigma_s^2 - std^2) eps + std z

    Args:
        schedule: The forward process.
        times: Grid of N times, strictly decreasing, in 0 .. T-1.
        eta: 0 for no noise, 1 for the posterior's; one number, or one per step, [N], each in
            0 .. 1.
        end: Time at which the picture stands: the data, or one below the last of `times`; 0 is
            what diffusers calls `set_alpha_to_one=False`.
        clipped_eps: Whether eps follows x_0 where that is clipped, as ADM has it; False keeps the
            network's own, as diffusers does (`use_clipped_model_output=False`). Where nothing is
            clipped they are one.

    Raises:
        ValueError: For a grid that does not fit the schedule, or an eta outside 0 .. 1.

    Source: Song et al. 2021 (arXiv:2010.02502), equations 12 and 16.
    """
    levels = path(schedule, times, end)
    eta = per_step(eta, len(levels) - 1)
    tape = Tape(schedule)
    x = tape.start()
    for (s, t), jump, eta_s in zip(pairwise(levels), _jumps(schedule, levels), eta, strict=True):
        _, x_0, eps = tape.call(x, s)
        if not clipped_eps:
            eps = unclipped(tape, eps, s)
        std = eta_s * np.sqrt(jump.variance)
        # sqrt(sigma_t^2 - std^2), without the cancellation: for eta 1 it is jump.keep sigma_s.
        left = np.hypot(np.sqrt(1 - eta_s**2) * t.sigma, eta_s * jump.keep * s.sigma)
        x = t.alpha * x_0 + left * eps + std * tape.noise()
    return tape.plan(x, "ddim", end)


def unclipped(tape: Tape, eps: Combination, s: Level) -> Combination:
    """eps of the newest call, at level s, as the network says it, whatever is taken off x_0."""
    return eps - s.alpha / s.sigma * tape.excess()


def per_step(eta: ArrayLike, num: int) -> np.ndarray:
    """eta of each of `num` steps, [num].

    Raises:
        ValueError: Unless it is one number in 0 .. 1, or `num` of them.
    """
    eta = np.asarray(eta, np.float64)
    if eta.shape not in ((), (num,)) or not np.all((eta >= 0) & (eta <= 1)):
        raise ValueError(
            f"eta must be a number in 0 .. 1, or {num} of them, one per step; got {eta}"
        )
    return np.broadcast_to(eta, num)


@takes_schedule
def hybrid(
    schedule: Schedule,
    times: ArrayLike,
    cutoff: int,
    variance: Variance = "small",
    *,
    end: float = DATA,
) -> Plan:
    """Skipped-step sampling while much is undecided, DDIM for the rest.

    A step that starts at t >= cutoff draws from the posterior of its jump, as skipped-step
    sampling does; one that starts below is a step of DDIM with eta 0.

    Args:
        schedule: The forward process.
        times: Grid of N times, strictly decreasing, in 0 .. T-1.
        cutoff: In 0 .. T. 0 is pure skipped-step sampling, T pure DDIM.
        variance: Of the skipped-step part, as in `ddpm`.
        end: Time at which the picture stands, as in `ddim`.

    Raises:
        ValueError: For a grid that does not fit the schedule, a cutoff outside 0 .. T, or another
            variance.

    Source: arXiv:2508.15233, algorithms 2 and 3.
    """
    cutoff = whole("cutoff", cutoff, 0, schedule.T)
    variance = _known(variance)
    levels = path(schedule, times, end)
    tape = Tape(schedule)
    x, before = tape.start(), None
    for (s, t), jump in zip(pairwise(levels), _jumps(schedule, levels), strict=True):
        x_s, x_0, eps = tape.call(x, s)
        if s.t >= cutoff:
            x = jump.keep * x_s + jump.mix * x_0
            x += _drawn(tape, jump, before, variance, last=t.t == DATA)
            before = jump
        else:
            if variance.startswith("learned"):
                tape.learned(0.0, 0.0)  # nothing: the table keeps its shape for every cutoff
            x = t.alpha * x_0 + t.sigma * eps
    return tape.plan(x, "hybrid", end)


@takes_schedule
def skipped(
    schedule: Schedule, skip: int = 20, cutoff: int = 0, variance: Variance = "small"
) -> Plan:
    """Skipped-step sampling over every `skip`-th time, with DDIM below `cutoff`.

    Args:
        schedule: The forward process.
        skip: Stride over the T training times, in 1 .. T; the network is called ceil(T / skip)
            times, at T-1, T-1-skip, ...
        cutoff: As in `hybrid`; 0 is skipped-step sampling throughout.
        variance: As in `ddpm`; the paper's is "small".

    Raises:
        ValueError: If `skip` or `cutoff` is outside its range, or not a whole number.

    Source: arXiv:2508.15233, algorithm 2.
    """
    return hybrid(schedule, grids.skipped(schedule.T, skip), cutoff, variance).named("skipped")


@takes_schedule
def respaced(schedule: Schedule, steps: str, variance: Variance = "small") -> Plan:
    """ADM's own sampler for one of its `timestep_respacing` strings.

    "ddimN" is DDIM with eta 0 on ADM's strided grid; every other string is `ddpm`.

    Args:
        schedule: The forward process.
        steps: "250", "ddim25", "90,60,60,20,20"; "" for all T times.
        variance: As in `ddpm`; what ADM's networks learn is "learned_range".

    Raises:
        ValueError: For a string that cannot be read, or does not fit T, or another variance.
    """
    times, variance = grids.respaced(schedule.T, steps), _known(variance)
    return ddim(schedule, times) if steps.startswith("ddim") else ddpm(schedule, times, variance)


def _jumps(schedule: Schedule, levels: list[Level]) -> list[Posterior]:
    """The posterior of every step."""
    t = np.array([level.t for level in levels])
    columns = posterior(schedule, t[:-1], t[1:])
    return [Posterior(*jump) for jump in zip(*columns, strict=True)]


def _known(variance: Variance) -> Variance:
    if variance not in VARIANCES:
        raise ValueError(f"variance is {variance!r}: it must be one of {', '.join(VARIANCES)}")
    return variance


def _drawn(
    tape: Tape, jump: Posterior, before: Posterior | None, variance: Variance, last: bool
) -> Combination:
    """What a draw from q(x_s | x_t, x_0) adds to its mean: noise, and guidance times variance.

    The posterior of the last jump has no variance: as in ADM, that of the jump before stands in
    where guidance or a logarithm asks for one, and no noise is added.
    """
    if variance.startswith("learned"):
        stand_in = jump.added if before is None else before.variance
        small = stand_in if last else jump.variance
        ranged = variance == "learned_range"
        bounds = np.log([small, jump.added]) if ranged else (-1.0, 1.0)
        tape.learned(*map(float, bounds))
        return float(not last) * tape.noise() + tape.gradient()
    squared = jump.variance
    if variance == "large":
        stand_in = jump.variance if before is None else before.variance
        squared = stand_in if last else jump.added
    std = float(not last) * float(np.sqrt(squared))
    return std * tape.noise() + float(squared) * tape.gradient()
