"""How the checkpoint emoji32 is made: 1,870 emoji of Noto Color Emoji, 32x32, in 99 classes.

    apt-get install fonts-noto-color-emoji unicode-data libraqm0
    pip install -e '.[train]'
    python checkpoints/emoji32/recipe.py train --out runs/emoji32
    python checkpoints/emoji32/recipe.py publish --run runs/emoji32 --out checkpoints/emoji32

Training started again goes on from its last checkpoint; `--start emoji32` begins a new run with
the weights that are there. On CPUs, one device per core with one thread each trains half as fast
again as one device that has them all:

    XLA_FLAGS="--xla_cpu_multi_thread_eigen=false --xla_force_host_platform_device_count=2"
"""

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import skipjax
from skipjax import Pretrained, evaluation
from skipjax.denoisers import Point
from skipjax.models import UNetConfig
from skipjax.training import emoji
from skipjax.training.fit import fit, last
from skipjax.training.pictures import Pictures, held_out
from skipjax.training.run import Run
from skipjax.weights import folders, parts

# Light where pictures are large, wide where they are small: two CPU cores train it at 50 pictures
# a second.
UNET = UNetConfig(
    image_size=32,
    in_channels=3,
    model_channels=32,
    out_channels=6,
    num_res_blocks=1,
    attention_resolutions=(4, 8),
    channel_mult=(1, 2, 4, 6),
    conv_resample=False,
    dropout=0.1,
    num_classes=100,  # Unicode's 99 subgroups, and none
    num_head_channels=32,
    use_scale_shift_norm=True,
)
RUN = Run(
    network=UNET,
    prediction="v",
    loss="min_snr_hybrid",
    steps=48_000,
    batch=32,
    rate=5e-4,
    warmup=1_000,
    decay=0.5,
    ema=(0.9999, 0.999),
    drop_labels=0.1,
    flip=True,
    shift=2,
    save_every=250,
)
# Pictures whose sides matter, beside flags and symbols: letters, clocks, maps, notes, charts.
SIDED = ("award-medal", "emotion", "money", "music", "office", "place-map", "time")
COMMAND = "python checkpoints/emoji32/recipe.py train --out runs/emoji32"
# Of the measurements; the sheet is drawn with SKIP and GUIDANCE too.
SAMPLES, SKIP, GUIDANCE, BATCH = 2_000, 20, 2.0, 100
DATA = (
    "Noto Color Emoji (Debian package fonts-noto-color-emoji) at the fully qualified sequences of "
    "emoji-test.txt (Debian package unicode-data) without skin tones: 1,870 pictures, one in ten "
    "of each class of six or more held out; on white; a picture's class is its Unicode subgroup"
)


def train(out: Path, run: Run = RUN, start: str | None = None) -> None:
    """Trains on 90 % of the pictures, or goes on; `start` is a checkpoint to begin with."""
    pictures, _ = split(run)
    run = dataclasses.replace(run, unmirrored=unmirrored(pictures.class_names))
    fit(run, pictures, out, start=start and skipjax.load(start))


def split(run: Run) -> tuple[Pictures, Pictures]:
    """Those to train on, and those that are held out."""
    return held_out(emoji.render(run.network.size, classes="subgroup"))


def unmirrored(class_names: tuple[str, ...]) -> tuple[int, ...]:
    """Labels of pictures whose sides matter."""
    groups = emoji.subgroups()
    sided = {*groups["Symbols"], *groups["Flags"], *SIDED}
    return tuple(label for label, name in enumerate(class_names) if name in sided)


def publish(
    run: Path,
    out: Path,
    average: int = 0,
    commands: tuple[str, ...] = (COMMAND,),
    lacks: str = "",
) -> None:
    """Measures a moving average of a run's params; writes it with its card and a sheet.

    Args:
        run: Folder of the run.
        out: Folder of the checkpoint; what was there is replaced.
        average: Which of the run's, in the order of its decays.
        commands: The command lines that trained it, in order.
        lacks: What is known to be wrong with it.
    """
    trained, state, class_names = last(run)
    ema = state.ema[average]
    seen, held = split(trained)
    params = trained.model(ema, "emoji32", class_names)
    sheet = skipjax.sample(params, jax.random.key(0), num=64, skip=SKIP, guidance=GUIDANCE)
    card = parts.describe(params) | {
        "data": DATA,
        "licence": "weights Apache-2.0; the font whose pictures they were trained on OFL-1.1",
        "training": {
            "commands": commands,
            "pictures": len(seen.labels),
            "steps_done": int(state.step),
            "average": trained.ema[average],
            **{k: v for k, v in trained.describe().items() if k != "network"},
        },
        "measured": measure(params, seen, held),
        "lacks": lacks,
    }
    shutil.rmtree(out / "params", ignore_errors=True)
    folders.save(out, ema, card, np.float16)
    skipjax.grid(sheet, 8).save(out / "samples.png")


def measure(params: Pretrained, seen: Pictures, held: Pictures) -> dict:
    """The figures of the card; samples are drawn with the training set's mix of classes, guided;
    eps_mse is of the network without guidance.
    """
    train, unseen = as_float(seen.images), as_float(held.images)
    labels = np.random.default_rng(0).choice(seen.labels, SAMPLES)
    key = jax.random.key(1)
    drawn = np.concatenate(
        [
            skipjax.sample(params, key, skip=SKIP, ids=ids, label=labels[ids], guidance=GUIDANCE)
            for ids in np.split(np.arange(SAMPLES), SAMPLES // BATCH)
        ]
    )

    alpha, sigma = (jnp.asarray(table, jnp.float32) for table in params.schedule)

    def predict(x, t, y):
        level = t.astype(jnp.int32)
        at = (table[level][:, None, None, None] for table in (alpha, sigma))
        return skipjax.denoiser(params, y, clip=False)(x, Point(t, *at)).eps

    def eps_mse(images, labels):
        error = evaluation.eps_mse(predict, params.schedule, images, labels, jax.random.key(2))
        return {"mean": round(error.mean, 5), "standard_error": round(error.standard_error, 5)}

    def distances(images):
        return [round(float(q), 4) for q in np.quantile(nearest(images), (0.1, 0.5, 0.9))]

    def nearest(images):
        return evaluation.nearest(images, train).distance

    floor = evaluation.energy_floor(train)
    return {
        "eps_mse_held_out": eps_mse(unseen, held.labels),
        "eps_mse_training": eps_mse(train, seen.labels),
        "energy_distance": {
            "samples_to_training": round(evaluation.energy_distance(drawn, train), 4),
            "held_out_to_training": round(evaluation.energy_distance(unseen, train), 4),
            "floor_two_halves_of_training": {
                "mean": round(floor.mean, 4),
                "std": round(floor.standard_deviation, 4),
            },
            "samples": SAMPLES,
            "skip": SKIP,
            "guidance": GUIDANCE,
        },
        "rms_to_nearest_training_picture": {
            "quantiles": [0.1, 0.5, 0.9],
            "samples": distances(drawn),
            "held_out": distances(unseen),
        },
    }


def as_float(pixels: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [-1, 1]."""
    return pixels.astype(np.float32) / 127.5 - 1


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"train": train, "publish": publish})
