"""A plan made for a network: learned, and held against all baselines on noise it never saw."""

import warnings
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from skipjax.plans import Plan
from skipjax.tuning import report, teacher
from skipjax.tuning.baselines import Score
from skipjax.tuning.config import Objective, TuneConfig, check
from skipjax.tuning.examples import Examples
from skipjax.tuning.problem import Prepared, Problem
from skipjax.tuning.search import OnRound, search


def tune(
    problem: Problem,
    objective: Objective | None = None,
    config: TuneConfig | None = None,
    *,
    out: str | Path | None = None,
    on_round: OnRound | None = None,
) -> Plan:
    """Learns a plan of a given number of calls for a network.

    From the best of all baselines it learns times, what is kept of x, the weights of the last
    predictions, and with the loss "energy" the noise of each step. On noise that nothing was
    chosen by, the plan must then beat the best baseline by more than two standard errors;
    otherwise that one is returned, with a warning.

    Args:
        problem: What is to be drawn: the model, its key, labels and guidance, how many samples.
        objective: What is made small; default: `Objective()`, the distance to the teacher's end.
        config: How; default: `TuneConfig()`, a plan of 8 calls.
        out: Folder for the plan, a report and the teacher's samples; interrupted, a call with
            the same arguments draws none of these again.
        on_round: Told the name of the start, the number of iterations, and the error.

    Returns:
        The plan; `plan.origin.tuned` says for which network, how, and how well.

    Raises:
        ValueError: For an argument out of range, a teacher that is no better than what it is to
            teach, or an `out` that holds something else.
        TypeError: If the problem, its model, classifier or key is of another kind.
        FloatingPointError: If the teacher's samples, or those of all baselines, are not finite.
    """
    objective, config = objective or Objective(), config or TuneConfig()
    if not isinstance(problem, Problem):
        raise TypeError(
            f"problem is a {type(problem).__name__}: pass skipjax.tuning.Problem(model, key)"
        )
    problem.check()
    check(objective, config)
    config = replace(config, start=[problem.admit(plan) for plan in config.plans])
    trusted = problem.admit(teacher.resolve(objective, problem.schedule, config.nfe))
    prepared = problem.prepare(trusted)
    config = replace(config, batch=prepared.fill(min(config.batch, problem.num)))
    about = prepared.about | {
        "teacher": f"{trusted.origin.method if trusted.origin else 'a plan'}, {trusted.nfe} calls",
        "features": getattr(objective.features, "__name__", "features"),
        "num": problem.num,
        "held_out": problem.held_out,
    }
    out = None if out is None else Path(out)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    if objective.pictures is None:
        keep = None if out is None else out / "teacher"
        examples = _taught(prepared, trusted, objective, config.batch, keep, about)
    else:
        real = _floats(objective.pictures, (problem.total, *problem.shape))
        examples = prepared.examples._replace(target=np.asarray(objective.features(real)))
        about["teacher"] = "pictures"
    sets = np.split(np.arange(problem.total), [problem.num, problem.num + problem.held_out])
    train, decide, held = (examples.take(some) for some in sets)
    decide, held = decide._replace(path=None), held._replace(path=None)
    if objective.pictures is None and not np.any(trusted.noise):
        some = decide.take(np.arange(min(config.batch, problem.held_out)))
        teacher.check_trust(prepared.denoiser, problem.schedule, objective, trusted, some)
    outcome = search(
        prepared.denoiser,
        problem.schedule,
        train,
        decide,
        held,
        objective,
        config,
        on_round=on_round,
    )
    about |= {
        "loss": objective.loss,
        "noise": config.learns_noise(objective),
        "whole_times": config.whole_times,
        "path_weight": objective.path_weight,
    }
    plan = report.sign(outcome, about, held.target)
    if out is not None:
        score = Score(prepared.denoiser, held, objective, config.batch)
        report.write(out, plan, outcome, report.curve(score, problem.schedule, outcome))
    if not outcome.won:
        warnings.warn(
            f"no learned plan of {config.nfe} calls is better than {outcome.fixed[0]} by two "
            "standard errors on held-out noise: that one is returned",
            stacklevel=2,
        )
    return plan


def _taught(
    prepared: Prepared,
    trusted: Plan,
    objective: Objective,
    batch: int,
    keep: Path | None,
    about: dict,
) -> Examples:
    """The examples, with what the teacher makes of their noise as targets, or of other noise."""
    examples = prepared.examples
    if objective.by_law:  # or a sample would be drawn to its own target
        examples = prepared.with_other_noise()
    examples = teacher.teach(
        prepared.denoiser,
        trusted,
        examples,
        objective,
        batch=batch,
        keep=keep,
        identity=about | prepared.identity | {"loss": objective.loss},
    )
    return prepared.examples._replace(target=examples.target, path=examples.path)


def _floats(pictures, shape: tuple[int, ...]):
    real = np.asarray(pictures)
    if real.shape != shape or not np.issubdtype(real.dtype, np.floating):
        raise ValueError(
            f"pictures are {real.dtype} of shape {real.shape}: expected floats of shape {shape}, "
            "num + 2 held_out of them"
        )
    return jnp.asarray(real)
