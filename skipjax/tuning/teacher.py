"""What a plan of many calls makes of the examples: computed once, and kept."""

import hashlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from skipjax import grids, plans, request
from skipjax.checks import whole
from skipjax.claims import claim
from skipjax.files import pending
from skipjax.plans import Plan
from skipjax.pretrained import Pretrained
from skipjax.tuning.examples import Denoiser, Examples, Features, drawn, pixels, travelled
from skipjax.tuning.loss import rmse


def teacher(
    params: Pretrained, asked: Plan | str, teacher_nfe: int, nfe: int, noisy: bool = False
) -> Plan:
    """The plan that a plan of `nfe` calls is to learn from.

    Args:
        params: The network.
        asked: The plan, or its name.
        teacher_nfe: Calls of a named one.
        nfe: Of the plan that learns.
        noisy: Whether it may add noise.

    Raises:
        ValueError: If it makes no more calls, or adds noise and may not.
    """
    if isinstance(asked, str):
        asked = named(params, asked, whole("teacher_nfe", teacher_nfe, 2))
    asked = request.plan(params, plan=asked)
    if asked.nfe <= nfe:
        raise ValueError(
            f"the teacher makes {asked.nfe} calls, and a plan of {nfe} is to learn from it: it "
            "must make more"
        )
    if np.any(asked.noise) and not noisy:
        raise ValueError(
            f"the teacher, {asked}, adds noise: where it goes does not follow from where it "
            "begins; take one without, or the loss 'energy'"
        )
    return asked


def named(params: Pretrained, name: str, nfe: int) -> Plan:
    """The plan of a name nearest to `nfe` calls, on a grid even in log_snr."""
    if name not in plans.METHODS:
        raise ValueError(f"teacher is {name!r}: it must be one of {', '.join(plans.METHODS)}")
    method = plans.METHODS[name]
    num = max((nfe - method.more) // method.calls, method.fewest)
    return plans.write(name, params.schedule, grids.named("uniform_log_snr", params.schedule, num))


def trust(
    denoiser: Denoiser, params: Pretrained, name: str, trusted: Plan, some: Examples
) -> None:
    """Refuses a named teacher that another of half its calls is as far from as a rough plan is.

    Raises:
        ValueError: If it is.
    """
    half = named(params, name, trusted.nfe // 2)
    first = plans.write("ddim", params.schedule, grids.trailing(params.schedule.T, 5))
    whole, half_way, rough = (
        np.asarray(drawn(denoiser, plan, some)).reshape(len(some.x), -1)
        for plan in (trusted, half, first)
    )
    doubt, far = rmse(half_way, whole), rmse(rough, whole)
    if not doubt < far:
        raise ValueError(
            f"the teacher cannot be trusted: at {half.nfe} calls instead of {trusted.nfe} it is "
            f"{doubt:.3g} from where it was, and DDIM of 5 calls {far:.3g}; raise teacher_nfe"
        )


def taught(
    denoiser: Denoiser,
    teacher: Plan,
    examples: Examples,
    *,
    features: Features = pixels,
    points: int = 0,
    batch: int = 256,
    keep: Path | None = None,
    about: dict | None = None,
) -> Examples:
    """The examples, with features of the teacher's pictures as their target.

    Args:
        denoiser: Of the network.
        teacher: The plan that is trusted.
        examples: Without targets.
        features: What pictures are compared in.
        points: How many points of its way to remember too, evenly among its calls; none, if 0.
        batch: Pictures at a time.
        keep: Folder to keep pictures in, a file for each batch: what is there is not drawn again.
        about: What the pictures depend on, as JSON can say it.

    Raises:
        ValueError: If the folder holds pictures of something else.
        FloatingPointError: If a picture is not finite.
    """
    if keep is not None:
        table = hashlib.sha256(teacher.to_json().encode()).hexdigest()[:16]
        claim(
            keep / "teacher.json",
            (about or {}) | {"batch": batch, "points": points, "plan": table},
        )
    rows = np.unique(np.linspace(0, teacher.nfe - 2, points).round().astype(int))
    found = []
    for i, part in enumerate(examples.batches(batch)):
        path = None if keep is None else keep / f"{i:05d}.npz"
        if path is not None and path.exists():
            with np.load(path) as kept:
                found.append((kept["end"], kept["way"]))
            continue
        end, way = map(np.asarray, travelled(denoiser, teacher, part, rows))
        if not np.isfinite(end).all():
            raise FloatingPointError(f"the teacher, {teacher}, draws pictures that are not finite")
        if path is not None:
            with pending(path) as temporary, temporary.open("wb") as file:
                np.savez(file, end=end, way=way)
        found.append((end, way))
    end, way = (np.concatenate(parts)[: len(examples.x)] for parts in zip(*found, strict=True))
    examples = examples._replace(target=np.asarray(features(jnp.asarray(end))))
    if not points:
        return examples
    log_snr = np.log(teacher.alpha / teacher.sigma)[rows + 1].astype(way.dtype)
    return examples._replace(path=(np.tile(log_snr, (len(way), 1)), way))
