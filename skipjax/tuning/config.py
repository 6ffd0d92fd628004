"""What a plan is to achieve, and how it is learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from numpy.typing import ArrayLike

from skipjax.checks import whole
from skipjax.plans import Plan
from skipjax.tuning.examples import Features, identity
from skipjax.tuning.loss import LOSSES, Loss


@dataclass(frozen=True, eq=False)
class Objective:
    """What is made small."""

    loss: Literal["path", "energy"] = "path"
    """How far samples are from where the teacher goes from the same noise, as a root mean square;
    or how far their law is from that of the teacher's samples, or of others, as an energy distance
    (baselines then include plans with noise, and hybrids of all cutoffs)."""
    teacher: Plan | str = "dpmpp_3m"
    """What is trusted: a plan of more calls, or the name of one; with "energy" it may add
    noise."""
    teacher_nfe: int = 100
    """Calls of a named teacher, on a grid even in log_snr."""
    pictures: ArrayLike | None = None
    """Those others, for the loss "energy": float [num + 2 held_out, ...] in [-1, 1], in an order
    that says nothing; default: the teacher's from other noise."""
    features: Features = identity
    """What samples are compared in: [B, ...] -> [B, ...]; default: the samples themselves."""
    path_weight: float = 0.0
    """Weight of the points on the way to where the teacher goes; 0 is the end alone."""

    @property
    def by_law(self) -> bool:
        """Whether laws are compared, and not each sample with its own target."""
        return self.loss == "energy"

    @property
    def measure(self) -> Loss:
        """The loss, its gradient, and how two plans are compared by it."""
        return LOSSES[self.loss]


@dataclass(frozen=True, eq=False)
class TuneConfig:
    """How a plan is learned."""

    nfe: int = 8
    """Network calls of the plan, at least 2."""
    history: int | None = None
    """K, predictions that a step looks at, 1 .. nfe; default: 4 or nfe, whichever is less."""
    noise: bool | None = None
    """Whether to learn the noise of each step; default: as the loss is "energy"."""
    whole_times: bool = False
    """Whether all times stay whole numbers, for a network that knows no others; they are then
    chosen by baselines and evolution alone."""
    start: Plan | Sequence[Plan] = ()
    """Plans of as many calls that were made for this network, from which to go on too."""
    generations: int = 0
    """Of evolution, before learning, among plans whose solver and order differ from step to
    step."""
    starts: int = 2
    """From how many plans to learn: the best that evolved, the best of `start`, the best baseline,
    the second best of each, and so on."""
    max_iters: int = 20
    """Iterations of learning from each, at most."""
    batch: int = 16
    """Samples computed at a time."""

    @property
    def plans(self) -> list[Plan]:
        """`start` as a list."""
        return [self.start] if isinstance(self.start, Plan) else list(self.start)

    def learns_noise(self, objective: Objective) -> bool:
        """Whether the noise of each step is learned."""
        return objective.by_law if self.noise is None else self.noise


def check(objective: Objective, config: TuneConfig) -> None:
    """Refuses what cannot be learned.

    Raises:
        ValueError: If a number is out of its range, or two settings do not go together.
    """
    nfe = whole("nfe", config.nfe, 2)
    if config.history is not None:
        whole("history", config.history, 1, nfe)
    whole("generations", config.generations, 0)
    for name in ("starts", "max_iters", "batch"):
        whole(name, getattr(config, name), 1)
    if objective.loss not in LOSSES:
        raise ValueError(f"loss is {objective.loss!r}: it must be one of {', '.join(LOSSES)}")
    if not objective.by_law and (config.noise or objective.pictures is not None):
        what = "noise is to be learned" if config.noise else "pictures are given"
        raise ValueError(
            f"{what}, which takes the loss 'energy': by path each sample has its own target"
        )
    if objective.by_law and objective.path_weight:
        raise ValueError(
            f"path_weight is {objective.path_weight}, and the loss compares laws: it goes with "
            "the loss 'path'"
        )
    for plan in config.plans:
        if plan.nfe != nfe:
            raise ValueError(f"start holds {plan}: it must make {nfe} calls, as the plan to learn")
