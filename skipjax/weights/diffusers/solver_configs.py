"""The fields of scheduler_config.json, as `configs` has them, of what steps in sigma / alpha."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from skipjax.plans import schedulers
from skipjax.process import one_of
from skipjax.weights.diffusers.configs import Config


@dataclass(frozen=True)
class Solver(Config):
    """Those that step in sigma / alpha."""

    timestep_spacing: str = "linspace"
    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: bool | None = False
    use_lu_lambdas: bool | None = False
    use_flow_sigmas: bool | None = False
    final_sigmas_type: str = "zero"
    sigma_min: float | None = None
    sigma_max: float | None = None

    starts_from_zero_snr: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        one_of("final_sigmas_type", self.final_sigmas_type, ("zero", "sigma_min"))
        if self.use_flow_sigmas:
            raise ValueError("use_flow_sigmas is true: schedulers of flows are not read")

    @property
    def spread(self) -> dict[str, Any]:
        """Where the levels stand, as methods in sigma / alpha take it."""
        kinds = {"karras": self.use_karras_sigmas, "exponential": self.use_exponential_sigmas}
        kinds |= {"beta": self.use_beta_sigmas}
        chosen = [kind for kind, used in kinds.items() if used]
        if len(chosen) > 1:
            raise ValueError(f"sigmas are spread by {' and by '.join(chosen)}: only one can be")
        ends = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        found = {"spread": chosen[0] if chosen else None, **ends}
        return self.grid | found | {"to_data": self.final_sigmas_type == "zero"}


@dataclass(frozen=True)
class EulerDiscreteScheduler(Solver):
    interpolation_type: str = "linear"
    timestep_type: str = "discrete"

    ignores: ClassVar[tuple[str, ...]] = ("clip_sample", "thresholding", "use_flow_sigmas")

    @property
    def method(self) -> Any:
        if self.timestep_type != "discrete" and self.prediction_type == "v_prediction":
            raise ValueError(
                f"timestep_type is {self.timestep_type!r}: networks that are told log sigma / 4 "
                "are not read"
            )
        one_of("interpolation_type", self.interpolation_type, ("linear", "log_linear"))
        spread = self.spread
        if self.interpolation_type == "log_linear":
            if spread["spread"] is not None:
                raise ValueError("interpolation_type is log_linear, and sigmas are spread too")
            spread["spread"] = "log_linear"
        return schedulers.Euler(**spread)


@dataclass(frozen=True)
class EulerAncestralDiscreteScheduler(Solver):
    ignores: ClassVar[tuple[str, ...]] = ("clip_sample", "thresholding", "use_flow_sigmas")

    @property
    def method(self) -> Any:
        return schedulers.Euler(**self.grid, ancestral=True)


@dataclass(frozen=True)
class HeunDiscreteScheduler(Solver):
    beta_start: float = 0.00085
    beta_end: float = 0.012

    ignores: ClassVar[tuple[str, ...]] = (
        "thresholding",
        "rescale_betas_zero_snr",
        "use_flow_sigmas",
        "final_sigmas_type",
        "sigma_min",
        "sigma_max",
    )

    @property
    def method(self) -> Any:
        return schedulers.Heun(**self.spread)


@dataclass(frozen=True)
class DPMSolverMultistepScheduler(Solver):
    solver_order: int = 2
    algorithm_type: str = "dpmsolver++"
    solver_type: str = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    lambda_min_clipped: float = -float("inf")

    ignores: ClassVar[tuple[str, ...]] = ("clip_sample", "sigma_min", "sigma_max")

    @property
    def method(self) -> Any:
        known = ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "deis")
        one_of("algorithm_type", self.algorithm_type, known)
        sde = self.algorithm_type.startswith("sde-")
        if self.algorithm_type == "sde-dpmsolver" or sde and self.solver_order == 3:
            return None
        spread, cosine = self.spread, self.beta_schedule == "squaredcos_cap_v2"
        # Times of Karras's levels are rounded, and all of them then turned into whole numbers.
        rounded = (self.use_karras_sigmas or self.use_lu_lambdas) and not cosine
        if self.use_lu_lambdas:
            spread["spread"] = spread["spread"] or "exponential"
        least = self.lambda_min_clipped
        return schedulers.DPM(
            **spread,
            told="rounded" if rounded else "cut",
            order=self.solver_order,
            space="eps" if self.algorithm_type == "dpmsolver" else "x_0",
            sde=sde,
            solver_type="heun" if self.solver_type == "heun" else "midpoint",
            lower_order_final=self.lower_order_final,
            euler_at_final=self.euler_at_final,
            log_snr_min=least if np.isfinite(least) else None,
        )


@dataclass(frozen=True)
class UniPCMultistepScheduler(Solver):
    solver_order: int = 2
    predict_x0: bool = True
    solver_type: str = "bh2"
    lower_order_final: bool = True
    disable_corrector: tuple[int, ...] = ()
    solver_p: Any = None

    ignores: ClassVar[tuple[str, ...]] = ("clip_sample",)

    @property
    def method(self) -> Any:
        if self.solver_p is not None:
            return None
        return schedulers.UniPC(
            **self.spread,
            told="rounded" if self.use_karras_sigmas else "cut",
            order=self.solver_order,
            space="x_0" if self.predict_x0 else "eps",
            variant="bh1" if self.solver_type == "bh1" else "bh2",
            lower_order_final=self.lower_order_final,
            uncorrected=self.disable_corrector,
        )


@dataclass(frozen=True)
class Unoffered(Solver):
    """Those whose process is known, and for which there is no plan."""

    ignores: ClassVar[tuple[str, ...]] = ("clip_sample",)


@dataclass(frozen=True)
class Scaled(Unoffered):
    beta_start: float = 0.00085
    beta_end: float = 0.012


@dataclass(frozen=True)
class TCDScheduler(Scaled):
    beta_schedule: str = "scaled_linear"
    timestep_spacing: str = "leading"
