"""One step of training, as a pure function of state and data."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from inspect import signature
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from skipjax import sharding
from skipjax.conditioners import Condition
from skipjax.models.device import default_device
from skipjax.training import losses
from skipjax.training.augment import look
from skipjax.training.objective import IN_TABLES, evaluate, noise
from skipjax.training.optimiser import learning_rate, optimiser
from skipjax.training.run import MAY_CHANGE, Run


class TrainState(NamedTuple):
    """Everything a run needs to go on, and to go on the same.

    `step` is its place in the data too: batch i is what step i + 1 learns from, and the randomness
    of that step is fold_in(key, i).
    """

    step: jax.Array  # int32, steps done
    key: jax.Array  # uint32, data of the run's key
    params: optax.Params
    ema: tuple[optax.Params, ...]  # moving averages of params, one for each decay
    opt_state: optax.OptState


class Metrics(NamedTuple):
    """What a step tells: means over its batch, float32 scalars."""

    total: jax.Array  # what is trained
    mse: jax.Array
    bound: jax.Array | None  # in bits per dimension, where a variance is learned
    grad_norm: jax.Array  # before it is clipped


Step = Callable[..., tuple[TrainState, Metrics]]


def adam(run: Run) -> optax.GradientTransformation:
    """The optimiser of a run."""
    rate = learning_rate(run.rate, run.steps, run.warmup, run.decay)
    return optimiser(rate, run.clip, run.weight_decay, getattr(run.network, "fixed", ()))


def init(run: Run) -> TrainState:
    """A state before its first step."""
    key = jax.random.key(run.seed)
    return start_from(run, jax.jit(run.network.init)(jax.random.fold_in(key, 0)))


def start_from(run: Run, params: optax.Params) -> TrainState:
    """A state before its first step, of given params, which are copied."""
    draw = jax.random.key_data(jax.random.fold_in(jax.random.key(run.seed), 1))
    # Copies: the state is donated to each step, and the caller keeps what is theirs.
    copy = partial(jnp.array, dtype=jnp.float32)
    ema = tuple(jax.tree.map(copy, params) for _ in run.ema)
    params = jax.tree.map(copy, params)
    return TrainState(jnp.int32(0), draw, params, ema, adam(run).init(params))


def shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """Where a state lies: its arrays split by the rule of `skipjax.sharding`, or whole."""
    return jax.tree.map(lambda leaf: sharding.split(mesh, leaf.shape), state)


def train_step(run: Run, mesh: Mesh) -> Step:
    """Builds `step(state, tables, images, condition) -> (state, metrics)`, compiled.

    `tables` is what `objective.tables` makes of the run; `images`, uint8 [B, H, W, C] or float
    [B, ...], and `condition`, of leaves [B, ...] or None, lie over the "data" axis of the mesh;
    the state is donated. Each moving average's decay grows with the steps, min(decay, (1 + step) /
    (10 + step)), so that the start is forgotten.

    Runs that differ in nothing but their seed and the numbers of their loss share one program.

    Args:
        run: What to do.
        mesh: With axes "data" and "model".
    """
    same = {
        name: getattr(Run, name) for name in (*MAY_CHANGE, *IN_TABLES, "seed") if name != "steps"
    }
    return _train_step(replace(run, **same), mesh)


@lru_cache(maxsize=8)
def _train_step(run: Run, mesh: Mesh) -> Step:
    process, tx, T = run.process, adam(run), run.T
    lie = shardings(jax.eval_shape(lambda: init(run)), mesh)
    over = NamedSharding(mesh, PartitionSpec(sharding.DATA))

    dropout = "dropout" in signature(run.network.apply).parameters

    def loss(params, tables, images, condition, t, eps, other, drop):
        x_t = losses.diffuse(tables.chain, images, t, eps)
        level = losses.point(tables.chain, t, x_t.ndim)
        output = run.network.apply(
            params,
            *process.tell(x_t, level._replace(t=t.astype(jnp.float32))),
            condition,
            dtype=jnp.dtype(run.dtype),
            **({"dropout": drop} if dropout else {}),
        )
        said = evaluate(run.loss, process.row, tables, output, images, x_t, t, eps, other)
        means = jax.tree.map(jnp.mean, said)
        return means.total, means

    def gradient(whole, tables, *batch):
        *parts, drop = batch
        if run.accumulate == 1:
            return jax.grad(loss, has_aux=True)(whole, tables, *parts, drop)

        def split(a):
            # Part i takes every n-th picture: each device then keeps those that it has.
            parts = a.reshape(-1, run.accumulate, *a.shape[1:]).swapaxes(0, 1)
            rest = PartitionSpec(None, sharding.DATA)
            return jax.lax.with_sharding_constraint(parts, NamedSharding(mesh, rest))

        def add(sums, part):
            i, part = part
            # One part after the other, also where no loop makes them wait.
            params, sums = jax.lax.optimization_barrier((whole, sums))
            found = jax.grad(loss, has_aux=True)(
                params, tables, *part, jax.random.fold_in(drop, i)
            )
            return jax.tree.map(jnp.add, sums, found), None

        like = jax.eval_shape(jax.grad(loss, has_aux=True), whole, tables, *parts, drop)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        places = jnp.arange(run.accumulate)
        split_up = places, jax.tree.map(split, tuple(parts))
        # XLA's convolutions on CPUs are slow inside loops, by a factor of 30.
        sums, _ = jax.lax.scan(add, zeros, split_up, unroll=default_device().platform == "cpu")
        return jax.tree.map(lambda leaf: leaf / run.accumulate, sums)

    def step(state, tables, images, condition):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        # Each draw has a key of its own, so that one more of them leaves the others as they are.
        seen, time, eps_key, drop, dropped = jax.random.split(key, 5)
        told: Condition = {} if condition is None else dict(condition)
        labels = told.pop("label", None)
        x_0 = images.astype(jnp.float32)
        x_0 = x_0 / 127.5 - 1 if images.dtype == jnp.uint8 else x_0
        sided = None
        if labels is not None and run.unmirrored:
            sided = jnp.isin(labels, jnp.asarray(run.unmirrored))
        x_0 = look(seen, x_0, run.shift, run.flip, sided)
        if labels is not None and run.null_label is not None:
            gone = jax.random.bernoulli(dropped, run.drop_labels, labels.shape)
            labels = jnp.where(gone, run.null_label, labels)
        if labels is not None and run.num_labels is not None:
            told["label"] = labels
        # Stratified times: one in each of `batch` equal parts, whose pictures are in random order.
        batch = len(x_0)
        u = (jnp.arange(batch) + jax.random.uniform(time, (batch,))) / batch
        t = jnp.minimum((u * T).astype(jnp.int32), T - 1)
        eps, other = noise(eps_key, x_0.shape)
        spread = [x_0, told or None, t, eps, other]
        spread = jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, over), spread)

        grads, means = gradient(state.params, tables, *spread, drop)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = tuple(
            optax.incremental_update(params, average, 1 - _decay(decay, state.step))
            for decay, average in zip(run.ema, state.ema, strict=True)
        )
        state = TrainState(state.step + 1, state.key, params, ema, opt_state)
        return state, Metrics(means.total, means.mse, means.bound, optax.tree.norm(grads))

    return jax.jit(step, donate_argnums=0, out_shardings=(lie, None))


def _decay(decay: float, step: jax.Array) -> jax.Array:
    return jnp.minimum(decay, (1 + step) / (10 + step))
