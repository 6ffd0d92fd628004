"""Sampling as pure functions of a model and arrays: a denoiser, what is diffused, and samples."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from skipjax import denoisers, sampling
from skipjax import guidance as guide
from skipjax.conditioners import Condition
from skipjax.denoisers import Clip, Denoise, Point, Threshold, Transform
from skipjax.guidance import Autoguidance, ByClassifier, ClassifierFree, Guidance
from skipjax.plans import Plan
from skipjax.pretrained import Pretrained

# Folded into the key of a network that enlarges pictures: one key then serves a whole cascade, the
# labels that it draws are the same at each stage, and the noise is not.
ENLARGE = 2**32 - 1

Guides = Guidance | Sequence[Guidance] | None


def generate(
    model: Pretrained,
    plan: Plan,
    key: jax.Array,
    ids: jax.Array,
    condition: Condition | None = None,
    *,
    null: Condition | None = None,
    guidance: Guides = None,
    transform: Transform | None = None,
    shape: tuple[int, ...] | None = None,
    start: tuple[jax.Array, int] | None = None,
    dtype: DTypeLike = jnp.float32,
    between: sampling.Between | None = None,
    callback: sampling.Callback | None = None,
    trajectory: bool = False,
    on_step: Callable[[jax.Array], None] | None = None,
) -> jax.Array:
    """Draws what is diffused: one program, to be used under `jit`, `vmap`, `grad`, or with arrays
    that are sharded over a mesh. It is compiled once for all plans of one shape.

    Args:
        model: What `load` returned.
        plan: The sampler.
        key: Scalar key of the run; a sample's own is fold_in(key, id).
        ids: Ids of the samples, uint32 [B].
        condition: What the network is told, leaves [B, ...]; None if it is told nothing.
        null: What stands for no condition, of the same structure; default: what the conditioner
            says, where guidance needs it.
        guidance: How to guide, or several ways at once; default: not at all.
        transform: What changes predictions before a classifier guides: `denoisers.Clip`,
            `denoisers.Threshold` or a function; default: clipping to `process.bounds`, where there
            are any. `denoisers.unchanged` leaves them as they are.
        shape: Of one sample of what is diffused; default: `network.shape`.
        start: (z [B, *shape], row): begins at a row of the plan with z as the point there, instead
            of with noise at the first.
        dtype: What the networks compute in.
        between: Changes x before each call: `sampling.integrate`.
        callback: Told i, x_i and the prediction of each row, on the host.
        trajectory: Whether to return the predictions of x_0 at each row instead.
        on_step: Told the index of each row of the plan when it is done.

    Returns:
        float32 [B, *shape]; with `trajectory` [N, B, *shape].

    Raises:
        TypeError: If `plan` is no plan.
        ValueError: For guidance that the model cannot serve, or a start that does not fit.
    """
    if transform is None:
        transform = denoisers.keep_within(model.process.bounds)
    if not isinstance(transform, (Clip, Threshold, jax.tree_util.Partial)):
        transform = jax.tree_util.Partial(transform)
    ways = tuple(w.core if isinstance(w, Autoguidance) else w for w in _several(model, guidance))
    if null is None and any(isinstance(way, ClassifierFree) for way in ways):
        null = null_of(model, condition)
    if not isinstance(plan, Plan):
        raise TypeError(
            f"plan is a {type(plan).__name__}: give a Plan, such as skipjax.plans.ddim(...); "
            "skipjax.sample takes names"
        )
    shape = model.shape if shape is None else tuple(shape)
    z, row = (None, 0) if start is None else start
    if z is not None and jnp.shape(z) != (len(ids), *shape):
        raise ValueError(
            f"start is {jnp.shape(z)} for {len(ids)} ids: it must be {(len(ids), *shape)}, "
            "what is diffused at that row"
        )
    return program(
        model.core,
        plan,
        key,
        ids,
        condition,
        null,
        ways,
        transform,
        z,
        shape=shape,
        row=row,
        dtype=jnp.dtype(dtype),
        between=between,
        callback=callback,
        trajectory=trajectory,
        on_step=on_step,
    )


@partial(
    jax.jit,
    static_argnames=("shape", "row", "dtype", "between", "callback", "trajectory", "on_step"),
)
def program(
    model: Pretrained,
    plan: Plan,
    key: jax.Array,
    ids: jax.Array,
    condition: Condition | None,
    null: Condition | None,
    ways: tuple[Guidance, ...],
    transform: Transform,
    z: jax.Array | None,
    *,
    shape: tuple[int, ...],
    row: int = 0,
    dtype: DTypeLike = jnp.float32,
    between: sampling.Between | None = None,
    callback: sampling.Callback | None = None,
    trajectory: bool = False,
    on_step: Callable[[jax.Array], None] | None = None,
) -> jax.Array:
    """What `generate` runs, with every default filled in: to be lowered and compiled ahead of
    time. Arguments are those of `generate`, a start's z and row apart.
    """
    keys = keys_of(key, ids, condition)
    if z is None:
        z = prior(model, plan, keys, shape)
    denoise = denoiser(
        model, condition, null=null, guidance=ways, transform=transform, dtype=dtype
    )
    if trajectory:
        return sampling.run(
            plan,
            denoise,
            z,
            keys,
            between=between,
            first=row,
            on_row=lambda step: step.prediction.x_0,
        )[1]
    return sampling.integrate(
        plan, denoise, z, keys, between=between, callback=callback, on_step=on_step, first=row
    )


def keys_of(key: jax.Array, ids: jax.Array, condition: Condition | None) -> jax.Array:
    """Keys of the samples `ids`, [B]."""
    if condition is not None and "low_res" in condition:
        key = jax.random.fold_in(key, ENLARGE)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, ids)


def prior(model: Pretrained, plan: Plan, keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What a plan starts the samples of `keys` [B] from: N(0, std^2 I), float32 [B, *shape], where
    std is `plan.prior_std`, or the process's at the plan's first point.
    """
    noise = sampling.starting_noise(keys, shape)
    std = plan.prior_std
    if std is None:
        std = model.process.prior_std(Point(plan.t[0], plan.alpha[0], plan.sigma[0]))
    return noise if isinstance(std, float) and std == 1 else jnp.asarray(std, jnp.float32) * noise


