"""Plans made for a network."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from skipjax import api, request, tuning
from skipjax.checks import whole


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
    guidance: float | None = None
    """Scale of guidance to learn it for; 1 where a classifier is given."""
    classifier: Path | None = None
    """Checkpoint of a classifier, to guide by."""
    teacher: str = "dpmpp_3m"
    """What is trusted: a name that `skipjax plans` lists, or a .json that Plan.to_json wrote."""
    teacher_nfe: int = 100
    """Calls of a named teacher."""
    num: int = 64
    """Pictures that are learned from."""
    held_out: int = 64
    """Pictures that choose, and as many more that decide."""
    starts: int = 2
    """From how many of the best fixed plans to learn."""
    rounds: int = 10
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
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "no learned plan")  # it is printed
            plan = tuning.tune(
                params,
                jax.random.key(whole("seed", self.seed, 0, 2**32 - 1)),
                nfe=self.nfe,
                history=self.history,
                label=int(self.label) if self.label and self.label.isdecimal() else self.label,
                guidance=self.guidance,
                classifier=None if self.classifier is None else api.load(self.classifier),
                teacher=request.plan_or_name(self.teacher),
                teacher_nfe=self.teacher_nfe,
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
        errors = said["held_out"]
        verdict = f"{origin.method}, {errors['ratio']:.3f} of the error of {said['best_fixed']}"
        if not said["won"]:
            verdict = f"{said['best_fixed']}: what was learned did not beat it"
        print(f"{plan.nfe} NFE: {verdict}. Saved: {self.out / 'plan.json'}")
