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

from skipjax.checks import whole
from skipjax.plans.ddim import per_step
from skipjax.plans.exponential import Step, usable
from skipjax.plans.path import Level, path
from skipjax.plans.plan import Plan, Space
from skipjax.plans.tape import Combination, Tape
from skipjax.schedules import DATA, Schedule
from skipjax.schedules.arguments import takes_schedule

SolverType = Literal["midpoint", "heun"]


@takes_schedule
def dpm(
    schedule: Schedule,
    times: ArrayLike,
    *,
    order: int = 2,
    space: Space = "x_0",
    eta: ArrayLike = 0.0,
    end: float = DATA,
    lower_order_final: bool | Literal["last"] = False,
    solver_type: SolverType = "midpoint",
    compat: Literal["diffusers"] | None = None,
) -> Plan:
    """Multistep DPM-Solver (space "eps") and DPM-Solver++ ("x_0"), of order 1 .. 3.

    With r_0 = (l_i - l_{i-1}) / h, r_1 = (l_{i-1} - l_{i-2}) / h, E_0 = (m_i - m_{i-1}) / r_0 and
    E_1 = (m_{i-1} - m_{i-2}) / r_1,

        order 2     D_1 = E_0
        order 3     D_1 = E_0 + r_0 / (r_0 + r_1) (E_0 - E_1)
                    D_2 = 2 (E_0 - E_1) / (r_0 + r_1)

    With eta it is SDE-DPM-Solver++, the reverse SDE in place of the ODE: in order 1

        x_t = sigma_t / sigma_s e^(-eta h) x_s + alpha_t (1 - e^(-(1 + eta) h)) x_0
              + sigma_t sqrt(1 - e^(-2 eta h)) z

    which with eta 1 is DDIM's with eta 1. Orders 2 and 3 are then of weak order 2: polynomials do
    not see through noise.

    Args:
        schedule: The forward process.
        times: Where the network is called, [N], strictly decreasing, in 0 .. T-1, real or whole.
        order: How many predictions a step takes, 1 .. 3.
        space: What is predicted: "x_0" or "eps".
        eta: Strength of the noise, 0 .. 1, in "x_0" alone: 0 is the ODE, 1 the reverse diffusion.
            One number, or one per step, [N]. Between the two it is not DDIM's: as steps grow
            short, DDIM with eta is this with eta^2.
        end: Where the picture stands: a time below the last, or the data. A step to the data is of
            order 1, since it is infinitely long in log_snr.
        lower_order_final: Whether the last steps go down to order 1, as diffusers does for few
            calls, or the "last" alone, its `euler_at_final`. It limits the order of convergence.
        solver_type: How a step of order 2 uses D_1.
        compat: "diffusers" for the factor 1 in place of the 2 of D_2 that dpm-solver, diffusers
            and k-diffusion have. Half a second derivative leaves order 2; at few calls it is
            sometimes the better one. The SDE of diffusers has, beside that factor, a term of the
            wrong sign, and is not offered.

    Raises:
        ValueError: If `times` do not fit the schedule, or are fewer than the order; for an order,
            eta, form or space that there is none of.

    Sources: arXiv:2206.00927; arXiv:2211.01095, algorithm 2 and section 5; eta as in k-diffusion.
    """
    order = whole("order", order, 1, 3)
    check_forms(solver_type, compat)
    levels = path(schedule, times, end, fewest=order)
    num = len(levels) - 1
    etas = per_step(eta, num)
    if space == "eps" and etas.any():
        raise ValueError(f"eta is {eta}, and space 'eps': noise is added in space 'x_0' alone")
    tape = Tape(schedule, space)
    x = tape.start()
    past: list[tuple[Level, Combination]] = []
    for i, (s, t) in enumerate(pairwise(levels)):
        called = tape.call(x, s)
        past = [(s, getattr(called, space)), *past][:order]
        step = Step(s, t, space, float(etas[i]))
        known = usable(past, t, num - i, lower_order_final)
        x = step.keep * called.x + advance(step, known, solver_type, compat)
        if step.noise:
            x += step.noise * tape.noise()
    name = "dpm" if space == "eps" else "dpmpp"
    step_name = "1" if order == 1 else f"{order}m"
    return tape.plan(x, f"{name}_{step_name}{'_sde' if etas.any() else ''}", end)


def advance(
    step: Step,
    points: list[tuple[Level, Combination]],
    solver_type: SolverType = "midpoint",
    compat: Literal["diffusers"] | None = None,
) -> Combination:
    """What a step adds to keep x_s, of the order of as many points as are given.

    Args:
        step: From s to t.
        points: Where and what was predicted: at s first, then at up to two other levels.
        solver_type: Of order 2.
        compat: As in `dpm`.
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
