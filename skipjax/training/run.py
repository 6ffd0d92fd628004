"""What a training run is."""

from dataclasses import dataclass, fields
from typing import Any, Literal

import jax

from skipjax.checks import whole
from skipjax.codecs import Identity
from skipjax.conditioners import Labels, join, parts
from skipjax.pretrained import Network, Pretrained
from skipjax.process import Precondition, Process, Times, as_schedule
from skipjax.schedules import Form
from skipjax.training.objective import LEARN_VARIANCE, Loss, check
from skipjax.weights import registry

# May change when a run goes on: how long, and what is kept of it on the way.
MAY_CHANGE = ("steps", "save_every", "keep", "log_every", "sample_every")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that fixes a run but the pictures and the network.

    Args:
        schedule: The forward process: a name in `process.SCHEDULES`.
        T: Number of training times.
        prediction: What the network predicts, a name in `parameterizations`.
        loss: "mse", "min_snr", "hybrid" (ADM's, with a learned variance), "min_snr_hybrid" (both),
            or "skip_step" (S^2-DM's).
        gamma: Of "min_snr" and "min_snr_hybrid": the largest SNR that counts.
        skip: Of "skip_step": steps jumped over.
        tau: Of "skip_step": weight of DDPM's loss.
        form: Of "skip_step": "released" or "paper".
        steps: Steps in all. A longer run may go on from a shorter one's checkpoints.
        batch: Pictures per step, a multiple of the number of devices times `accumulate`.
        accumulate: Parts that a batch is computed in, one after the other, to save memory.
        rate: Peak learning rate of Adam.
        warmup: Steps over which the rate rises from 0.
        decay: Fraction of the steps over which it falls to 0 at the end.
        clip: Largest global norm of the gradient.
        weight_decay: Of AdamW, decoupled.
        ema: Decays of moving averages of the parameters; the first is what is sampled with.
        dtype: What the network computes in; parameters and their averages stay float32.
        drop_labels: Probability that a label is replaced by the null label, the last of the
            network's, for classifier-free guidance; 0 for networks without one.
        flip: Whether pictures are mirrored, half of the time.
        unmirrored: Labels of pictures that never are, such as letters and flags.
        shift: Largest random shift of a picture, in pixels, on white.
        seed: Of initialisation and of everything drawn.
        save_every: Steps between checkpoints.
        keep: Checkpoints kept, the newest.
        log_every: Steps between lines of the log.
        sample_every: Steps between samples; 0 for none.
    """

    schedule: str = "linear"
    T: int = 1000
    prediction: Literal["eps", "x_0", "v", "score", "velocity", "data_velocity", "edm"] = "eps"
    loss: Loss = "mse"
    gamma: float = 5.0
    skip: int = 9
    tau: float = 0.99
    form: Form = "released"
    steps: int = 20_000
    batch: int = 32
    accumulate: int = 1
    rate: float = 5e-4
    warmup: int = 200
    decay: float = 0.3
    clip: float = 1.0
    weight_decay: float = 0.0
    ema: tuple[float, ...] = (0.999,)
    dtype: Literal["float32", "bfloat16"] = "float32"
    drop_labels: float = 0.0
    flip: bool = False
    unmirrored: tuple[int, ...] = ()
    shift: int = 0
    seed: int = 0
    save_every: int = 500
    keep: int = 2
    log_every: int = 50
    sample_every: int = 0


@dataclass(frozen=True, kw_only=True)
class Run(Settings):
    """Everything that fixes a run but the samples: its settings, the network, the process.

    Args:
        network: The network, of any family that `weights.registry` knows.
        precondition: What the network is told of a point; default: t.
        bounds: Least and largest value of the data; None for latents.

    Raises:
        ValueError: For a value out of range, or a network that does not suit the loss.
    """

    network: Network
    precondition: Precondition = Times()
    bounds: tuple[float, float] | None = (-1.0, 1.0)

    def __post_init__(self):
        for name in ("network", "precondition"):
            if isinstance(found := getattr(self, name), dict):  # as JSON has it
                object.__setattr__(self, name, registry.build(name, found))
        if self.bounds is not None:
            object.__setattr__(self, "bounds", tuple(self.bounds))
        for name in ("ema", "unmirrored"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        least = {"T": 2, "steps": 1, "batch": 1, "accumulate": 1, "warmup": 0, "shift": 0}
        least |= {"save_every": 1, "keep": 1, "log_every": 1, "sample_every": 0, "seed": 0}
        for name, low in least.items():
            whole(name, getattr(self, name), low)
        for name in ("rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above 0")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay is {self.weight_decay}: it must be at least 0")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay is {self.decay}: it must be in 0 .. 1")
        if not self.ema:
            raise ValueError("ema is empty: give at least one decay, such as 0.999")
        for decay in self.ema:
            if not 0 <= decay < 1:
                raise ValueError(f"ema holds {decay}: decays must be in [0, 1)")
        if not 0 <= self.drop_labels < 1:
            raise ValueError(f"drop_labels is {self.drop_labels}: it must be in [0, 1)")
        if self.drop_labels and (self.num_labels or 0) < 2:
            raise ValueError(
                f"drop_labels is {self.drop_labels}, and the network has num_classes "
                f"{self.num_labels}: the last class must be there for no label at all"
            )
        self._check_unmirrored()
        if self.batch % self.accumulate:
            raise ValueError(
                f"batch is {self.batch}: it must be a multiple of accumulate, {self.accumulate}"
            )
        _ = self.process  # refuses a schedule or prediction that is not known
        check(self)

    def _check_unmirrored(self):
        if not self.unmirrored:
            return
        if self.classes is None:
            raise ValueError(
                f"unmirrored is {self.unmirrored}, and the network has no classes: leave it empty"
            )
        for label in self.unmirrored:
            whole("a label of unmirrored", label, 0, self.classes - 1)

    @property
    def process(self) -> Process:
        """What training fixes."""
        return Process(
            as_schedule(self.schedule, self.T),
            self.prediction,
            self.precondition,
            "learned_range" if self.loss in LEARN_VARIANCE else "small",
            self.bounds,
        )

    @property
    def num_labels(self) -> int | None:
        """Number of labels that the network knows; None where it takes none."""
        return getattr(self.network, "num_classes", None)

    @property
    def classes(self) -> int | None:
        """Number of labels that samples may have; None where the network takes none."""
        num = self.num_labels
        return None if num is None else num - bool(self.drop_labels)

    @property
    def null_label(self) -> int | None:
        """The label that stands for none, where labels are dropped."""
        num = self.num_labels
        return num - 1 if self.drop_labels and num else None

    def model(
        self,
        params: Any = None,
        name: str = "trained",
        class_names: tuple[str, ...] = (),
        like: Pretrained | None = None,
    ) -> Pretrained:
        """The network as what sampling takes.

        Args:
            params: Its weights.
            name: What to call it.
            class_names: Of its classes.
            like: What it was started from, whose conditioner, labels apart, codec and scheduler
                are then its own.
        """
        conditioner, codec = (None, Identity()) if like is None else (like.conditioner, like.codec)
        if self.num_labels is not None:
            labels = Labels(self.num_labels, class_names, self.null_label)
            rest = [p for p in parts(conditioner) if not isinstance(p, Labels)]
            conditioner = join([labels, *rest])
        scheduler = None if like is None else like.scheduler
        return Pretrained(params, self.network, self.process, conditioner, codec, name, scheduler)

    def describe(self) -> dict[str, Any]:
        """The run as JSON has it."""
        names = (field.name for field in fields(self))
        found = {name: getattr(self, name) for name in names}
        return found | {
            name: registry.describe(found[name]) for name in ("network", "precondition")
        }

    def divides(self, mesh: jax.sharding.Mesh, axis: str) -> None:
        """Refuses a mesh over which the batch cannot be spread.

        Raises:
            ValueError: If parts of a batch do not divide over the devices of that axis.
        """
        devices = mesh.shape[axis]
        if self.batch % (devices * self.accumulate):
            times = f" times accumulate = {self.accumulate}" if self.accumulate > 1 else ""
            raise ValueError(
                f"batch is {self.batch}: it must be a multiple of the {devices} devices{times}"
            )
