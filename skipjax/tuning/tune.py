"""A plan made for a network: learned, and held against all fixed plans on noise it never saw."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import DTypeLike

from skipjax import evaluation, grids, labels, plans, request
from skipjax.checks import whole
from skipjax.denoisers import Denoise
from skipjax.generation import Guide, denoiser
from skipjax.labels import Label
from skipjax.plans import Plan
from skipjax.pretrained import Classifier, Pretrained
from skipjax.sampling import starting_noise
from skipjax.tuning import report
from skipjax.tuning.examples import (
    Denoiser,
    Examples,
    Features,
    drawn,
    pixels,
    rmse,
    squares,
)
from skipjax.tuning.fixed import with_more_calls
from skipjax.tuning.search import OnRound, Outcome, search
from skipjax.tuning.teacher import taught

# Folded into the key: pictures that `sample` draws with it begin in noise that was not learned.
TUNE = 2**32 - 3
ENOUGH = 32  # pictures, below which an energy distance says nothing


def tune(
    params: Pretrained,
    key: jax.Array,
    *,
    nfe: int,
    history: int | None = None,
    label: Label | Sequence[Label] | None = None,
    guidance: float | None = None,
    classifier: Classifier | None = None,
    guidance_interval: tuple[float, float] | None = None,
    teacher: Plan | str = "dpmpp_3m",
    teacher_nfe: int = 100,
    features: Features = pixels,
    num: int = 64,
    held_out: int = 64,
    starts: int = 2,
    rounds: int = 10,
    batch: int = 16,
    clip: bool = True,
    dtype: DTypeLike = jnp.float32,
    out: str | Path | None = None,
    on_round: OnRound | None = None,
) -> Plan:
    """Learns a plan of a given number of calls for a network.

    From the best of all fixed plans without noise it learns times, what is kept of x, and the
    weights of the last predictions, so that pictures come near those that the teacher draws of
    the same noise. On noise that nothing was chosen by, the plan must then beat the best fixed
    one by more than two standard errors; otherwise that one is returned, with a warning.

    Args:
        params: What `load` returned.
        key: From `jax.random.key`; noise and labels follow from it.
        nfe: Network calls of the plan, at least 2.
        history: K, predictions that a step looks at, 1 .. nfe; 4, unless told.
        label: As for `sample`: one for all, one for each of num + 2 held_out pictures, or drawn.
        guidance: Scale of guidance that the plan is learned for.
        classifier: What guides, if not the network's null label.
        guidance_interval: As for `sample`.
        teacher: What is trusted: a plan of more calls, or the name of one.
        teacher_nfe: Calls of a named teacher, on a grid even in log_snr.
        features: What pictures are compared in; the pixels, unless told.
        num: Pictures that are learned from.
        held_out: Pictures by which fixed plans, starts and rounds are chosen; and as many more
            that decide between the learned and the fixed plan.
        starts: From how many of the best fixed plans to learn.
        rounds: Of learning, at most.
        batch: Pictures computed at a time.
        clip: Whether predictions of x_0 are kept in [-1, 1], as `sample` does.
        dtype: What the network computes in, float32 or bfloat16.
        out: Folder for the plan, a report and the teacher's pictures; interrupted, a call with
            the same arguments draws none of these again.
        on_round: Told the name of the start, the number of rounds, and the error.

    Returns:
        The plan; `plan.origin.tuned` says for which network, how, and how well.

    Raises:
        ValueError: For an argument out of range, a teacher that is no better than what it is to
            teach, or an `out` that holds something else.
        TypeError: If `params`, `classifier` or `key` is of another kind.
        FloatingPointError: If the teacher's pictures, or those of all fixed plans, are not finite.
    """
    params, key, dtype = request.network(params), request.key(key), request.dtype(dtype)
    nfe = whole("nfe", nfe, 2, params.schedule.T)
    history = None if history is None else whole("history", history, 1, nfe)
    num, held_out = whole("num", num, 2), whole("held_out", held_out, 2)
    starts, rounds = whole("starts", starts, 1), whole("rounds", rounds, 1)
    if params.spec.unet.low_res_channels:
        raise ValueError(f"{params.spec.name} enlarges pictures: plans are tuned for others alone")
    trusted = _teacher(params, teacher, teacher_nfe, nfe)
    guide = request.guide(params.spec, trusted, guidance, classifier, guidance_interval)
    of: Denoiser = Partial(_denoiser(clip, dtype), params, guide)
    key = jax.random.fold_in(key, TUNE)
    examples = _examples(params, key, num + 2 * held_out, label, guide)
    batch = min(whole("batch", batch, 1), num)
    about = {
        "checkpoint": params.fingerprint,
        "name": params.spec.name,
        "guidance": None if guide is None else float(guide.scale),
        "guidance_interval": guidance_interval,
        "classifier": None if classifier is None else classifier.spec.name,
        "label": np.asarray(label).tolist() if label is not None else None,
        "clip": clip,
        "dtype": dtype.name,
        "teacher": f"{trusted.origin.method if trusted.origin else 'a plan'}, {trusted.nfe} calls",
        "features": getattr(features, "__name__", "features"),
        "num": num,
        "held_out": held_out,
    }
    out = None if out is None else Path(out)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    noise = {"key": jax.random.key_data(key).tolist(), "pictures": len(examples.x)}
    examples = taught(
        of,
        trusted,
        examples,
        features=features,
        batch=batch,
        keep=None if out is None else out / "teacher",
        about=about | noise,
    )
    places = np.split(np.arange(len(examples.x)), [num, num + held_out])
    train, decide, held = (examples.take(some) for some in places)
    _trust(of, trusted, teacher, params, decide.take(np.arange(min(batch, held_out))), features)
    outcome = search(
        of,
        params.schedule,
        nfe,
        train,
        decide,
        held,
        history=history,
        features=features,
        starts=starts,
        rounds=rounds,
        batch=batch,
        on_round=on_round,
    )
    plan = _signed(outcome, about | _figures(of, outcome, held, features))
    if out is not None:
        more = with_more_calls(params.schedule, outcome.fixed[0])
        errors = [float(rmse(squares(of, [p], held, features, batch))[0]) for p in more]
        curve = {p.nfe: error for p, error in zip(more, errors, strict=True)}
        report.write(out, plan, outcome, curve)
    if not outcome.won:
        warnings.warn(
            f"no learned plan of {nfe} calls is better than {outcome.fixed[0]} by two standard "
            "errors on held-out noise: that one is returned",
            stacklevel=2,
        )
    return plan


@lru_cache
def _denoiser(clip: bool, dtype: jnp.dtype) -> Callable[..., Denoise]:
    def of(params: Pretrained, guide: Guide | None, labels: jax.Array | None) -> Denoise:
        return denoiser(params, labels, guide=guide, clip=clip, dtype=dtype)

    return of


def _teacher(params: Pretrained, teacher: Plan | str, teacher_nfe: int, nfe: int) -> Plan:
    if isinstance(teacher, str):
        teacher = _named(params, teacher, whole("teacher_nfe", teacher_nfe, 2))
    teacher = request.plan(params, plan=teacher)
    if teacher.nfe <= nfe:
        raise ValueError(
            f"the teacher makes {teacher.nfe} calls, and a plan of {nfe} is to learn from it: it "
            "must make more"
        )
    if np.any(teacher.noise):
        raise ValueError(
            f"the teacher, {teacher}, adds noise: where it goes does not follow from where it "
            "begins; take one without"
        )
    return teacher


def _named(params: Pretrained, name: str, nfe: int) -> Plan:
    """The plan of a name nearest to `nfe` calls, on a grid even in log_snr."""
    if name not in plans.METHODS:
        raise ValueError(f"teacher is {name!r}: it must be one of {', '.join(plans.METHODS)}")
    method = plans.METHODS[name]
    num = max((nfe - method.more) // method.calls, method.fewest)
    return plans.write(name, params.schedule, grids.named("uniform_log_snr", params.schedule, num))


def _examples(
    params: Pretrained, key: jax.Array, num: int, label: Any, guide: Guide | None
) -> Examples:
    ids = np.arange(num)
    numbers = labels.resolve(request.labelled(params.spec, guide), key, ids, label)
    numbers = request.towards(params.spec, guide, numbers)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids.astype(np.uint32))
    return Examples(starting_noise(keys, params.shape), keys, numbers)


def _trust(
    of: Denoiser,
    trusted: Plan,
    teacher: Plan | str,
    params: Pretrained,
    some: Examples,
    features: Features,
) -> None:
    """Refuses a named teacher that another of half its calls is as far from as a rough plan is."""
    if not isinstance(teacher, str):
        return
    half = _named(params, teacher, trusted.nfe // 2)
    first = plans.write("ddim", params.schedule, grids.trailing(params.schedule.T, 5))
    doubt, rough = (
        float(rmse(np.square(np.asarray(drawn(of, p, some, features)) - some.target).ravel()))
        for p in (half, first)
    )
    if not doubt < rough:
        raise ValueError(
            f"the teacher cannot be trusted: at {half.nfe} calls instead of {trusted.nfe} it is "
            f"{doubt:.3g} from where it was, and DDIM of 5 calls {rough:.3g}; raise teacher_nfe"
        )


def _figures(of: Denoiser, outcome: Outcome, held: Examples, features: Features) -> dict[str, Any]:
    """What is known of the outcome from held-out noise, as JSON has it."""
    ours, theirs = outcome.errors
    mean, error = outcome.difference
    found = {
        "won": outcome.won,
        "held_out_rmse": {"tuned": ours, "fixed": theirs, "ratio": ours / theirs},
        "difference_of_squares": {"mean": mean, "standard_error": error},
        "best_fixed": outcome.fixed[0].origin.method if outcome.fixed[0].origin else None,
        "calls": outcome.calls,
        "seconds": round(outcome.seconds, 1),
    }
    half = len(held.x) // 2
    if half >= ENOUGH and np.ndim(held.target) == 4:
        # Of one half, drawn by the plan, to the teacher's of the other.
        mine, others = held.take(np.arange(half)), held.target[half:]
        pairs = {"tuned": outcome.learned, "fixed": outcome.fixed[0]}
        found["energy_distance_to_teacher"] = {
            name: evaluation.energy_distance(np.asarray(drawn(of, plan, mine, features)), others)
            for name, plan in pairs.items()
            if plan is not None
        }
    return found


def _signed(outcome: Outcome, tuned: dict[str, Any]) -> Plan:
    plan = outcome.plan
    assert plan.origin is not None
    return replace(plan, origin=replace(plan.origin, tuned=tuned))