def denoiser(
    model: Pretrained,
    condition: Condition | None = None,
    *,
    null: Condition | None = None,
    guidance: Guides = None,
    transform: Transform | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Denoise:
    """The denoiser of a model, for a batch of a condition.

    Args:
        model: What `load` returned.
        condition: What the network is told, leaves [B, ...]; None if it is told nothing.
        null: What stands for no condition; default: what the conditioner says.
        guidance: How to guide, or several ways at once; default: not at all.
        transform: What changes predictions before a classifier guides; default: clipping to
            `process.bounds`, where there are any.
        dtype: What the networks compute in.

    Raises:
        ValueError: If guidance without a classifier has nothing that stands for no condition, or
            is asked for twice; or a classifier has no label to guide towards.
    """
    process, ways = model.process, _several(model, guidance)
    of = partial(_alone, model, dtype)
    free = [way for way in ways if isinstance(way, ClassifierFree)]
    if len(free) > 1:
        raise ValueError(f"guidance holds {len(free)} of ClassifierFree: give one")
    denoise = of(condition)
    for way in free:
        null = null_of(model, condition) if null is None else null
        if condition is None:
            raise ValueError("guidance is given, and no condition to guide towards")
        channels = way.channels
        if channels is None:
            channels = getattr(model.network, "guided_channels", None)
        denoise = guide.classifier_free(
            of,
            condition,
            null,
            way.scale,
            way.interval,
            rescale=way.rescale,
            channels=channels,
            row=process.row,
        )
    for way in ways:
        if isinstance(way, Autoguidance):
            told = {key: (condition or {})[key] for key in way.told_of(condition or {})}
            other = _alone(way.model, dtype, told)
            denoise = guide.autoguided(denoise, other, way.scale, way.interval)
    denoise = (transform or denoisers.keep_within(process.bounds))(denoise)
    for way in ways:
        if isinstance(way, ByClassifier):
            log_prob = way.log_prob(condition, dtype)
            denoise = guide.classifier(denoise, log_prob, way.scale, way.interval)
    return denoise


def _alone(model: Pretrained, dtype: DTypeLike, condition: Condition | None) -> Denoise:
    """The denoiser of a model that nothing guides or changes."""
    told, process = None, model.process
    if condition is not None:
        told = {k: v for k, v in condition.items() if k != guide.CLASS} or None

    def network(x: jax.Array, point: Point) -> jax.Array:
        x, t = process.tell(x, point)
        return model.network.apply(model.params, x, t, told, dtype=jnp.dtype(dtype))

    return denoisers.of(process.row, network)


def decode(model: Pretrained, z: jax.Array) -> jax.Array:
    """Samples, [B, ...], of what is diffused, z [B, *shape], by the codec: a program apart."""
    return model.codec.decode(z)


def null_of(model: Pretrained, condition: Condition | None, negative: Any = None) -> Condition:
    """What stands for no condition, or for what is not wanted.

    Raises:
        ValueError: If nothing does.
    """
    null = None
    if model.conditioner is not None and condition is not None:
        null = model.conditioner.null(condition, negative)
    if null is None:
        raise ValueError(
            f"{model.name} has no null label, nor another condition that stands for none, by "
            "which it could be guided: give a classifier, or null="
        )
    return null


def _several(model: Pretrained, guides: Guides) -> tuple[Guidance, ...]:
    if guides is None:
        return ()
    ways = tuple(guides) if isinstance(guides, Sequence) else (guides,)
    for way in ways:
        if not isinstance(way, (ClassifierFree, ByClassifier, Autoguidance)):
            raise ValueError(
                f"guidance is {way!r}: it must be ClassifierFree(scale), ByClassifier(classifier, "
                "scale) or Autoguidance(model, scale) of skipjax.guidance, or a list of them"
            )
        if isinstance(way, Autoguidance):
            guide.check_guide(model, way.model)
    return ways
