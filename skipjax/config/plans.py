"""Which plan is asked for, and whether the model can serve it."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from skipjax import grids, plans
from skipjax.checks import whole
from skipjax.config.arguments import is_numeric
from skipjax.config.sample_config import SampleConfig
from skipjax.plans import Plan
from skipjax.plans.schedulers import Scheduler
from skipjax.pretrained import Pretrained
from skipjax.process import called
from skipjax.weights import shipped

SKIP, CUTOFF, FEW_CALLS = 20, 0, "dpmpp_2m"


def choose(model: Pretrained, config: SampleConfig) -> Plan:
    """The sampler that is asked for in one of five ways: skip and cutoff, steps, nfe, the name of
    a plan, or a plan. Where none is, or steps as a number alone, the checkpoint's own if it has
    one.

    Raises:
        ValueError: For what is out of range, or given beside what replaces it.
        TypeError: If `plan` is of another kind.
    """
    if (own := own_scheduler(model, config)) is not None:
        steps = int(config.steps) if isinstance(config.steps, str) else config.steps
        return fit(model, own.plan(model.schedule, steps))
    plan = read_plan(config.plan) if isinstance(config.plan, str) else config.plan
    if config.nfe is not None:
        return fit(model, _with_nfe(model, config, plan))
    if isinstance(plan, str):
        _alone(config, f"plan is {plan!r}", "cutoff", "variance")
        options = {} if config.eta is None else {"eta": _eta(config.eta, plan)}
        times = _times(model, config)
        return fit(model, plans.write(plan, model.schedule, times, **options))
    if config.grid is not None:
        raise ValueError(f"grid is {config.grid!r}: it goes with the name of a plan, and steps")
    if plan is not None:
        _alone(config, "plan is given", "skip", "cutoff", "steps", "variance", "eta")
        return fit(model, plan)
    variance = config.variance or model.process.variance
    if config.eta is not None:
        _alone(config, "eta is given", "cutoff", "variance")
        eta = _eta(config.eta, "ddim")
        return fit(model, plans.ddim(model.schedule, _times(model, config), eta=eta))
    if config.steps is not None:
        _alone(config, "steps is given", "skip", "cutoff")
        return fit(model, plans.respaced(model.schedule, _respacing(config.steps), variance))
    asked = config.skip, config.cutoff, config.variance
    if _goes_at_once(model) and asked == (None, None, None):
        return fit(model, _few_calls(model, 1))
    skip = SKIP if config.skip is None else config.skip
    cutoff = CUTOFF if config.cutoff is None else config.cutoff
    return fit(model, plans.skipped(model.schedule, skip, cutoff, variance))


def own_scheduler(model: Pretrained, config: SampleConfig) -> Scheduler | None:
    """The model's own sampler, where it has one and no other is asked for."""
    others = (config.plan, config.nfe, config.skip, config.cutoff, config.eta, config.variance)
    if any(other is not None for other in (*others, config.grid)):
        return None
    respaced = isinstance(config.steps, str) and not config.steps.isdecimal()
    return None if respaced else model.scheduler


def read_plan(text: str) -> Plan | str:
    """The plan that `Plan.to_json` wrote, as its text or in a .json; any other text is the name of
    one.

    Raises:
        ValueError: If a .json holds none.
    """
    if text.lstrip().startswith("{"):
        return Plan.from_json(text)
    if not text.endswith(".json"):
        return text
    try:
        return Plan.from_json(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"plan: {text} holds none ({error})") from None


