"""What is trained, what is sampled with it, and how often."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from skipjax import grids, plans, schedules
from skipjax.checks import whole
from skipjax.models import ClassifierConfig, UNetConfig
from skipjax.plans import Plan
from skipjax.schedules import FORMS, Schedule, skip_scale
from skipjax.training.pictures import Pictures, held_out
from skipjax.training.run import Run
from skipjax.training.sources import read

Data = Literal["digits", "emoji"]
SKIPS = (1, 9, 49)
NFE = (5, 10, 20, 50, 100, 1000)
CUTOFFS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # of T: 0 is skipped-step, 1 is DDIM
# Names of the papers, and the plans that they are here; all on evenly spaced times that begin at
# T - 1. PNDM is PLMS, which takes one call more than it has times.
SAMPLERS = {
    "DDIM": "ddim",
    "PNDM": "plms",
    "DEIS": "deis_tab3",
    "2M": "dpmpp_2m",
    "skipped": "skipped",
}
_ENCODER = {
    "num_res_blocks": 1,
    "num_head_channels": 32,
    "use_scale_shift_norm": True,
    "conv_resample": False,
}


class Unit(NamedTuple):
    """One network: which loss it is trained with, and its seed. Without a form it is DDPM's."""

    form: str | None
    skip: int | None
    seed: int

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.loss}_{self.seed}"

    @property
    def loss(self) -> str:
        """What cells call its loss: "ddpm", "released_9"."""
        return "ddpm" if self.form is None else f"{self.form}_{self.skip}"


class Variant(NamedTuple):
    """One way to sample: a sampler, and what eps is multiplied by at each time."""

    sampler: str  # of SAMPLERS, or "hybrid"
    cutoff: float | None  # of T, of a hybrid
    scaling: str  # "none", or how eps is scaled
    scale: np.ndarray  # float64 [T]


@dataclass(frozen=True)
class Study:
    """Sizes of the study on one data set.

    Args:
        data: "digits" or "emoji".
        run: Of the networks; their loss, seed and form come from the unit.
        classifier: Whose features samples are compared by.
        classifier_steps: Steps that it is trained for.
        seeds: Networks of each kind.
        pictures: Drawn for each cell of up to 100 calls.
        many: Drawn for each cell of more calls.
        nfe: Numbers of network calls.
        skips: Of S^2-DM: steps jumped over.
    """

    data: Data
    run: Run
    classifier: ClassifierConfig
    classifier_steps: int = 1500
    seeds: int = 3
    pictures: int = 500
    many: int = 100
    nfe: tuple[int, ...] = NFE
    skips: tuple[int, ...] = SKIPS

    def drawn(self, nfe: int) -> int:
        """Pictures of a cell of so many calls."""
        return self.pictures if nfe <= 100 else self.many


def study(data: Data, **changes) -> Study:
    """The study on a data set, with other sizes where they are told.

    Args:
        data: "digits" or "emoji".
        changes: Of `Study`; and "steps", "batch" and "dtype" of its `run`.
    """
    digits = data == "digits"
    # A level less where the pictures are smaller; emoji are mirrored and moved as emoji32 was.
    shape = {
        "image_size": 8 if digits else 32,
        "in_channels": 1 if digits else 3,
        "model_channels": 32,
        "channel_mult": (1, 2) if digits else (1, 2, 4),
        "attention_resolutions": (2,) if digits else (4,),
    }
    classes = 10 if digits else 9
    unet = UNetConfig(**_ENCODER | shape, out_channels=shape["in_channels"], num_classes=classes)
    classifier = ClassifierConfig(**_ENCODER | shape, out_channels=classes, pool="adaptive")
    base = Run(
        network=unet,
        loss="skip_step",
        tau=1.0,
        steps=3000,
        batch=128,
        rate=1e-3,
        decay=0.5,
        ema=(0.995,),
        flip=not digits,
        shift=0 if digits else 2,
        save_every=1000,
        keep=1,
    )
    sizes = {k: changes.pop(k) for k in ("steps", "batch", "dtype") if k in changes}
    return Study(data, replace(base, **sizes), classifier, **changes)


def check(study: Study) -> None:
    """Finds out before anything is trained what would fail after it.

    Raises:
        ValueError: If a size is out of range, or there is no plan of so many calls.
    """
    whole("seeds", study.seeds, 1)
    whole("classifier_steps", study.classifier_steps, 1)
    for name in ("pictures", "many"):  # their third neighbours are looked for
        whole(name, getattr(study, name), 4)
    for unit in units(study):
        training(study, unit)
    for nfe in study.nfe:
        for variant in variants(study, Unit(None, None, 0), whole("nfe", nfe, 2, study.run.T)):
            plan(study.run.process.schedule, variant, nfe)


def pictures(study: Study) -> tuple[Pictures, Pictures]:
    """What is trained on, and what is held out."""
    return held_out(read(study.data))


def units(study: Study) -> Iterator[Unit]:
    """All networks, seed by seed, so that what is there after a while is worth reading."""
    for seed in range(study.seeds):
        yield Unit(None, None, seed)
        for skip in study.skips:
            yield from (Unit(form, skip, seed) for form in FORMS)


def training(study: Study, unit: Unit) -> Run:
    """How a network is trained. With tau = 1, S^2-DM's loss is DDPM's."""
    if unit.form is None:
        return replace(study.run, seed=unit.seed)
    return replace(study.run, seed=unit.seed, form=unit.form, skip=unit.skip, tau=0.99)


def variants(study: Study, unit: Unit, nfe: int) -> list[Variant]:
    """How a network is sampled from: DDPM's also by hybrids, and with eps scaled."""
    T = study.run.T
    ones = np.ones(T)
    found = [Variant(name, None, "none", ones) for name in SAMPLERS]
    if unit.form is not None:
        return found
    found += [Variant("hybrid", c, "none", ones) for c in CUTOFFS if 0 < c < 1]
    if nfe > 100:
        return found
    schedule = study.run.process.schedule
    for skip in study.skips:
        for form in FORMS:
            scale = skip_scale(schedule, skip, 0.99, form)
            scaled = (Variant(name, None, f"{form}_{skip}", scale) for name in ("DDIM", "skipped"))
            found += scaled
    found.append(Variant("DDIM", None, "constant_0.99", np.full(T, 0.99)))
    found.append(Variant("DDIM", None, "linear_0.99_1", np.linspace(1, 0.99, T)))
    return found


def plan(schedule: Schedule, variant: Variant, nfe: int) -> Plan:
    """The table of a variant."""
    T = schedule.T
    method = "skipped" if variant.sampler == "hybrid" else SAMPLERS[variant.sampler]
    more = plans.METHODS[method].more
    times = grids.trailing(T, nfe - more)
    if variant.sampler == "hybrid":
        assert variant.cutoff is not None
        return plans.hybrid(schedule, times, cutoff=round(variant.cutoff * T))
    return plans.write(method, schedule, times, end=schedules.DATA)
