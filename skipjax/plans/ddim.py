"""DDPM, skipped-step sampling, DDIM, and their hybrid.

Each step jumps from a time t to a less noisy s, by the posterior that `schedules.posterior`
derives, or a relative of it. The four are one family:

    skipped-step = DDPM on the respaced chain = DDIM with eta 1
    hybrid = DDIM with eta 1, then 0

exactly, which the tests hold to 1e-12. DDIM is written as in its own paper, apart from the rest.
Steps that draw from the posterior are guided through their mean, all others through the
prediction, as ADM does it (Dhariwal & Nichol 2021, arXiv:2105.05233, algorithms 1 and 2).
"""

import numpy as np

from skipjax import grids
from skipjax.checks import whole
from skipjax.plans.plan import Form, Plan, Tape
from skipjax.schedules import DATA, VARIANCES, Posterior, Schedule, Variance, posterior


def ddpm(schedule: Schedule, times: np.ndarray, variance: Variance = "small") -> Plan:
    """Ancestral sampling on the chain that visits only `times`.

        x_s = mean of q(x_s | x_t, x_0) + std z

    Args:
        schedule: The forward process.
        times: Grid of N times, int, strictly decreasing, in 0 .. T-1.
        variance: Of z. "small" is the posterior's, "large" that of q(x_t | x_s), "learned_range"
            what the network chooses between the two for each pixel, "learned" its log as the
            network says it: ADM's four kinds. No noise is added on the last step.

    Raises:
        ValueError: For a grid that does not fit the schedule, or another variance.

    Source: Ho et al. 2020 (arXiv:2006.11239), equations 6, 7 and 11, section 3.2; on a part of
    the times, and learned: Nichol & Dhariwal 2021 (arXiv:2102.09672), section 4, equation 15.
    """
    return hybrid(schedule, times, cutoff=0, variance=variance)


def ddim(schedule: Schedule, times: np.ndarray, eta: float | np.ndarray = 0.0) -> Plan:
    """DDIM: jumps that need not be Markov, with as much noise as one likes.

        std^2 = eta^2 variance of q(x_s | x_t, x_0)
        x_s = alpha_s x_0 + sqrt(sigma_s^2 - std^2) eps + std z

    Args:
        schedule: The forward process.
        times: Grid of N times, int, strictly decreasing, in 0 .. T-1.
        eta: 0 for no noise, 1 for the posterior's; one number, or one per step, [N], each in
            0 .. 1.

    Raises:
        ValueError: For a grid that does not fit the schedule, or an eta outside 0 .. 1.

    Source: Song et al. 2021 (arXiv:2010.02502), equations 12 and 16.
    """
    steps = jumps(schedule, times)
    eta = np.asarray(eta, np.float64)
    if eta.shape not in ((), (len(steps),)) or not np.all((eta >= 0) & (eta <= 1)):
        raise ValueError(
            f"eta must be a number in 0 .. 1, or {len(steps)} of them, one per step; got {eta}"
        )
    tape = Tape(schedule)
    x = tape.start()
    for (t, s), eta_t in zip(steps, np.broadcast_to(eta, len(steps)), strict=True):
        _, x_0, eps = tape.call(x, t)
        (_, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
        jump = posterior(schedule, t, s)
        std = eta_t * np.sqrt(jump.variance)
        # sqrt(sigma_s^2 - std^2), without the cancellation: for eta 1 it is jump.keep sigma_t.
        left = np.hypot(np.sqrt(1 - eta_t**2) * sigma_s, eta_t * jump.keep * sigma_t)
        x = alpha_s * x_0 + left * eps + std * tape.noise()
    return tape.plan(x)


def hybrid(
    schedule: Schedule, times: np.ndarray, cutoff: int, variance: Variance = "small"
) -> Plan:
    """Skipped-step sampling while much is undecided, DDIM for the rest.

    A step that starts at t >= cutoff draws from the posterior of its jump, as skipped-step
    sampling does; one that starts below is a step of DDIM with eta 0.

    Args:
        schedule: The forward process.
        times: Grid of N times, int, strictly decreasing, in 0 .. T-1.
        cutoff: In 0 .. T. 0 is pure skipped-step sampling, T pure DDIM.
        variance: Of the skipped-step part, as in `ddpm`.

    Raises:
        ValueError: For a grid that does not fit the schedule, a cutoff outside 0 .. T, or another
            variance.

    Source: arXiv:2508.15233, algorithms 2 and 3.
    """
    cutoff = whole("cutoff", cutoff, 0, schedule.T)
    variance = _known(variance)
    tape = Tape(schedule)
    x, before = tape.start(), None
    for t, s in jumps(schedule, times):
        x_t, x_0, eps = tape.call(x, t)
        if t >= cutoff:
            jump = posterior(schedule, t, s)
            x = jump.keep * x_t + jump.mix * x_0
            x += _drawn(tape, jump, before, variance, last=s == DATA)
            before = jump
        else:
            if variance.startswith("learned"):
                tape.learned(0.0, 0.0)  # nothing: the table keeps its shape for every cutoff
            alpha_s, sigma_s = schedule.at(s)
            x = alpha_s * x_0 + sigma_s * eps
    return tape.plan(x)


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
    return hybrid(schedule, grids.skipped(schedule.T, skip), cutoff, variance)


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


def jumps(schedule: Schedule, times: np.ndarray) -> list[tuple[int, int]]:
    """The steps (t, s) of a grid, the last of them to the data.

    Raises:
        ValueError: If the times are not whole, strictly decreasing, and in 0 .. T-1.
    """
    times = np.asarray(times)
    if times.ndim != 1 or not times.size or not np.issubdtype(times.dtype, np.integer):
        raise ValueError(f"times must be a non-empty vector of int, got {times!r}")
    times = times.astype(np.int64)
    if times[0] >= schedule.T or times[-1] < 0 or np.any(np.diff(times) >= 0):
        raise ValueError(
            f"times must decrease strictly within {schedule.T - 1} .. 0, got {times.tolist()}"
        )
    times = times.tolist()
    return list(zip(times, [*times[1:], DATA], strict=True))


def _known(variance: Variance) -> Variance:
    if variance not in VARIANCES:
        raise ValueError(f"variance is {variance!r}: it must be one of {', '.join(VARIANCES)}")
    return variance


def _drawn(
    tape: Tape, jump: Posterior, before: Posterior | None, variance: Variance, last: bool
) -> Form:
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
