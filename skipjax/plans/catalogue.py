"""What samplers there are: every plan by name, with its order and what a step of it costs."""

import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from skipjax import grids
from skipjax.checks import whole
from skipjax.plans.consistency import consistency
from skipjax.plans.ddim import ddim, ddpm
from skipjax.plans.deis import Variable, deis
from skipjax.plans.dpm import dpm
from skipjax.plans.euler import edm, euler, euler_ancestral, heun
from skipjax.plans.plan import Plan
from skipjax.plans.pndm import f_pndm, ipndm, plms, s_pndm
from skipjax.plans.singlestep import dpm_fast, dpm_singlestep
from skipjax.plans.unipc import unipc
from skipjax.schedules import DATA, Schedule
from skipjax.schedules.arguments import as_schedule


class Method(NamedTuple):
    """One sampler.

    Attributes:
        write: (schedule, times, *, end) -> Plan.
        order: Order of convergence, on a grid that is even in log_snr, begins in nearly pure noise
            and ends before the data; weak where it adds noise; 0 for one that is no solver.
        calls: Network calls of a step.
        more: Calls for N times, beyond `calls` N, where the picture ends at the data.
        fewest: Fewest times it can do with.
        about: What it is.
    """

    write: Callable[..., Plan]
    order: int
    about: str
    calls: int = 1
    more: int = 0
    fewest: int = 1

    @property
    def least(self) -> int:
        """The fewest calls that it makes."""
        return self.calls * self.fewest + self.more

    @property
    def nfe(self) -> str:
        """Calls for N times, as people write it: "2 N - 1"."""
        return (
            ("" if self.calls == 1 else f"{self.calls} ")
            + "N"
            + (f" {'+' if self.more > 0 else '-'} {abs(self.more)}" if self.more else "")
        )


def _row(name: str, writer: Callable[..., Plan], **fixed: Any) -> Callable[..., Plan]:
    """A function with some arguments fixed, whose plans have a name of their own."""

    def write(schedule: Schedule, times: ArrayLike, **options: Any) -> Plan:
        return writer(schedule, times, **(fixed | options)).named(name)

    arguments = ", ".join(f"{key}={value!r}" for key, value in fixed.items())
    write.__name__ = write.__qualname__ = name
    write.__doc__ = f"`{writer.__name__}` with {arguments}; its other arguments as keywords."
    return write


dpm_1 = _row("dpm_1", dpm, order=1, space="eps")
dpm_2m = _row("dpm_2m", dpm, order=2, space="eps")
dpm_3m = _row("dpm_3m", dpm, order=3, space="eps")
dpmpp_1 = _row("dpmpp_1", dpm, order=1)
dpmpp_2m = _row("dpmpp_2m", dpm, order=2)
dpmpp_3m = _row("dpmpp_3m", dpm, order=3)
dpmpp_1_sde = _row("dpmpp_1_sde", dpm, order=1, eta=1.0)
dpmpp_2m_sde = _row("dpmpp_2m_sde", dpm, order=2, eta=1.0)
dpmpp_3m_sde = _row("dpmpp_3m_sde", dpm, order=3, eta=1.0)
dpm_2s = _row("dpm_2s", dpm_singlestep, order=2, space="eps")
dpm_3s = _row("dpm_3s", dpm_singlestep, order=3, space="eps")
dpmpp_2s = _row("dpmpp_2s", dpm_singlestep, order=2)
dpmpp_3s = _row("dpmpp_3s", dpm_singlestep, order=3)

