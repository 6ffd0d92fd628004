"""One step of training, as a pure function of state and data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from skipjax.models import UNet, example
from skipjax.schedules import Schedule
from skipjax.training import losses
from skipjax.training.augment import shift_and_flip


class TrainState(NamedTuple):
    """Everything a run needs to go on, and to go on the same: randomness follows from `step`."""

    step: jax.Array  # int32, steps done
    params: optax.Params
    ema: optax.Params  # exponential moving average of params: what is sampled with
    opt_state: optax.OptState


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


def optimiser(rate: optax.Schedule) -> optax.GradientTransformation:
    """Adam behind a clip of the gradient's global norm at 1."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def init(net: UNet, tx: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """A state before its first step."""
    params = jax.jit(net.init)(key, *example(net.config))["params"]
    return TrainState(jnp.int32(0), params, jax.tree.map(jnp.copy, params), tx.init(params))


def train_step(
    net: UNet,
    tx: optax.GradientTransformation,
    schedule: Schedule,
    *,
    prediction: losses.Prediction,
    batch: int,
    ema_decay: float,
    shift: int,
    mesh: jax.sharding.Mesh,
) -> Callable:
    """Builds `step(state, images, labels, key) -> (state, losses)`, compiled, batch over `mesh`.

    `images` uint8 [N, H, W, C] and `labels` int [N] are the whole data set, kept on the devices; a
    batch is drawn from it with randomness fold_in(key, state.step). The moving average's decay
    grows with the steps, min(ema_decay, (1 + step) / (10 + step)), so that the start is forgotten.
    """
    chain = losses.chain(schedule)
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

    def loss(params, key, images, labels):
        # Each draw has a key of its own, so that one more of them leaves the others as they are.
        pick, look, time, noise, drop = jax.random.split(key, 5)
        index = jax.random.randint(pick, (batch,), 0, len(images))
        x_0 = images[index].astype(jnp.float32) / 127.5 - 1
        x_0 = jax.lax.with_sharding_constraint(shift_and_flip(look, x_0, shift), split)
        y = jax.lax.with_sharding_constraint(labels[index], split)
        # Stratified times: one in each of `batch` equal parts, in random order of pictures.
        u = (jnp.arange(batch) + jax.random.uniform(time, (batch,))) / batch
        t = (u * schedule.T).astype(jnp.int32)
        eps = jax.random.normal(noise, x_0.shape)
        x_t = losses.diffuse(chain, x_0, t, eps)
        y = y if net.config.num_classes is not None else None
        output: Any = net.apply(
            {"params": params}, x_t, t.astype(jnp.float32), y, train=True, rngs={"dropout": drop}
        )
        per_picture = losses.hybrid(chain, output, x_0, x_t, t, eps, prediction)
        means = jax.tree.map(jnp.mean, per_picture)
        return means.total, means

    def step(state, images, labels, key):
        key = jax.random.fold_in(key, state.step)
        grads, means = jax.grad(loss, has_aux=True)(state.params, key, images, labels)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema = optax.incremental_update(params, state.ema, 1 - decay)
        return TrainState(state.step + 1, params, ema, opt_state), means

    return jax.jit(step, donate_argnums=0)
