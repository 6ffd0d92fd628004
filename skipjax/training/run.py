"""What fixes a training run, apart from its pictures."""

from dataclasses import dataclass
from typing import Literal

import jax

from skipjax.checks import whole
from skipjax.models import UNetConfig
from skipjax.pretrained import SCHEDULES, Spec
from skipjax.schedules import Form, Schedule
from skipjax.training import losses
from skipjax.training.objective import LEARN_VARIANCE, Loss, check

# May change when a run goes on: how long, and what is kept of it on the way.
MAY_CHANGE = ("steps", "save_every", "keep", "log_every", "sample_every")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that fixes a run but the pictures and the network.

    Args:
        schedule: The forward process: a name that `Spec` knows.
        T: Number of training times.
        prediction: What the network predicts: "eps", "x_0" or "v".
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
    prediction: losses.Prediction = "eps"
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
    """Everything that fixes a run but the pictures: its settings, and the network.

    Args:
        unet: The network.

    Raises:
        ValueError: For a value out of range, or a network that does not suit the loss.
    """

    unet: UNetConfig

    def __post_init__(self):
        if isinstance(self.unet, dict):  # as JSON has it
            object.__setattr__(self, "unet", UNetConfig(**self.unet))
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
        if self.drop_labels and (self.unet.num_classes or 0) < 2:
            raise ValueError(
                f"drop_labels is {self.drop_labels}, and the network has num_classes "
                f"{self.unet.num_classes}: the last class must be there for no label at all"
            )
        self._check_unmirrored()
        if self.batch % self.accumulate:
            raise ValueError(
                f"batch is {self.batch}: it must be a multiple of accumulate, {self.accumulate}"
            )
        Spec("", self.unet, self.schedule, self.T)  # refuses a schedule that is not known
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
    def process(self) -> Schedule:
        """The forward process."""
        return SCHEDULES[self.schedule](self.T)

    @property
    def classes(self) -> int | None:
        """Number of labels that pictures may have; None where the network takes none."""
        num = self.unet.num_classes
        return None if num is None else num - bool(self.drop_labels)

    @property
    def null_label(self) -> int | None:
        """The label that stands for none, where labels are dropped."""
        classes = self.unet.num_classes
        return classes - 1 if self.drop_labels and classes else None

    def spec(self, name: str = "trained", class_names: tuple[str, ...] = ()) -> Spec:
        """What sampling has to know of the network."""
        return Spec(
            name,
            self.unet,
            self.schedule,
            self.T,
            self.prediction,
            class_names,
            variance="learned_range" if self.loss in LEARN_VARIANCE else "small",
            null_label=self.null_label,
        )

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
