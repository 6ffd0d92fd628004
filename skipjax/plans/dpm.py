"""DPM-Solver and DPM-Solver++: exponential integrators of the probability-flow ODE in log_snr.

DPM-Solver works on eps, DPM-Solver++ on x_0; `exponential` has the two forms of the exact step
and its weights w_k. With v = (log_snr - log_snr_s) / h from level s to t, D_k an estimate of the
k-th derivative of the prediction m with respect to v,

    order 1     x_t = keep x_s + w_0 m_s
    order 2     x_t = keep x_s + w_0 (m_s + D_1 / 2)          "midpoint"
                x_t = keep x_s + w_0 m_s + w_1 D_1            "heun"
    order 3     x_t = keep x_s + w_0 m_s + w_1 D_1 + w_2 D_2

where a multistep method (2M, 3M) takes D_k from what earlier calls said, and a singlestep method
(2S, 3S) from calls between s and t. Order 1 is DDIM in both forms.

A multistep method begins with a step of order 1. From nearly pure noise, where predictions hardly
change, its error is nothing beside the others; from midway it leaves order 2.

Sources: Lu et al. 2022, "DPM-Solver" (arXiv:2206.00927), algorithms 1 and 2 and appendix D.1;
"DPM-Solver++" (arXiv:2211.01095), algorithms 1 and 2 and appendix A.
"""

from itertools import pairwise
from typing import Literal

from numpy.typing import ArrayLike

from skipjax.plans.ddim import per_step
from skipjax.plans.exponential import Step, usable
from skipjax.plans.path import Level, path
from skipjax.plans.plan import Plan, Space
from skipjax.plans.tape import Form, Tape
from skipjax.schedules import DATA, Schedule

SolverType = Literal["midpoint", "heun"]


def dpm_1(schedule: Schedule, times: ArrayLike, *, end: float = DATA) -> Plan:
    """DPM-Solver-1: DDIM without noise, by another way. Arguments as in `dpm_2m`."""
    return _multistep(schedule, times, end, "eps", 1).named("dpm_1")


def dpm_2m(
    schedule: Schedule,
    times: ArrayLike,
    *,
    end: float = DATA,
    lower_order_final: bool = False,
    solver_type: SolverType = "midpoint",
) -> Plan:
    """DPM-Solver with two predictions of eps a step, of order 2.

        D_1 = (m_i - m_{i-1}) / r,   r = (log_snr_i - log_snr_{i-1}) / h

    Args:
        schedule: The forward process.
        times: Where the network is called, [N], strictly decreasing, in 0 .. T-1, real or whole.
        end: Where the picture stands: a time below the last, or the data. A step to the data is of
            order 1, since it is infinitely long in log_snr.
        lower_order_final: Whether the last steps go down to order 1, as diffusers does for few
            calls. It limits the order of convergence.
        solver_type: How a step of order 2 uses D_1.

    Raises:
        ValueError: If `times` do not fit the schedule, or are fewer than the order.
    """
    return _multistep(
        schedule, times, end, "eps", 2, lower_order_final, solver_type=solver_type
    ).named("dpm_2m")


def dpm_3m(
    schedule: Schedule,
    times: ArrayLike,
    *,
    end: float = DATA,
    lower_order_final: bool = False,
    solver_type: SolverType = "midpoint",
    compat: Literal["diffusers"] | None = None,
) -> Plan:
    """DPM-Solver with three predictions of eps a step, of order 3. See `dpmpp_3m`."""
    return _multistep(
        schedule, times, end, "eps", 3, lower_order_final, solver_type, compat
    ).named("dpm_3m")


def dpmpp_1(schedule: Schedule, times: ArrayLike, *, end: float = DATA) -> Plan:
    """DPM-Solver++-1: DDIM without noise, by another way. Arguments as in `dpm_2m`."""
    return _multistep(schedule, times, end, "x_0", 1).named("dpmpp_1")


def dpmpp_2m(
    schedule: Schedule,
    times: ArrayLike,
    *,
    end: float = DATA,
    lower_order_final: bool = False,
    solver_type: SolverType = "midpoint",
) -> Plan:
    """DPM-Solver++ with two predictions of x_0 a step, of order 2: `dpm_2m` on x_0.

    Source: arXiv:2211.01095, algorithm 2.
    """
    return _multistep(
        schedule, times, end, "x_0", 2, lower_order_final, solver_type=solver_type
    ).named("dpmpp_2m")


def dpmpp_3m(
    schedule: Schedule,
    times: ArrayLike,
    *,
    end: float = DATA,
    lower_order_final: bool = False,
    solver_type: SolverType = "midpoint",
    compat: Literal["diffusers"] | None = None,
) -> Plan:
    """DPM-Solver++ with three predictions of x_0 a step, of order 3.

    With r_0 = (l_i - l_{i-1}) / h, r_1 = (l_{i-1} - l_{i-2}) / h, E_0 = (m_i - m_{i-1}) / r_0 and
    E_1 = (m_{i-1} - m_{i-2}) / r_1,

        D_1 = E_0 + r_0 / (r_0 + r_1) (E_0 - E_1)
        D_2 = 2 (E_0 - E_1) / (r_0 + r_1)

    Args:
        schedule: The forward process.
        times: Where the network is called, [N], strictly decreasing, in 0 .. T-1, real or whole.
        end: Where the picture stands, as in `dpm_2m`.
        lower_order_final: As in `dpm_2m`.
        solver_type: Of the second step, which is of order 2.
        compat: "diffusers" for the factor 1 in place of the 2 of D_2 that dpm-solver, diffusers
            and k-diffusion have. Half a second derivative leaves order 2; at few calls it is
            sometimes the better one.

    Raises:
        ValueError: As in `dpm_2m`, or for another `compat`.
    """
    return _multistep(
        schedule, times, end, "x_0", 3, lower_order_final, solver_type, compat
    ).named("dpmpp_3m")


