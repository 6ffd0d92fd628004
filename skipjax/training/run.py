"""A training run: from pictures to a checkpoint, resumable at any moment."""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from skipjax import schedules
from skipjax.models import UNet, UNetConfig
from skipjax.training import losses
from skipjax.training import step as train
from skipjax.weights.checkpoint import Steps


@dataclass(frozen=True)
class Run:
    """Everything that fixes a run but the pictures.

    Args:
        unet: The network.
        prediction: What it predicts: "eps", "x_0" or "v".
        steps: Steps in all. A longer run may go on from a shorter one's checkpoints.
        batch: Pictures per step, a multiple of the number of devices.
        rate: Peak learning rate of Adam.
        warmup: Steps over which the rate rises from 0.
        decay: Fraction of the steps over which it falls to 0 at the end.
        ema_decay: Of the moving average of the parameters.
        shift: Largest random shift of a picture, in pixels.
        seed: Of initialisation and of everything drawn.
        save_every: Steps between checkpoints.
    """

    unet: UNetConfig
    prediction: losses.Prediction = "eps"
    steps: int = 20_000
    batch: int = 32
    rate: float = 5e-4
    warmup: int = 200
    decay: float = 0.3
    ema_decay: float = 0.999
    shift: int = 2
    seed: int = 0
    save_every: int = 500
    T: int = 1000


def fit(
    run: Run,
    images: np.ndarray,
    labels: np.ndarray,
    out: str | Path,
    start: optax.Params | None = None,
) -> train.TrainState:
    """Trains, or goes on training, and keeps checkpoints and a log under `out`.

    Args:
        run: What to do.
        images: uint8 [N, H, W, C].
        labels: int [N] in 0 .. num_classes-1.
        out: Folder of the run: `steps/` (orbax), `log.jsonl` (losses), `run.json`.
        start: Params to start from, such as another run's; drawn at random unless told.

    Returns:
        The state after the last step.

    Raises:
        ValueError: If `batch` does not divide over the devices, or pictures and network differ.
        FloatingPointError: If the loss is not finite; the last checkpoint stays as it was.
    """
    devices = jax.device_count()
    if run.batch % devices:
        raise ValueError(f"batch is {run.batch}: it must be a multiple of the {devices} devices")
    wanted = (run.unet.image_size, run.unet.image_size, run.unet.in_channels)
    if images.shape[1:] != wanted:
        raise ValueError(f"pictures are {images.shape[1:]}, the network wants {wanted}")

    out = Path(out)
    checkpoints = Steps(out / "steps")
    (out / "run.json").write_text(json.dumps(asdict(run), indent=1))
    net, key = UNet(run.unet), jax.random.key(run.seed)
    rate = train.learning_rate(run.rate, run.steps, run.warmup, run.decay)
    tx = train.optimiser(rate)
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=auto)
    everywhere = NamedSharding(mesh, PartitionSpec())
    step = train.train_step(
        net,
        tx,
        schedules.linear(run.T),
        prediction=run.prediction,
        batch=run.batch,
        ema_decay=run.ema_decay,
        shift=run.shift,
        mesh=mesh,
    )
    state = train.init(net, tx, jax.random.fold_in(key, 0))
    if start is not None:
        # Copies: the state is donated to each step, and the caller keeps what is theirs.
        params, ema = (jax.tree.map(jnp.copy, start) for _ in range(2))
        state = state._replace(params=params, ema=ema)
    state = jax.device_put(state, everywhere)
    if checkpoints.latest is not None:
        state = checkpoints.restore(state)
    images, labels = jax.device_put((images, labels.astype(np.int32)), everywhere)

    draw = jax.device_put(jax.random.fold_in(key, 1), everywhere)
    recent, began = [], time.perf_counter()
    with (
        open(out / "log.jsonl", "a") as log,
        tqdm(total=run.steps, initial=int(state.step), unit="step", mininterval=5) as bar,
    ):
        for done in range(int(state.step) + 1, run.steps + 1):
            state, means = step(state, images, labels, draw)
            recent.append(means)
            if jax.default_backend() == "cpu":
                # Steps in flight on several CPU devices wait for each other's threads for ever.
                jax.block_until_ready(means)
            bar.update()
            saves = done % run.save_every == 0 or done == run.steps
            if saves or done % 50 == 0:
                row = {k: float(np.mean([getattr(r, k) for r in recent])) for k in means._fields}
                if not math.isfinite(row["total"]):
                    raise FloatingPointError(
                        f"the loss is {row['total']} at step {done}; the last checkpoint is of "
                        f"step {checkpoints.latest}. A lower learning rate may help"
                    )
                bar.set_postfix(mse=f"{row['mse']:.4f}", bound=f"{row['bound']:.3f}")
                row |= {"step": done, "seconds": time.perf_counter() - began}
                log.write(json.dumps(row) + "\n")
                log.flush()
                recent = []
            if saves:
                checkpoints.save(done, state)
    checkpoints.close()
    return state
