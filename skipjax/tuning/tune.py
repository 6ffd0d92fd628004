"""A plan made for a network: learned, and held against all fixed plans on noise it never saw."""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from skipjax import placement, request
from skipjax.checks import whole
from skipjax.labels import Label
from skipjax.plans import Plan
from skipjax.pretrained import Classifier, Pretrained
from skipjax.sampling import starting_noise
from skipjax.tuning import report
from skipjax.tuning.examples import Features, pixels
from skipjax.tuning.fixed import scores
from skipjax.tuning.loss import LOSSES
from skipjax.tuning.search import OnRound, search
from skipjax.tuning.setting import setting
from skipjax.tuning.teacher import taught, trust
from skipjax.tuning.teacher import teacher as trusted_plan

# Folded into the key: pictures that `sample` draws with it begin in noise that was not learned.
TUNE = 2**32 - 3
OTHERS = 2**32 - 4  # of the pictures that stand for the teacher's law
POINTS = 33  # of the teacher's way
LEAST = 4  # pictures that all fixed plans are tried on


def tune(
    params: Pretrained,
    key: jax.Array,
    *,
    nfe: int,
    history: int | None = None,
    label: Label | Sequence[Label] | None = None,
    guidance: float | tuple[float, float] | None = None,
    classifier: Classifier | None = None,
    guidance_interval: tuple[float, float] | None = None,
    teacher: Plan | str = "dpmpp_3m",
    teacher_nfe: int = 100,
    loss: Literal["path", "energy"] = "path",
    pictures: ArrayLike | None = None,
    noise: bool | None = None,
    whole_times: bool = False,
    features: Features = pixels,
    way: float = 0.0,
    num: int = 64,
    held_out: int = 64,
    start: Plan | Sequence[Plan | str] = (),
    generations: int = 0,
    starts: int = 2,
    rounds: int = 20,
    batch: int = 16,
    clip: bool = True,
    dtype: DTypeLike = jnp.float32,
    out: str | Path | None = None,
    on_round: OnRound | None = None,
) -> Plan:
    """Learns a plan of a given number of calls for a network.

    From the best of all fixed plans it learns times, what is kept of x, the weights of the last
    predictions, and with the loss "energy" the noise of each step. On noise that nothing was
    chosen by, the plan must then beat the best fixed one by more than two standard errors;
    otherwise that one is returned, with a warning.

    Args:
        params: What `load` returned. Where its weights lie on a mesh, pictures are spread over it.
        key: From `jax.random.key`; noise and labels follow from it.
        nfe: Network calls of the plan, at least 2.
        history: K, predictions that a step looks at, 1 .. nfe; 4, unless told.
        label: As for `sample`: one for all, one for each of num + 2 held_out pictures, or drawn.
        guidance: Scale of guidance that the plan is learned for; or the least and the greatest of
            a range, from which each picture has its own.
        classifier: What guides, if not the network's null label.
        guidance_interval: As for `sample`.
        teacher: What is trusted: a plan of more calls, or the name of one. With the loss "energy"
            it may add noise.
        teacher_nfe: Calls of a named teacher, on a grid even in log_snr.
        loss: What is made small: "path", root mean square of the distance to where the teacher
            goes from the same noise; or "energy", the energy distance between the law of the
            plan's pictures and that of others. Plans with noise, and hybrids of all cutoffs, are
            then among the fixed ones.
        pictures: Those others, float [num + 2 held_out, H, W, C] in [-1, 1], in an order that
            says nothing, and their labels as `label`; the teacher's from other noise, unless told.
        noise: Whether to learn the noise of each step; as the loss is "energy", unless told.
        whole_times: Whether all times stay whole numbers, for a network that knows no others.
        features: What pictures are compared in; the pixels, unless told.
        way: Weight of the points on the way to where the teacher goes; 0 is the end alone.
        num: Pictures that are learned from.
        held_out: Pictures by which fixed plans, starts and rounds are chosen; and as many more
            that decide between the learned and the fixed plan.
        start: A plan of `nfe` calls that was made for this network, or several, from which to go
            on too: learned before, or of `plans.dpm_v3`.
        generations: Of evolution, before learning, among plans whose solver and order differ from
            step to step.
        starts: From how many plans to learn: the best that evolved, the best of `start`, the best
            fixed one, the second best of each, and so on.
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
    generations = whole("generations", generations, 0)
    if loss not in LOSSES:
        raise ValueError(f"loss is {loss!r}: it must be one of {', '.join(LOSSES)}")
    by_law = loss == "energy"
    noise = by_law if noise is None else noise
    if not by_law and (noise or pictures is not None):
        what = "noise is to be learned" if noise else "pictures are given"
        raise ValueError(
            f"{what}, which takes the loss 'energy': by path each picture has its own"
        )
    if by_law and way:
        raise ValueError(f"way is {way}, and the loss compares laws: it goes with the loss 'path'")
    if params.spec.unet.low_res_channels:
        raise ValueError(f"{params.spec.name} enlarges pictures: plans are tuned for others alone")
    more = [start] if isinstance(start, Plan) else list(start)
    more = [request.plan(params, plan=plan) for plan in more]
    for plan in more:
        if plan.nfe != nfe:
            raise ValueError(f"start holds {plan}: it must make {nfe} calls, as the plan to learn")
    total = num + 2 * held_out
    trusted = trusted_plan(params, teacher, teacher_nfe, nfe, noisy=by_law)
    key = jax.random.fold_in(key, TUNE)
    of, examples, over, about = setting(
        params,
        key,
        total,
        trusted,
        label=label,
        guidance=guidance,
        classifier=classifier,
        guidance_interval=guidance_interval,
        clip=clip,
        dtype=dtype,
    )
    batch = placement.filled(min(whole("batch", batch, 1), num), over)
    about |= {
        "teacher": f"{trusted.origin.method if trusted.origin else 'a plan'}, {trusted.nfe} calls",
        "features": getattr(features, "__name__", "features"),
        "num": num,
        "held_out": held_out,
    }
    out = None if out is None else Path(out)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    if pictures is None:
        lesson = examples
        if by_law:  # other noise, or a picture would be drawn to its own target
            keys = jax.vmap(jax.random.fold_in, (0, None))(examples.keys, np.uint32(OTHERS))
            lesson = examples._replace(x=starting_noise(keys, params.shape), keys=keys)
        labelled = None if examples.labels is None else np.asarray(examples.labels).tolist()
        drawn = {"key": jax.random.key_data(key).tolist(), "labels": labelled, "loss": loss}
        lesson = taught(
            of,
            trusted,
            lesson,
            features=features,
            points=POINTS if way else 0,
            batch=batch,
            keep=None if out is None else out / "teacher",
            about=about | drawn,
        )
        examples = examples._replace(target=lesson.target, path=lesson.path)
    else:
        real = _pictures(pictures, (total, *params.shape))
        examples = examples._replace(target=np.asarray(features(jnp.asarray(real))))
        about["teacher"] = "pictures"
    places = np.split(np.arange(total), [num, num + held_out])
    train, decide, held = (examples.take(some) for some in places)
    decide, held = decide._replace(path=None), held._replace(path=None)
    if isinstance(teacher, str) and not np.any(trusted.noise) and pictures is None:
        trust(of, params, teacher, trusted, decide.take(np.arange(min(batch, held_out))))
    outcome = search(
        of,
        params.schedule,
        nfe,
        train,
        decide,
        held,
        history=history,
        loss=LOSSES[loss],
        noise=noise,
        whole_times=whole_times,
        features=features,
        way=way,
        more=more,
        generations=generations,
        starts=starts,
        rounds=rounds,
        least=LEAST,
        batch=batch,
        on_round=on_round,
    )
    how = {"loss": loss, "noise": noise, "whole_times": whole_times, "way": way}
    plan = report.signed(outcome, about | how, held.target)
    if out is not None:
        score = partial(scores, of, features=features, loss=LOSSES[loss], batch=batch)
        report.write(out, plan, outcome, report.curve(score, params.schedule, outcome, held))
    if not outcome.won:
        warnings.warn(
            f"no learned plan of {nfe} calls is better than {outcome.fixed[0]} by two standard "
            "errors on held-out noise: that one is returned",
            stacklevel=2,
        )
    return plan


def _pictures(pictures: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    real = np.asarray(pictures)
    if real.shape != shape or not np.issubdtype(real.dtype, np.floating):
        raise ValueError(
            f"pictures are {real.dtype} of shape {real.shape}: expected floats of shape {shape}, "
            "num + 2 held_out of them"
        )
    return real