def dpmpp_1_sde(
    schedule: Schedule, times: ArrayLike, eta: ArrayLike = 1.0, *, end: float = DATA
) -> Plan:
    """The reverse SDE with x_0 held through each step; with eta 1 it is DDIM's with eta 1.

        x_t = sigma_t / sigma_s e^(-eta h) x_s + alpha_t (1 - e^(-(1 + eta) h)) x_0
              + sigma_t sqrt(1 - e^(-2 eta h)) z

    Args:
        schedule: The forward process.
        times: Where the network is called, [N], strictly decreasing, in 0 .. T-1, real or whole.
        eta: Strength of the noise, 0 .. 1: 0 is the ODE, 1 the reverse diffusion. One number, or
            one per step, [N]. Between the two it is not DDIM's: as steps grow short, DDIM with eta
            is this with eta^2.
        end: Where the picture stands, as in `dpm_2m`.

    Raises:
        ValueError: If `times` do not fit the schedule, or an eta is outside 0 .. 1.

    Source: arXiv:2211.01095, section 5; eta as in k-diffusion.
    """
    return _multistep(schedule, times, end, "x_0", 1, eta=eta).named("dpmpp_1_sde")


def dpmpp_2m_sde(
    schedule: Schedule,
    times: ArrayLike,
    eta: ArrayLike = 1.0,
    *,
    end: float = DATA,
    lower_order_final: bool = False,
    solver_type: SolverType = "midpoint",
) -> Plan:
    """`dpmpp_1_sde` with two predictions a step: x_0 + D_1 / 2 in place of x_0, or w_1 D_1 added.

    Of a Gaussian its mean and covariance converge with order 2.

    Args as there and in `dpm_2m`.
    """
    return _multistep(
        schedule, times, end, "x_0", 2, lower_order_final, solver_type, eta=eta
    ).named("dpmpp_2m_sde")


def dpmpp_3m_sde(
    schedule: Schedule,
    times: ArrayLike,
    eta: ArrayLike = 1.0,
    *,
    end: float = DATA,
    lower_order_final: bool = False,
    solver_type: SolverType = "midpoint",
    compat: Literal["diffusers"] | None = None,
) -> Plan:
    """`dpmpp_1_sde` with three predictions a step: w_1 D_1 + w_2 D_2 added, D_k as in `dpmpp_3m`.

    Of weak order 2, as `dpmpp_2m_sde` is: polynomials do not see through noise. Args as there;
    `compat` gives k-diffusion's factor. diffusers' own has, beside that factor, a term of the
    wrong sign, and is not offered.
    """
    return _multistep(
        schedule, times, end, "x_0", 3, lower_order_final, solver_type, compat, eta
    ).named("dpmpp_3m_sde")


def _multistep(
    schedule: Schedule,
    times: ArrayLike,
    end: float,
    space: Space,
    order: int,
    lower_order_final: bool = False,
    solver_type: SolverType = "midpoint",
    compat: Literal["diffusers"] | None = None,
    eta: ArrayLike = 0.0,
) -> Plan:
    check_forms(solver_type, compat)
    levels = path(schedule, times, end, fewest=order)
    num = len(levels) - 1
    etas = per_step(eta, num)
    tape = Tape(schedule, space)
    x = tape.start()
    past: list[tuple[Level, Form]] = []
    for i, (s, t) in enumerate(pairwise(levels)):
        called = tape.call(x, s)
        past = [(s, getattr(called, space)), *past][:order]
        step = Step(s, t, space, float(etas[i]))
        known = usable(past, t, num - i, lower_order_final)
        x = step.keep * called.x + advance(step, known, solver_type, compat)
        if step.noise:
            x += step.noise * tape.noise()
    return tape.plan(x, end=end)


def advance(
    step: Step,
    points: list[tuple[Level, Form]],
    solver_type: SolverType = "midpoint",
    compat: Literal["diffusers"] | None = None,
) -> Form:
    """What a step adds to keep x_s, of the order of as many points as are given.

    Args:
        step: From s to t.
        points: Where and what was predicted: at s first, then at up to two other levels.
        solver_type: Of order 2.
        compat: As in `dpmpp_3m`.
    """
    v = step.nodes([level for level, _ in points])
    m = [prediction for _, prediction in points]
    x = step.weight(0) * m[0]
    if len(m) == 1:
        return x
    slope = (m[1] - m[0]) / v[1]
    if len(m) == 2:
        return x + (step.weight(0) / 2 if solver_type == "midpoint" else step.weight(1)) * slope
    curve = ((m[2] - m[1]) / (v[2] - v[1]) - slope) / v[2]  # half the second derivative
    x += step.weight(1) * (slope - v[1] * curve)
    return x + (1.0 if compat == "diffusers" else 2.0) * step.weight(2) * curve


def check_forms(solver_type: SolverType, compat: str | None) -> None:
    """Refuses what is no form of DPM-Solver."""
    if solver_type not in ("midpoint", "heun"):
        raise ValueError(f"solver_type is {solver_type!r}: it must be 'midpoint' or 'heun'")
    if compat not in (None, "diffusers"):
        raise ValueError(f"compat is {compat!r}: it must be None or 'diffusers'")