def fit(model: Pretrained, plan: Any) -> Plan:
    """The plan, if it was written for the model's schedule, and the network can serve it.

    Raises:
        TypeError: If it is no plan.
        ValueError: If it does not fit.
    """
    process = model.process
    if not isinstance(plan, Plan):
        raise TypeError(
            f"plan is a {type(plan).__name__}: give a Plan, as skipjax.plans.ddim(...) is one, or "
            "the name of one"
        )
    if not plan.belongs(model.schedule):
        raise ValueError(
            f"the plan was written for another schedule than {model.name}'s "
            f"({called(model.schedule)}): write it with params.schedule"
        )
    tuned = plan.origin.tuned if plan.origin else None
    if tuned is not None and tuned.get("checkpoint") != model.fingerprint:
        warnings.warn(
            f"the plan was tuned for {tuned.get('name')}, and these are other weights, "
            f"{model.name}: it may be worse here than a fixed one",
            stacklevel=5,
        )
    if plan.log_variance is not None and not _says_variance(model):
        raise ValueError(
            f"the plan asks for a learned variance, and {model.name} predicts none: take variance "
            "'small' or 'large'"
        )
    if not process.row.x_0_anywhere and np.any(np.asarray(plan.alpha) == 0):
        raise ValueError(
            f"the plan calls the network where x is noise alone (zero SNR), and {model.name} "
            f"predicts {process.parameterization}, which says nothing of x_0 there: give a plan "
            f"that starts at time {model.schedule.T - 2} or below; or a Process with "
            "parameterization 'v', 'x_0' or 'velocity', if that is what it was trained for"
        )
    return plan


def _says_variance(model: Pretrained) -> bool:
    """Whether the network has channels for a variance, as far as its config says."""
    channels = getattr(model.network, "out_channels", None)
    return model.process.learns_variance if channels is None else channels == 2 * model.shape[-1]


def _with_nfe(model: Pretrained, config: SampleConfig, plan: Plan | str | None) -> Plan:
    assert config.nfe is not None
    nfe = whole("nfe", config.nfe, 1)
    _alone(config, "nfe is given", "skip", "steps", "cutoff", "eta")
    if isinstance(plan, Plan):
        if plan.nfe != nfe:
            raise ValueError(f"nfe is {nfe}, and the plan makes {plan.nfe} calls: drop one")
        return plan
    path = shipped.plans(model).get(nfe) if plan is None else None
    if path is not None:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    if plan is None and config.grid is None:
        return _few_calls(model, nfe)
    return plans.with_nfe(plan or FEW_CALLS, model.schedule, nfe, config.grid or "trailing")


def _few_calls(model: Pretrained, nfe: int) -> Plan:
    """What to do in so many calls, where nothing else is said."""
    if not _goes_at_once(model):
        return plans.with_nfe(FEW_CALLS, model.schedule, nfe)
    times = grids.karras(model.schedule, nfe + 1)
    return plans.consistency(model.schedule, times[:-1])


def _goes_at_once(model: Pretrained) -> bool:
    """Whether a network takes x to the data in one call."""
    return model.process.parameterization == "consistency"


def _times(model: Pretrained, config: SampleConfig) -> np.ndarray:
    """The grid of a plan that is named: by skip, by a number of steps, or by ADM's strings."""
    T = model.schedule.T
    if config.steps is None:
        if config.grid is not None:
            raise ValueError(
                f"grid is {config.grid!r}: say in steps how many times it should have"
            )
        return grids.skipped(T, SKIP if config.skip is None else config.skip)
    _alone(config, "steps is given", "skip")
    steps = _respacing(config.steps)
    if steps.isdecimal():
        return grids.named(config.grid or "trailing", model.schedule, int(steps))
    if config.grid is not None:
        raise ValueError(f"steps is {steps!r}: with a grid it must be a whole number of times")
    return grids.respaced(T, steps)


def _respacing(steps: Any) -> str:
    """steps as one of ADM's strings."""
    if isinstance(steps, str):
        return steps
    try:
        return str(whole("steps", steps, 1))
    except ValueError:
        raise ValueError(
            f"steps is {steps!r}: it must be a whole number from 1 on, or a string of ADM's such "
            "as 'ddim25'"
        ) from None


def _eta(eta: Any, plan: str) -> float:
    if plan != "ddim":
        raise ValueError(f"eta is {eta}, and plan is {plan!r}: eta is DDIM's")
    if not is_numeric(eta, ()) or not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta!r}: it must be in 0 .. 1")
    return float(eta)


def _alone(config: SampleConfig, what: str, *others: str) -> None:
    """Refuses what is given beside something that replaces it."""
    given = [name for name in others if getattr(config, name) is not None]
    if given:
        raise ValueError(f"{what}, and {' and '.join(given)} too, which it replaces: drop one")
