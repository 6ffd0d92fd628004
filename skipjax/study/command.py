"""The command of the study."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from skipjax.study import design, results
from skipjax.study.run import run


@dataclass
class Command:
    """Measure the claims of skipped-step sampling and S^2-DM on small networks that it trains."""

    data: Annotated[Literal["digits", "emoji"], tyro.conf.Positional]
    """Which data set."""
    out: Path
    """Folder of the study; started again with the same line, it goes on."""
    results: Path | None = None
    """File to put the results together in, such as digits.json; results.json in `out`, unless
    told."""
    seeds: int = 3
    """Networks of each kind."""
    steps: int = 1500
    """Steps that each is trained for."""
    batch: int = 128
    """Pictures of a step."""
    classifier_steps: int = 1500
    """Steps that the classifier is trained for, whose features samples are compared by."""
    pictures: int = 500
    """Pictures of each cell of up to 100 calls."""
    many: int = 100
    """Pictures of each cell of more calls."""
    nfe: tuple[int, ...] = design.NFE
    """Numbers of network calls."""
    skips: tuple[int, ...] = design.SKIPS
    """Of S^2-DM: steps jumped over."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What networks compute in."""
    worker: int = 0
    """Which of several processes this is, that share `out`."""
    num_workers: int = 1
    """How many there are."""

    def __call__(self) -> None:
        """Runs what is not done yet, and puts the results together."""
        names = ("seeds", "steps", "batch", "classifier_steps", "pictures", "many", "nfe", "skips")
        names += ("dtype",)
        study = design.study(self.data, **{name: getattr(self, name) for name in names})
        run(study, self.out, self.worker, self.num_workers)
        path = self.results or self.out / "results.json"
        results.write(path, results.gather(study, self.out))
        print(f"Saved: {path}")
