"""Plans made for a network."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
from tyro.conf import OmitArgPrefixes, Suppress, arg

from skipjax import api, tuning
from skipjax.checks import whole
from skipjax.config import read_plan
from skipjax.plans import Plan
from skipjax.training.sources import read
from skipjax.tuning.examples import Features, identity


@dataclass(frozen=True, eq=False)
class ObjectiveFlags(tuning.Objective):
    """What is made small, as it is typed."""

    teacher: str = "dpmpp_3m"
    """What is trusted: a name that `skipjax plans` lists, or a .json that Plan.to_json wrote."""
    pictures: str | None = None
    """Those others, for the loss "energy": a folder, an .npz, "emoji" or "digits", as for
    training."""
    features: Suppress[Features] = identity
    path_weight: Annotated[float, arg(aliases=("--way",))] = 0.0
    """Weight of the points on the way to where the teacher goes."""


@dataclass(frozen=True, eq=False)
class ConfigFlags(tuning.TuneConfig):
    """How a plan is learned, as it is typed."""

    start: Suppress[Plan | Sequence[Plan]] = ()
    max_iters: Annotated[int, arg(aliases=("--rounds",))] = 20
    """Iterations of learning from each start, at most."""


@dataclass
class Tune:
    """Learn a plan of few calls for a checkpoint, and hold it against every baseline."""

    out: Path
    """Folder for plan.json, a report, and the teacher's pictures; started again with the same
    line, it goes on from these."""
    checkpoint: str = "emoji32"
    """A bundled name, a checkpoint's folder, a released .pt or .safetensors, a folder that
    diffusers wrote, or a name of the Hugging Face hub."""
    card: str | None = None
    """Card that describes a released file, a name or a .json; default: found by its name."""
    seed: int = 0
    """Of the noise that is learned from."""
    label: str | None = None
    """Class to learn it for; default: all."""
    guidance: tuple[float, ...] = ()
    """Scale of guidance to learn it for, 1 where a classifier is given; or the least and the
    greatest of a range."""
    classifier: Path | None = None
    """Checkpoint of a classifier, to guide by."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in."""
    num: int = 64
    """Pictures that are learned from."""
    held_out: int = 64
    """Pictures that choose, and as many more that decide."""
    start: tuple[str, ...] = ()
    """Files of plans of as many calls that were made for this network, from which to go on."""
    objective: OmitArgPrefixes[ObjectiveFlags] = ObjectiveFlags()
    config: OmitArgPrefixes[ConfigFlags] = ConfigFlags()

    def __call__(self) -> None:
        """Tunes, and says what came of it."""
        params = api.load(self.checkpoint, card=self.card)
        label: Any = int(self.label) if self.label and self.label.isdecimal() else self.label
        problem = tuning.Problem(
            params,
            jax.random.key(whole("seed", self.seed, 0, 2**32 - 1)),
            label=label,
            guidance=_scale(self.guidance),
            classifier=None if self.classifier is None else api.load(self.classifier),
            dtype=self.dtype,
            num=self.num,
            held_out=self.held_out,
        )
        teacher = read_plan(self.objective.teacher)
        objective: tuning.Objective = replace(self.objective, teacher=teacher)
        if self.objective.pictures is not None:
            pictures, labels = self._pictures(problem)
            objective = replace(objective, pictures=pictures)
            if label is None and params.labels is not None:
                problem = replace(problem, label=labels)
        start: Any = [read_plan(path) for path in self.start]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "no learned plan")  # it is printed
            plan = tuning.tune(
                problem,
                objective,
                replace(self.config, start=start),
                out=self.out,
                on_round=lambda name, done, error: print(f"{name}: round {done}, {error:.5g}"),
            )
        origin: Any = plan.origin
        tuned = origin.tuned
        errors = tuned["error"]
        verdict = (
            f"{origin.method}, held-out {tuned['loss']} {errors['tuned']:.3g} instead of "
            f"{errors['fixed']:.3g} with {tuned['best_fixed']}"
        )
        if not tuned["won"]:
            verdict = f"{tuned['best_fixed']}: what was learned did not beat it"
        print(f"{plan.nfe} NFE: {verdict}. Saved: {self.out / 'plan.json'}")

    def _pictures(self, problem: tuning.Problem) -> tuple[np.ndarray, list[int] | None]:
        """As many pictures as are needed, shuffled by the seed, and their labels."""
        problem.check()
        source, total = str(self.objective.pictures), problem.total
        found = read(source, problem.shape[:2])
        there = found.images.shape[0]
        if there < total:
            raise ValueError(
                f"pictures: {source} holds {there}, and num + 2 held_out is {total}: give more, "
                "or ask for fewer"
            )
        chosen = np.random.default_rng(self.seed).permutation(there)[:total]
        pixels = np.asarray(found.images[chosen]).astype(np.float32) / 127.5 - 1
        return pixels, None if found.labels is None else found.labels[chosen].tolist()


def _scale(guidance: tuple[float, ...]) -> Any:
    """None, one scale, or a range."""
    if len(guidance) > 2:
        raise ValueError(f"guidance is {guidance}: give one scale, or the least and the greatest")
    return guidance[0] if len(guidance) == 1 else guidance or None