# Name, variable, what the polynomials are in, and their degrees.
DEIS: tuple[tuple[str, Variable, str, tuple[int, ...]], ...] = (
    ("tab", "t", "polynomials in t", (0, 1, 2, 3)),
    ("rhoab", "rho", "polynomials in sigma / alpha", (1, 2, 3)),
    ("log_rho", "log_rho", "polynomials in log_snr, as diffusers has it", (1, 2, 3)),
)
METHODS: dict[str, Method] = {
    "skipped": Method(ddpm, 1, "skipped-step sampling: DDPM on the times that it visits"),
    "ddpm": Method(ddpm, 1, "ancestral sampling, with the posterior's variance"),
    "ddpm_large": Method(
        partial(ddpm, variance="large"), 1, "ancestral sampling, with the forward variance"
    ),
    "ddim": Method(ddim, 1, "DDIM without noise"),
    "euler": Method(euler, 1, "Euler in sigma / alpha: DDIM"),
    "euler_ancestral": Method(euler_ancestral, 1, "Euler with noise: DDIM with eta 1"),
    "heun": Method(heun, 2, "Heun in sigma / alpha", 2, -1),
    "edm": Method(edm, 2, "EDM's sampler: Heun; plans.edm(..., churn=) adds noise to it", 2, -1),
    "dpm_1": Method(dpm_1, 1, "DPM-Solver-1: DDIM"),
    "dpm_2s": Method(dpm_2s, 2, "DPM-Solver-2", 2, -1),
    "dpm_3s": Method(dpm_3s, 3, "DPM-Solver-3", 3, -2),
    "dpm_fast": Method(dpm_fast, 2, "DPM-Solver-fast: N calls in steps of orders 3, 2, 1"),
    "dpm_2m": Method(dpm_2m, 2, "DPM-Solver, multistep", fewest=2),
    "dpm_3m": Method(dpm_3m, 3, "DPM-Solver, multistep", fewest=3),
    "dpmpp_1": Method(dpmpp_1, 1, "DPM-Solver++(1): DDIM"),
    "dpmpp_2s": Method(dpmpp_2s, 2, "DPM-Solver++(2S)", 2, -1),
    "dpmpp_3s": Method(dpmpp_3s, 3, "DPM-Solver++(3S)", 3, -2),
    "dpmpp_2m": Method(dpmpp_2m, 2, "DPM-Solver++(2M)", fewest=2),
    "dpmpp_3m": Method(dpmpp_3m, 3, "DPM-Solver++(3M), of true order 3", fewest=3),
    "dpmpp_3m_diffusers": Method(
        _row("dpmpp_3m_diffusers", dpmpp_3m, compat="diffusers"),
        2,
        "DPM-Solver++(3M) as others have it",
        fewest=3,
    ),
    "dpmpp_1_sde": Method(dpmpp_1_sde, 1, "SDE-DPM-Solver++(1): DDIM with eta 1"),
    "dpmpp_2m_sde": Method(dpmpp_2m_sde, 2, "SDE-DPM-Solver++(2M)", fewest=2),
    "dpmpp_3m_sde": Method(dpmpp_3m_sde, 2, "SDE-DPM-Solver++(3M)", fewest=3),
    **{
        f"unipc_{p}": Method(partial(unipc, order=p), p + 1, f"UniPC-{p}, bh2", fewest=p)
        for p in (1, 2, 3)
    },
    **{
        f"unip_{p}": Method(
            partial(unipc, order=p, corrector=False), p, f"UniP-{p}, bh2: no corrector", fewest=p
        )
        for p in (1, 2, 3)
    },
    **{
        f"deis_{short}{q}": Method(
            partial(deis, order=q, variable=variable), q + 1, f"DEIS, {long}", fewest=q + 1
        )
        for short, variable, long, degrees in DEIS
        for q in degrees
    },
    **{
        f"ipndm_{p}": Method(partial(ipndm, order=p), min(p, 2), f"iPNDM, {p} of eps", fewest=p)
        for p in (1, 2, 3, 4)
    },
    "s_pndm": Method(s_pndm, 2, "S-PNDM", more=1, fewest=2),
    "f_pndm": Method(f_pndm, 2, "F-PNDM, 4 of eps after 3 Runge-Kutta steps", more=9, fewest=4),
    "plms": Method(plms, 2, "PLMS, as Stable Diffusion has it", more=1, fewest=4),
    "consistency": Method(consistency, 0, "consistency models: to the data and back up"),
}


def write(
    name: str, schedule: Schedule, times: ArrayLike, *, end: float = DATA, **options: Any
) -> Plan:
    """The plan of a method by its name.

    Args:
        name: One of `METHODS`, or what other libraries call it.
        schedule: The forward process.
        times: Where steps begin, [N], strictly decreasing, in 0 .. T-1, real or whole.
        end: Where the picture stands: a time below the last, or the data.
        options: Further arguments of the method, such as DDIM's eta.

    Raises:
        ValueError: For a name that is not known, or times that do not fit.
    """
    name = method_name(name)
    return METHODS[name].write(schedule, times, end=end, **options).named(name)


