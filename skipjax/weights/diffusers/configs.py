"""The fields of scheduler_config.json, class by class with diffusers' defaults, and their meaning.

A field that is absent has the default of its class, whichever network it comes with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from skipjax import schedules
from skipjax.plans import schedulers
from skipjax.process import one_of
from skipjax.schedules import Schedule, Variance

PREDICTIONS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
PREDICTION_TYPES = {ours: theirs for theirs, ours in PREDICTIONS.items()}
VARIANCES: dict[str, Variance] = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
    "learned": "learned",
    "learned_range": "learned_range",
}
# (T, beta_start, beta_end), which are not scaled by T as those of `schedules` are.
SCHEDULES: dict[str, Callable[[int, float, float], Schedule]] = {
    "linear": lambda T, a, b: schedules.from_betas(np.linspace(a, b, T)),
    "scaled_linear": lambda T, a, b: schedules.from_betas(np.linspace(a**0.5, b**0.5, T) ** 2),
    "squaredcos_cap_v2": lambda T, a, b: schedules.cosine(T),
    "sigmoid": schedules.sigmoid,
}
MOST_TIMES = 1_000_000
ALMOST_ZERO = 2.0**-12  # alpha at T-1 of what cannot start from zero SNR


@dataclass(frozen=True)
class Config:
    """What most of them have; what one lacks, and a file may hold all the same, it ignores."""

    num_train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    rescale_betas_zero_snr: bool = False
    clip_sample: bool = False
    clip_sample_range: float = 1.0
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0

    ignores: ClassVar[tuple[str, ...]] = ()
    starts_from_zero_snr: ClassVar[bool] = True

    def __post_init__(self):
        one_of("prediction_type", self.prediction_type, tuple(PREDICTIONS))
        one_of("timestep_spacing", self.timestep_spacing, ("leading", "trailing", "linspace"))
        if not 0 < self.clip_sample_range < np.inf:
            raise ValueError(f"clip_sample_range is {self.clip_sample_range}: it must be positive")
        if not 0 < self.dynamic_thresholding_ratio <= 1 or not self.sample_max_value >= 1:
            raise ValueError(
                "dynamic_thresholding_ratio must be in (0, 1] and sample_max_value at least 1, "
                f"got {self.dynamic_thresholding_ratio} and {self.sample_max_value}"
            )

    @property
    def schedule(self) -> Schedule:
        """The forward process."""
        T, start, end = self.num_train_timesteps, self.beta_start, self.beta_end
        if not 1 <= T <= MOST_TIMES:
            raise ValueError(f"num_train_timesteps is {T}: it must be in 1 .. {MOST_TIMES}")
        if not (0 <= start < 1 and 0 <= end < 1):
            raise ValueError(f"beta_start .. beta_end is {start} .. {end}: they must be in 0 .. 1")
        if self.trained_betas is not None:
            found = schedules.from_betas(self.trained_betas)
        else:
            one_of("beta_schedule", self.beta_schedule, tuple(SCHEDULES))
            found = SCHEDULES[self.beta_schedule](T, start, end)
        if not self.rescale_betas_zero_snr:
            return found
        found = schedules.zero_terminal_snr(found)
        if self.starts_from_zero_snr:
            return found
        alpha = np.append(found.alpha[:-1], ALMOST_ZERO)
        return Schedule(alpha, np.sqrt(1 - alpha**2))

    @property
    def grid(self) -> dict[str, Any]:
        """Spacing and offset, as all methods take them."""
        return {"spacing": self.timestep_spacing, "offset": self.steps_offset}

    @property
    def method(self) -> Any:
        """What writes the plan; None if there is nothing that does."""
        return None


@dataclass(frozen=True)
class DDPMScheduler(Config):
    clip_sample: bool = True
    variance_type: str = "fixed_small"

    def __post_init__(self):
        super().__post_init__()
        one_of("variance_type", self.variance_type, tuple(VARIANCES))

    @property
    def method(self) -> Any:
        return schedulers.DDPM(**self.grid, variance=VARIANCES[self.variance_type])


@dataclass(frozen=True)
class DDIMScheduler(Config):
    clip_sample: bool = True
    set_alpha_to_one: bool = True

    @property
    def method(self) -> Any:
        clips = self.clip_sample or self.thresholding
        return schedulers.DDIM(**self.grid, to_data=self.set_alpha_to_one, clipped_eps=not clips)


@dataclass(frozen=True)
class PNDMScheduler(Config):
    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False

    ignores: ClassVar[tuple[str, ...]] = ("clip_sample", "thresholding", "rescale_betas_zero_snr")

    @property
    def method(self) -> Any:
        return schedulers.PNDM(
            **self.grid,
            to_data=self.set_alpha_to_one,
            skip_runge_kutta=self.skip_prk_steps,
            mean_of="v" if self.prediction_type == "v_prediction" else "eps",
        )


@dataclass(frozen=True)
class LCMScheduler(Config):
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    original_inference_steps: int = 50
    timestep_scaling: float = 10.0

    @property
    def method(self) -> Any:
        return schedulers.LCM(self.original_inference_steps, self.timestep_scaling)
