"""How parameters follow gradients: optax's Adam, with a rate that rises, stays and falls."""

import optax


def learning_rate(peak: float, steps: int, warmup: int, decay: float) -> optax.Schedule:
    """Linear warm-up, constant, linear decay to 0 over the last fraction `decay` of the steps.

    Where the constant part ends depends on `steps` alone, so a finished run can be prolonged from
    a checkpoint of its constant part.
    """
    start = int(steps * (1 - decay))
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, warmup),
            optax.constant_schedule(peak),
            optax.linear_schedule(peak, 0.0, steps - start),
        ],
        [warmup, start],
    )


def optimiser(
    rate: optax.Schedule,
    clip: float = 1.0,
    weight_decay: float = 0.0,
    fixed: tuple[str, ...] = (),
) -> optax.GradientTransformation:
    """Adam, or AdamW, behind a clip of the gradient's global norm; what goes by a name in `fixed`
    does not decay.
    """
    decays = (lambda params: {name: name not in fixed for name in params}) if fixed else None
    adam = optax.adam(rate)
    if weight_decay:
        adam = optax.adamw(rate, weight_decay=weight_decay, mask=decays)
    return optax.chain(optax.clip_by_global_norm(clip), adam)
