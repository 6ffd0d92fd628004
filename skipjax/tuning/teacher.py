"""What a plan of many calls makes of the examples: computed once, and kept."""

import hashlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from skipjax import grids, plans
from skipjax.checks import whole
from skipjax.files import pending
from skipjax.identity import claim
from skipjax.plans import Plan
from skipjax.schedules import Schedule
from skipjax.tuning.config import Objective
from skipjax.tuning.examples import Denoiser, Examples, draw, draw_path
from skipjax.tuning.loss import rmse

POINTS = 33  # of the teacher's path that are remembered, where they count


def resolve(objective: Objective, schedule: Schedule, nfe: int) -> Plan:
    """The plan that a plan of `nfe` calls is to learn from.

    Raises:
        ValueError: If it makes no more calls, or adds noise where each sample has a target.
    """
    teacher = objective.teacher
    if isinstance(teacher, str):
        many = whole("teacher_nfe", objective.teacher_nfe, 2)
        teacher = write_named(schedule, teacher, many)
    if teacher.nfe <= nfe:
        raise ValueError(
            f"the teacher makes {teacher.nfe} calls, and a plan of {nfe} is to learn from it: it "
            "must make more"
        )
    if np.any(teacher.noise) and not objective.by_law:
        raise ValueError(
            f"the teacher, {teacher}, adds noise: where it goes does not follow from where it "
            "begins; take one without, or the loss 'energy'"
        )
    return teacher


def write_named(schedule: Schedule, name: str, nfe: int) -> Plan:
    """The plan of a name nearest to `nfe` calls, on a grid even in log_snr."""
    if name not in plans.METHODS:
        raise ValueError(f"teacher is {name!r}: it must be one of {', '.join(plans.METHODS)}")
    method = plans.METHODS[name]
    num = max((nfe - method.more) // method.calls, method.fewest)
    return plans.write(name, schedule, grids.named("uniform_log_snr", schedule, num))


def check_trust(
    denoiser: Denoiser,
    schedule: Schedule,
    objective: Objective,
    teacher: Plan,
    some: Examples,
) -> None:
    """Refuses a named teacher that another of half its calls is as far from as a rough plan is.

    Raises:
        ValueError: If it is.
    """
    if not isinstance(objective.teacher, str):
        return
    half = write_named(schedule, objective.teacher, teacher.nfe // 2)
    rough = plans.write("ddim", schedule, grids.trailing(schedule.T, 5))
    ends = (np.asarray(draw(denoiser, plan, some)) for plan in (teacher, half, rough))
    end, by_half, by_rough = (values.reshape(len(some.x), -1) for values in ends)
    doubt, far = rmse(by_half, end), rmse(by_rough, end)
    if not doubt < far:
        raise ValueError(
            f"the teacher cannot be trusted: at {half.nfe} calls instead of {teacher.nfe} it is "
            f"{doubt:.3g} from where it was, and DDIM of 5 calls {far:.3g}; raise teacher_nfe"
        )


def teach(
    denoiser: Denoiser,
    teacher: Plan,
    examples: Examples,
    objective: Objective,
    *,
    batch: int = 256,
    keep: Path | None = None,
    identity: dict[str, Any] | None = None,
) -> Examples:
    """The examples, with features of the teacher's samples as their target.

    Args:
        denoiser: Of the network.
        teacher: The plan that is trusted.
        examples: Without targets.
        objective: Says in what features, and whether points of the teacher's path count too.
        batch: Samples at a time.
        keep: Folder to keep samples in, a file for each batch: what is there is not drawn again.
        identity: What the samples depend on, as JSON can say it.

    Raises:
        ValueError: If the folder holds samples of something else.
        FloatingPointError: If a sample is not finite.
    """
    points = POINTS if objective.path_weight else 0
    if keep is not None:
        table = hashlib.sha256(teacher.to_json().encode()).hexdigest()[:16]
        made = {"batch": batch, "points": points, "plan": table}
        claim(keep / "teacher.json", (identity or {}) | made)
    rows = np.unique(np.linspace(0, teacher.nfe - 2, points).round().astype(int))
    found = []
    for i, part in enumerate(examples.batches(batch)):
        file = None if keep is None else keep / f"{i:05d}.npz"
        if file is not None and file.exists():
            with np.load(file) as kept:
                found.append((kept["end"], kept["way"]))
            continue
        end, path = map(np.asarray, draw_path(denoiser, teacher, part, rows))
        if not np.isfinite(end).all():
            raise FloatingPointError(f"the teacher, {teacher}, draws samples that are not finite")
        if file is not None:
            with pending(file) as temporary, temporary.open("wb") as opened:
                np.savez(opened, end=end, way=path)
        found.append((end, path))
    end, path = (np.concatenate(parts)[: len(examples.x)] for parts in zip(*found, strict=True))
    examples = examples._replace(target=np.asarray(objective.features(jnp.asarray(end))))
    if not points:
        return examples
    log_snr = np.log(teacher.alpha / teacher.sigma)[rows + 1].astype(path.dtype)
    return examples._replace(path=(np.tile(log_snr, (len(path), 1)), path))
