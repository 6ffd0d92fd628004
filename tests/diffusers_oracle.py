"""diffusers' schedulers and our plans, both as matrices: what makes each point of a sampler.

A sampler is linear in the noise that it starts from, in what the network outputs, and in the noise
that it adds. A batch whose elements are the unit vectors of all these comes out of it as rows of
coefficients. The network is no part of it: its i-th output is a unit vector, whatever it is for.
"""

import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from itertools import product
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

from skipjax import schedules
from skipjax.plans import Plan
from skipjax.schedules import DATA, Schedule

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e .[oracle]")
diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is not installed: pip install -e .[oracle]"
)

SCHEDULES = {
    "linear": (
        schedules.linear(),
        {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    ),
    "scaled_linear": (
        schedules.scaled_linear(),
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    ),
    "cosine": (schedules.cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
}
# x_0 = of_x x + of_m m for what a network may output.
READINGS = {
    "epsilon": lambda alpha, sigma: (1 / alpha, -sigma / alpha),
    "sample": lambda alpha, sigma: (0.0, 1.0),
    "v_prediction": lambda alpha, sigma: (alpha, -sigma),
}
SPACINGS = ("linspace", "leading", "trailing")
NUMS = (5, 7, 10, 15, 20, 50)
# Rounding of float64. 1 - abar is 4e-5 at cosine's first time: it is held to 3e-12 of its size.
FORMULAS = 1e-10


class Case(NamedTuple):
    """A setting in which a scheduler and a plan are compared."""

    name: str
    num: int
    spacing: str
    prediction: str

    @property
    def schedule(self) -> Schedule:
        return SCHEDULES[self.name][0]


def cases(predictions=tuple(READINGS), spacings=SPACINGS, nums=NUMS) -> list[Case]:
    """Every schedule, spacing and number of steps, and with each of them every prediction."""
    grid = product(enumerate(SCHEDULES), enumerate(spacings), enumerate(nums))
    return [
        Case(name, num, spacing, predictions[(i + j + k) % len(predictions)])
        for (i, name), (j, spacing), (k, num) in grid
    ]


class Table(NamedTuple):
    """A sampler's points, and where it called the network.

    Attributes:
        rows: Every point after the first, in terms of the first, the N outputs of the network and
            N noises, [N, 1 + 2 N].
        times: Of the calls, [N].
        sigmas: sigma / alpha of their points as they were set, the picture's included; [N+1], or
            more where the scheduler lists a level twice. None where it has no such list.
    """

    rows: np.ndarray
    times: np.ndarray
    sigmas: np.ndarray | None


class Wide:
    """A module whose float32 is its float64."""

    def __init__(self, module: ModuleType):
        self._module, self.float32 = module, module.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@contextmanager
def in_float64(cls):
    """Has diffusers compute in float64 where it says float32: its tables, and what it casts to."""
    module, before = sys.modules[cls.__module__], torch.get_default_dtype()
    with pytest.MonkeyPatch.context() as patch:
        for name in {"torch", "np"} & set(vars(module)):
            patch.setattr(module, name, Wide(getattr(module, name)))
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def theirs(cls, case: Case, exact: bool = True, change=None, **options) -> Table:
    """The points of a scheduler, from its own `set_timesteps`, `scale_model_input` and `step`.

    Args:
        cls: The scheduler's class.
        case: Its setting.
        exact: Whether it computes in float64; if not, it is left as it is.
        change: What is done to it after `set_timesteps`.
        **options: More of its configuration.
    """
    with warnings.catch_warnings(action="ignore"):  # of what they themselves call deprecated
        if not exact:
            return _theirs(cls, case, change, options)
        with in_float64(cls):
            table = _theirs(cls, case, change, options)
    assert table.rows.dtype == np.float64
    return table


def of_config(cls, config: dict, num: int, change=None) -> Table:
    """The points of a scheduler in float64, from the content of its scheduler_config.json; the
    picture is as it leaves it, x / alpha where it holds that.
    """
    with warnings.catch_warnings(action="ignore"), in_float64(cls):
        return _walked(cls.from_config(config), num, change, scaled=False)


def _theirs(cls, case, change, options) -> Table:
    config = {"timestep_spacing": case.spacing, "prediction_type": case.prediction}
    scheduler = cls(**known(cls, {**SCHEDULES[case.name][1], **config}), **options)
    return _walked(scheduler, case.num, change)


def _walked(scheduler, num: int, change, scaled: bool = True) -> Table:
    scheduler.set_timesteps(num)
    if change:
        change(scheduler)
    times = scheduler.timesteps
    units = torch.eye(1 + 2 * len(times))[..., None]
    start, outputs, noises = units[0], units[1 : 1 + len(times)], iter(units[1 + len(times) :])
    # Some hold x / alpha, and scale it for the network: the unit is what the network sees.
    x = start / scheduler.scale_model_input(torch.ones(1), times[0])
    points = []
    module = sys.modules[type(scheduler).__module__]
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(module, "randn_tensor"):
            patch.setattr(module, "randn_tensor", lambda *_, **__: next(noises))
        for i, t in enumerate(times):
            points.append(scheduler.scale_model_input(x, t))
            x = scheduler.step(outputs[i], t, x, return_dict=False)[0]
    sigmas = getattr(scheduler, "sigmas", None)
    if scaled and hasattr(scheduler, "is_scale_input_called") and sigmas[-1]:
        x = x / (sigmas[-1] ** 2 + 1) ** 0.5
    rows = torch.cat([*points[1:], x], dim=1).T.numpy()
    return Table(rows, times.numpy(), None if sigmas is None else sigmas.numpy())


def assert_same(
    cls,
    write: Callable[[Case, Table], Plan],
    cases: Iterable[Case],
    within: float = FORMULAS,
    exact: bool = True,
    told: bool = True,
    **options,
) -> None:
    """Asserts that plans have a scheduler's coefficients, and its times.

    Args:
        cls: The scheduler's class.
        write: The plan for a case and what the scheduler made of it.
        cases: The settings.
        within: The largest `difference` that is let pass.
        exact: As in `theirs`.
        told: Whether the times that the network is told are compared too.
        **options: As in `theirs`.
    """
    for case in cases:
        table = theirs(cls, case, exact, **options)
        plan = write(case, table)
        found = difference(ours(plan, case.prediction), table.rows)
        assert found < within, f"{case} {options}: {found:.2g}"
        if told:
            np.testing.assert_allclose(plan.t, table.times, rtol=1e-6, err_msg=str(case))


def single_precision(case: Case, space: str) -> float:
    """What is left of an untouched scheduler's precision, as a bound on `difference`.

    1 - abar, a product of a thousand float32 numbers, is 4e-5 at the least at time 0: sigma is
    off by up to 1e-3 there. And cosine's alpha is 5e-5 at T-1: a step on eps from there multiplies
    the rounding of x by alpha_t / alpha_s, up to 2e4.
    """
    return 2e-2 if case.name == "cosine" and space == "eps" else 1e-3


def known(cls, options: dict) -> dict:
    """Those of the options that a scheduler has."""
    return {key: value for key, value in options.items() if key in cls._get_init_keys(cls)}


def ours(plan: Plan, prediction: str = "epsilon") -> np.ndarray:
    """The points of a plan, as the rows of a `Table`, of what the network outputs."""
    x, *units = np.eye(1 + 2 * plan.nfe)
    outputs, noises = units[: plan.nfe], units[plan.nfe :]
    said, rows = [], []
    for i in range(plan.nfe):
        alpha, sigma = plan.alpha[i], plan.sigma[i]
        of_x, of_m = READINGS[prediction](alpha, sigma)
        x_0 = of_x * x + of_m * outputs[i]
        said.insert(0, x_0 if plan.space == "x_0" else (x - alpha * x_0) / sigma)
        mixed = sum(weight * m for weight, m in zip(plan.mix[i], said, strict=False))
        x = plan.keep[i] * x + mixed + plan.noise[i] * noises[i]
        rows.append(x)
    return np.array(rows)


def levels(sigmas: np.ndarray) -> tuple[Schedule, np.ndarray, float]:
    """A variance-preserving schedule that has just these sigma / alpha, its times and its end.

    What it leaves out are times: with it only the formulas of a plan and a scheduler can differ.
    """
    rho = np.asarray(sigmas, np.float64)[::-1]
    end = DATA if rho[0] == 0 else 0
    rho = rho[rho > 0]
    schedule = Schedule(1 / np.hypot(1, rho), rho / np.hypot(1, rho))
    return schedule, np.arange(len(rho) - 1, end, -1), end


def without_last(rows: np.ndarray) -> np.ndarray:
    """The rows of a `Table` without its last step, and without what that one adds."""
    num = len(rows)
    return rows[:-1, np.r_[:num, num + 1 : 2 * num]]


def from_the_start(scheduler) -> None:
    """Tells a scheduler that the first call is at its first level.

    It would look for the first time in its list otherwise, and if that is there twice take the
    second.
    """
    scheduler.set_begin_index(0)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The largest, in units of the largest coefficient in its row."""
    assert one.shape == other.shape
    return float(np.max(np.abs(one - other) / np.abs(other).max(axis=1, keepdims=True)))