def split(
    schedule: Schedule,
    times: ArrayLike,
    cutoff: float,
    above: str = "skipped",
    below: str = "consistency",
    *,
    end: float = DATA,
) -> tuple[Plan, Plan]:
    """One method for the steps that start at t >= cutoff, another for those below: two plans, the
    second of which begins where the first ends, for `relay` to run with a network each.

    Args:
        schedule: The forward process.
        times: Where steps begin, [N], strictly decreasing, in 0 .. T-1, real or whole.
        cutoff: Between the first and the last of them.
        above: Method of the first plan, one of `METHODS`.
        below: Method of the second.
        end: Where the picture stands: a time below the last, or the data.

    Raises:
        ValueError: As `write`, and if there is no step above the cutoff, or none below.
    """
    times = np.asarray(times)
    num = int(np.sum(times >= cutoff))
    if not 0 < num < times.size:
        raise ValueError(
            f"cutoff is {cutoff}: some of the times must be from there on, and some below, got "
            f"{times.tolist()}"
        )
    first = write(above, schedule, times[:num], end=times[num])
    return first, write(below, schedule, times[num:], end=end)


def times_for(name: str, nfe: int) -> int:
    """How many times a method visits if it calls the network `nfe` times.

    Raises:
        ValueError: For a name that is not known, or a number of calls that it cannot make.
    """
    name = method_name(name)
    method = METHODS[name]
    num, rest = divmod(nfe - method.more, method.calls)
    if rest or num < method.fewest:
        raise ValueError(
            f"nfe is {nfe}: {name} makes {method.nfe} calls on N times, N at least {method.fewest}"
        )
    return num


# What other libraries call them, as `_squeezed` has it.
ALIASES = {
    "eulera": "euler_ancestral",
    "unipc": "unipc_2",
    "lms": "deis_rhoab3",
    "ipndm": "ipndm_4",
    "dpmsolverpp": "dpmpp_2m",
    "dpmsolver": "dpm_2m",
    "dpmppsde": "dpmpp_1_sde",
    "lcm": "consistency",
}


def method_name(name: str) -> str:
    """The name in `METHODS` of what is also written "DPM++ 2M", "dpmpp-2m", "euler_a", ...

    Raises:
        ValueError: For a name that is not known, with the nearest that is.
    """
    squeezed = {_squeezed(known): known for known in METHODS}
    key = _squeezed(name) if isinstance(name, str) else ""
    if found := squeezed.get(key) or ALIASES.get(key):
        return found
    near = get_close_matches(key, [*squeezed, *ALIASES], 1)
    hint = f"; did you mean {squeezed.get(near[0]) or ALIASES[near[0]]}?" if near else ""
    raise ValueError(f"plan is {name!r}: it must be one of {', '.join(METHODS)}{hint}")


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "p"))


def with_nfe(
    name: str,
    schedule: Schedule,
    nfe: int,
    grid: str = "trailing",
    *,
    nearest: bool = False,
    **options: Any,
) -> Plan:
    """The plan of a method that calls the network `nfe` times and ends at the data.

    Args:
        name: One of `METHODS`, or an alias.
        schedule: The forward process.
        nfe: Number of calls.
        grid: One of `grids.GRIDS`.
        nearest: Whether to take, where the method cannot make `nfe` calls, the most below it.
        options: Further arguments of the method.

    Raises:
        ValueError: If the method cannot make so many calls, with the numbers near it that it can.
    """
    name, schedule = method_name(name), as_schedule(schedule)
    method, nfe = METHODS[name], whole("nfe", nfe, 1)

    def written(num: int) -> Plan:
        times = grids.named(grid, schedule, num)
        return method.write(schedule, times, **options).named(name)

    below = (nfe - method.more) // method.calls
    # A step from zero SNR has fewer calls: one time more may be needed.
    made = [written(num) for num in (below, below + 1) if method.fewest <= num <= schedule.T]
    fits = [plan for plan in made if plan.nfe == nfe]
    fits += [plan for plan in made if plan.nfe < nfe][::-1] if nearest else []
    if not fits:
        near = " or ".join(str(plan.nfe) for plan in made) or f"{method.least} or more"
        raise ValueError(f"nfe is {nfe}: {name} has {near} calls ({method.nfe} for N times)")
    return fits[0]
