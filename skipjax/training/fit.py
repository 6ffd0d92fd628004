"""From pictures to a trained network, resumable at any moment."""

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from skipjax import sharding
from skipjax.pretrained import Pretrained
from skipjax.training import batches, folder
from skipjax.training.objective import tables
from skipjax.training.pictures import Pictures, check, describe
from skipjax.training.run import Run
from skipjax.training.step import TrainState, init, shardings, start_from, train_step
from skipjax.weights import registry
from skipjax.weights.checkpoint import Steps

OnSample = Callable[[int, Pretrained], None]


def fit(
    run: Run,
    pictures: Pictures,
    out: str | Path,
    *,
    start: Pretrained | None = None,
    mesh: Mesh | None = None,
    on_sample: OnSample | None = None,
    progress: bool = True,
) -> TrainState:
    """Trains, or goes on training, and keeps checkpoints and a log under `out`.

    Killed anywhere and called again with the same arguments, it ends with the same weights: bit
    by bit on CPUs, and wherever else programs are deterministic.

    Args:
        run: What to do.
        pictures: What to learn from.
        out: Folder of the run: `run.json` (what it is), `steps/` (orbax checkpoints), `log.jsonl`
            (losses).
        start: A network to start from. Default: one drawn at random.
        mesh: Devices: pictures are spread over its axis "data", weights, averages and optimiser
            split over "model"; default: all devices over "data".
        on_sample: Told the step and the averaged network every `run.sample_every` steps.
        progress: Whether a bar is shown, and what was understood of the pictures.

    Returns:
        The state after the last step.

    Raises:
        ValueError: If pictures, labels, network, start and mesh do not fit, or `out` holds
            another run; nothing was written then.
        FloatingPointError: If loss, gradient or parameters are not finite: says at which step,
            and the last checkpoint stays as it was.
        OSError: If a checkpoint cannot be written; the last one stays as it was.
    """
    mesh = sharding.mesh() if mesh is None else mesh
    run.divides(mesh, sharding.DATA)
    check(pictures, run.network.shape, run.classes)
    process = jax.process_index(), jax.process_count()
    source = batches.Batches(pictures, run.batch, run.seed, run.steps, process)
    out = Path(out)
    params = None if start is None else fitting(start, run)
    folder.claim(out, run, pictures.fingerprint, pictures.class_names)
    if progress:
        tqdm.write(describe(pictures), file=sys.stderr)
    state = init(run) if params is None else start_from(run, params)
    state = jax.device_put(state, shardings(state, mesh))

    checkpoints = Steps(folder.steps(out), run.keep)
    try:
        if checkpoints.latest is not None:
            state = checkpoints.restore(state)
        done = begun = int(state.step)
        with (
            folder.Log(out, done) as log,
            tqdm(
                desc="compiling",
                total=run.steps,
                initial=done,
                unit="step",
                mininterval=1,
                disable=not progress,
            ) as bar,
        ):
            step, loss = train_step(run, mesh), tables(run)
            for images, condition in _placed(source, mesh, done):
                state, metrics = step(state, loss, images, condition)
                if jax.default_backend() == "cpu":
                    # Steps in flight on several CPU devices can wait for each other for ever.
                    jax.block_until_ready(metrics)
                if done == begun:
                    bar.set_description("training", refresh=False)
                    bar.unpause()  # of compiling, which says nothing of the steps to come
                log.add(metrics)
                done += 1
                bar.update()
                saves = done % run.save_every == 0 or done == run.steps
                if saves or done % run.log_every == 0:
                    row = log.write(done, lambda: checkpoints.latest)
                    bar.set_postfix(loss=f"{row['total']:.4f}")
                if saves:
                    _refuse_nan(state, done, lambda: checkpoints.latest)
                    checkpoints.save(done, state)
                samples = run.sample_every and done % run.sample_every == 0
                if on_sample is not None and samples:
                    on_sample(done, averaged(run, state, pictures.class_names, start))
    finally:
        checkpoints.close()
    return state


def averaged(
    run: Run,
    state: TrainState,
    class_names: tuple[str, ...] = (),
    start: Pretrained | None = None,
) -> Pretrained:
    """The network of a state, ready to be sampled from: its first moving average, copied, with
    the conditioner and codec of what it was started from.
    """
    params: Any = jax.tree.map(jnp.copy, state.ema[0])
    return run.model(params, class_names=class_names, like=start)


def last(out: str | Path) -> tuple[Run, TrainState, tuple[str, ...]]:
    """A run that was made in a folder, its newest state, and the names of its classes.

    Raises:
        ValueError: If there is none.
    """
    run, class_names = folder.read(Path(out))
    checkpoints = Steps(folder.steps(Path(out)), run.keep)
    try:
        if checkpoints.latest is None:
            raise ValueError(f"{out} holds a run without a checkpoint: train it first")
        return run, checkpoints.restore(jax.eval_shape(lambda: init(run))), class_names
    finally:
        checkpoints.close()


def _placed(source: batches.Batches, mesh: Mesh, done: int) -> Iterator[tuple]:
    """Images and labels of each step that is left, on their devices."""
    over = NamedSharding(mesh, PartitionSpec(sharding.DATA))
    for batch in batches.iterate(source, done) if done < len(source) else ():
        yield jax.tree.map(lambda a: jax.make_array_from_process_local_data(over, a), batch)


def fitting(start: Pretrained, run: Run) -> optax.Params:
    """The params to start from, if they are of the run's network; what takes labels is drawn anew
    where there are other classes, which is said.

    Raises:
        ValueError: If it is another network, with what differs.
    """
    ours, theirs = registry.describe(run.network), registry.describe(start.network)
    other = {"num_classes", "image_size", "dropout"}  # which fit whatever they are
    other |= {"num_class_embeds", "sample_size"}
    faults = [
        f"{k} is {theirs.get(k)}, not {ours[k]}"
        for k in ours
        if k not in other and ours[k] != theirs.get(k)
    ]
    if faults:
        raise ValueError(f"{start.name} is another network: its {'; '.join(faults)}")
    labels = run.num_labels, getattr(start.network, "num_classes", None)
    if labels[0] == labels[1]:
        return start.params
    kept: Any = traverse_util.flatten_dict(start.params)
    drawn: Any = traverse_util.flatten_dict(init(run).params)
    for path, leaf in drawn.items():
        if path not in kept or kept[path].shape != leaf.shape:
            kept[path] = leaf
    warnings.warn(
        f"{start.name} knows {labels[1] or 'no'} labels, and there are "
        f"{labels[0] or 'none'} here: what takes them is learned anew",
        stacklevel=2,
    )
    return traverse_util.unflatten_dict({path: kept[path] for path in drawn})


@jax.jit
def _finite(state: TrainState) -> jax.Array:
    trees = jax.tree.leaves((state.params, state.ema, state.opt_state))
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in trees]))


def _refuse_nan(state: TrainState, done: int, latest: folder.Latest) -> None:
    if not _finite(state):
        raise FloatingPointError(
            f"parameters are not finite after step {done}; {folder.kept(latest())}"
        )
