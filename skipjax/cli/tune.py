"""Plans made for a network."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from skipjax import api, request, tuning
from skipjax.checks import whole
from skipjax.training.sources import read


@dataclass
class Tune:
    """Learn a plan of few calls for a checkpoint, and hold it against every fixed one."""

    out: Path
    """Folder for plan.json, a report, and the teacher's pictures; started again with the same
    line, it goes on from these."""
    checkpoint: str = "emoji32"
    """A bundled name, a checkpoint's folder, or a released .pt or .safetensors."""
    card: str | None = None
    """Card that describes a released file, a name or a .json; found by its name, unless told."""
    nfe: int = 8
    """Network calls of the plan."""
    history: int | None = None
    """Predictions that a step looks at; 4 at most, unless told."""
    label: str | None = None
    """Class to learn it for; all, unless told."""
    guidance: tuple[float, ...] = ()
    """Scale of guidance to learn it for, 1 where a classifier is given; or the least and the
    greatest of a range."""
    classifier: Path | None = None
    """Checkpoint of a classifier, to guide by."""
    teacher: str = "dpmpp_3m"
    """What is trusted: a name that `skipjax plans` lists, or a .json that Plan.to_json wrote."""
    teacher_nfe: int = 100
    """Calls of a named teacher."""
    loss: Literal["path", "energy"] = "path"
    """What is made small: how far pictures are from where the teacher goes; or how far their law
    is from that of the teacher's pictures, or of others."""
    pictures: str | None = None
    """Those others: a folder, an .npz, "emoji" or "digits", as for training."""
    noise: bool | None = None
    """Whether to learn the noise of each step; as the loss is energy, unless told."""
    whole_times: bool = False
    """Whether all times stay whole numbers."""
    way: float = 0.0
    """Weight of the points on the way to where the teacher goes."""
    start: tuple[Path, ...] = ()
    """Plans of so many calls that were made for this network, from which to go on."""
    generations: int = 0
    """Of evolution, before learning, among solvers that differ from step to step."""
    num: int = 64
    """Pictures that are learned from."""
    held_out: int = 64
    """Pictures that choose, and as many more that decide."""
    starts: int = 2
    """From how many of the best fixed plans to learn."""
    rounds: int = 20
    """Of learning, at most."""
    batch: int = 16
    """Pictures computed at a time."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in."""
    seed: int = 0
    """Of the noise that is learned from."""

    def __call__(self) -> None:
        """Tunes, and says what came of it."""
        params = api.load(self.checkpoint, card=self.card)
        label: Any = int(self.label) if self.label and self.label.isdecimal() else self.label
        real = None
        if self.pictures is not None:
            real, labels = self._real(params.spec.unet.image_size)
            label = labels if label is None and params.spec.unet.num_classes else label
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "no learned plan")  # it is printed
            plan = tuning.tune(
                params,
                jax.random.key(whole("seed", self.seed, 0, 2**32 - 1)),
                nfe=self.nfe,
                history=self.history,
                label=label,
                guidance=_scale(self.guidance),
                classifier=None if self.classifier is None else api.load(self.classifier),
                teacher=request.plan_or_name(self.teacher),
                teacher_nfe=self.teacher_nfe,
                loss=self.loss,
                pictures=real,
                noise=self.noise,
                whole_times=self.whole_times,
                way=self.way,
                start=[request.plan_or_name(str(path)) for path in self.start],
                generations=self.generations,
                num=self.num,
                held_out=self.held_out,
                starts=self.starts,
                rounds=self.rounds,
                batch=self.batch,
                dtype=jnp.dtype(self.dtype),
                out=self.out,
                on_round=lambda name, done, error: print(f"{name}: round {done}, {error:.5g}"),
            )
        origin: Any = plan.origin
        said = origin.tuned
        errors = said["error"]
        verdict = (
            f"{origin.method}, held-out {said['loss']} {errors['tuned']:.3g} instead of "
            f"{errors['fixed']:.3g} with {said['best_fixed']}"
        )
        if not said["won"]:
            verdict = f"{said['best_fixed']}: what was learned did not beat it"
        print(f"{plan.nfe} NFE: {verdict}. Saved: {self.out / 'plan.json'}")

    def _real(self, size: int) -> tuple[np.ndarray, list[int] | None]:
        """As many pictures as are needed, shuffled by the seed, and their labels."""
        found, total = read(str(self.pictures), size), self.num + 2 * self.held_out
        there = found.images.shape[0]
        if there < total:
            raise ValueError(
                f"pictures: {self.pictures} holds {there}, and num + 2 held_out is {total}: give "
                "more, or ask for fewer"
            )
        chosen = np.random.default_rng(self.seed).permutation(there)[:total]
        pixels = np.asarray(found.images[chosen]).astype(np.float32) / 127.5 - 1
        return pixels, None if found.labels is None else found.labels[chosen].tolist()


def _scale(guidance: tuple[float, ...]) -> Any:
    """None, one scale, or a range."""
    if len(guidance) > 2:
        raise ValueError(f"guidance is {guidance}: give one scale, or the least and the greatest")
    return guidance[0] if len(guidance) == 1 else guidance or None
