"""A process and a sampler as scheduler_config.json has them: the inverse of `scheduler.read`."""

import itertools
import warnings
from typing import Any

import numpy as np

from skipjax.plans import schedulers
from skipjax.plans.schedulers import Scheduler
from skipjax.process import Process, Times
from skipjax.schedules import Schedule
from skipjax.weights.diffusers import scheduler as reading
from skipjax.weights.diffusers.configs import PREDICTION_TYPES, SCHEDULES, VARIANCES

_RANGES = {"scaled_linear": (0.00085, 0.012), "linear": (1e-4, 0.02)}
_RANGES |= {"squaredcos_cap_v2": (1e-4, 0.02), "sigmoid": (1e-4, 0.02)}
_SPREADS = {kind: f"use_{kind}_sigmas" for kind in ("karras", "exponential", "beta")}
_CLASSES = {
    schedulers.DDPM: "DDPMScheduler",
    schedulers.DDIM: "DDIMScheduler",
    schedulers.PNDM: "PNDMScheduler",
    schedulers.LCM: "LCMScheduler",
    schedulers.Euler: "EulerDiscreteScheduler",
    schedulers.Heun: "HeunDiscreteScheduler",
    schedulers.DPM: "DPMSolverMultistepScheduler",
    schedulers.UniPC: "UniPCMultistepScheduler",
}
CLOSE = 1e-9  # of alpha and sigma that come of betas


def describe(process: Process, scheduler: Scheduler | None) -> dict[str, Any]:
    """The content of a scheduler_config.json.

    Args:
        process: What training fixed.
        scheduler: The sampler; None for none, in whose place DDIM is written.

    Raises:
        ValueError: If diffusers has no scheduler of the kind.
    """
    if process.precondition != Times() or process.parameterization not in PREDICTION_TYPES:
        raise ValueError(
            "its process is none of diffusers' schedulers: they are told whole times, of networks "
            f"that predict {', '.join(PREDICTION_TYPES)}"
        )
    clip = None if process.bounds is None else process.bounds[1]
    own = scheduler or Scheduler(schedulers.DDIM(clipped_eps=clip is None), 50, clip)
    cls = _CLASSES.get(type(own.method))
    if cls is None:
        raise ValueError(f"its sampler is {own.method}, of which diffusers has no scheduler")
    if isinstance(own.method, schedulers.Euler) and own.method.ancestral:
        cls = "EulerAncestralDiscreteScheduler"
    said: dict[str, Any] = {"_class_name": cls} | _method(own.method, process)
    said["prediction_type"] = PREDICTION_TYPES[process.parameterization]
    said["clip_sample"] = own.clip is not None
    if own.clip is not None:
        said["clip_sample_range"] = own.clip
    if own.threshold is not None:
        ratio, largest = own.threshold
        said |= {"thresholding": True, "dynamic_thresholding_ratio": ratio}
        said["sample_max_value"] = largest
    said |= _schedule(process.schedule, said)
    with warnings.catch_warnings(action="ignore"):
        back = reading.read(said)
    if back.scheduler is None or back.scheduler.method != own.method:
        raise ValueError(f"its sampler, {own.method}, is not one that a {cls} can be set to")
    return said


def _method(method: Any, process: Process) -> dict[str, Any]:
    """The fields that a method follows from."""
    if isinstance(method, schedulers.LCM):
        said = {"original_inference_steps": method.original}
        return said | {"timestep_scaling": method.scaling}
    said = {"timestep_spacing": method.spacing, "steps_offset": method.offset}
    if isinstance(method, schedulers.DDPM):
        kinds = {ours: theirs for theirs, ours in reversed(VARIANCES.items())}
        return said | {"variance_type": kinds[process.variance]}
    if isinstance(method, schedulers.DDIM):
        return said | {"set_alpha_to_one": method.to_data}
    if isinstance(method, schedulers.PNDM):
        said["set_alpha_to_one"] = method.to_data
        return said | {"skip_prk_steps": method.skip_runge_kutta}
    if method.spread in _SPREADS:
        said[_SPREADS[method.spread]] = True
    elif method.spread is not None:
        said["interpolation_type"] = method.spread
    said["final_sigmas_type"] = "zero" if method.to_data else "sigma_min"
    ends = {"sigma_min": method.sigma_min, "sigma_max": method.sigma_max}
    said |= {name: end for name, end in ends.items() if end is not None}
    if isinstance(method, schedulers.DPM):
        kind = "dpmsolver" if method.space == "eps" else "dpmsolver++"
        said["algorithm_type"] = f"sde-{kind}" if method.sde else kind
        said |= {"solver_order": method.order, "solver_type": method.solver_type}
        said |= {"lower_order_final": method.lower_order_final}
        said |= {"euler_at_final": method.euler_at_final}
        if method.log_snr_min is not None:
            said["lambda_min_clipped"] = method.log_snr_min
    if isinstance(method, schedulers.UniPC):
        said |= {"solver_order": method.order, "solver_type": method.variant}
        said |= {"predict_x0": method.space == "x_0"}
        said |= {"lower_order_final": method.lower_order_final}
        said |= {"disable_corrector": list(method.uncorrected)}
    return said


def _schedule(schedule: Schedule, said: dict[str, Any]) -> dict[str, Any]:
    """The betas: by name where they have one."""
    for kind, rescaled in itertools.product(SCHEDULES, (False, True)):
        start, end = _RANGES[kind]
        fields = {"num_train_timesteps": schedule.T, "beta_schedule": kind}
        fields |= {"beta_start": start, "beta_end": end, "rescale_betas_zero_snr": rescaled}
        try:
            if _same(reading.read(said | fields).process["schedule"], schedule):
                return fields
        except ValueError:  # of so few times there is none, or none of zero SNR
            continue
    abar = np.asarray(schedule.alpha) ** 2
    betas = 1 - abar / np.append(1.0, abar[:-1])
    fields = {"num_train_timesteps": schedule.T, "trained_betas": betas.tolist()}
    if not _same(reading.read(said | fields).process["schedule"], schedule):
        raise ValueError("its schedule does not preserve variance: diffusers has no such betas")
    return fields


def _same(a: Schedule, b: Schedule) -> bool:
    return all(
        np.shape(x) == np.shape(y) and np.allclose(x, y, rtol=0, atol=CLOSE)
        for x, y in zip(a, b, strict=True)
    )
