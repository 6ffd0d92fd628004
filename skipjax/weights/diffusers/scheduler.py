"""diffusers' scheduler_config.json: what process a network was trained for, and its sampler."""

import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from skipjax.plans.schedulers import Scheduler
from skipjax.weights.diffusers.configs import (
    PREDICTIONS,
    VARIANCES,
    Config,
    DDIMScheduler,
    DDPMScheduler,
    LCMScheduler,
    PNDMScheduler,
)
from skipjax.weights.diffusers.solver_configs import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    Scaled,
    TCDScheduler,
    UniPCMultistepScheduler,
    Unoffered,
)
from skipjax.weights.fields import construct

CLASSES: dict[str, type[Config]] = {
    "DDPMScheduler": DDPMScheduler,
    "DDPMParallelScheduler": DDPMScheduler,
    "DDIMScheduler": DDIMScheduler,
    "DDIMParallelScheduler": DDIMScheduler,
    "PNDMScheduler": PNDMScheduler,
    "LCMScheduler": LCMScheduler,
    "EulerDiscreteScheduler": EulerDiscreteScheduler,
    "EulerAncestralDiscreteScheduler": EulerAncestralDiscreteScheduler,
    "HeunDiscreteScheduler": HeunDiscreteScheduler,
    "DPMSolverMultistepScheduler": DPMSolverMultistepScheduler,
    "UniPCMultistepScheduler": UniPCMultistepScheduler,
    "DEISMultistepScheduler": Unoffered,
    "DPMSolverSinglestepScheduler": Unoffered,
    "DPMSolverSDEScheduler": Scaled,
    "KDPM2AncestralDiscreteScheduler": Scaled,
    "KDPM2DiscreteScheduler": Scaled,
    "LMSDiscreteScheduler": Unoffered,
    "SASolverScheduler": Unoffered,
    "TCDScheduler": TCDScheduler,
}
# Pipelines that sample by a scheduler of their own class, whichever they come with.
OF_PIPELINES = {"DDIMPipeline": "DDIMScheduler", "PNDMPipeline": "PNDMScheduler"}
# Of a pipeline, or where it is not known, of a scheduler; all others take 50.
STEPS = {"DDPMPipeline": 1000, "DDIMPipeline": 50, "PNDMPipeline": 50, "DiTPipeline": 50}
STEPS |= {"LDMPipeline": 50, "StableDiffusionPipeline": 50, "StableDiffusionXLPipeline": 50}
STEPS |= {"LatentConsistencyModelPipeline": 4, "LCMScheduler": 4}
STEPS |= {"DDPMScheduler": 1000, "DDPMParallelScheduler": 1000}
# Of one class or another: a config keeps those of the class that it was made from.
KNOWN = {f.name for cls in CLASSES.values() for f in fields(cls)}
KNOWN |= {"flow_shift", "use_dynamic_shifting", "time_shift_type", "shift_terminal"}
KNOWN |= {"noise_sampler_seed", "predictor_order", "corrector_order", "tau_func"}


class Read(NamedTuple):
    """What a config says.

    Attributes:
        process: Fields of the process, by name; bounds where x_0 is clipped or expressly not.
        scheduler: The sampler; None if there is no plan of its kind.
    """

    process: dict[str, Any]
    scheduler: Scheduler | None


def read(said: Mapping[str, Any], pipeline: str | None = None) -> Read:
    """What a scheduler_config.json says.

    Args:
        said: Its content, with `_class_name`.
        pipeline: Class of the pipeline that it comes with.

    Raises:
        ValueError: If its class is not known, with those that are; or for a value that is not
            supported.
    """
    name = str(said.get("_class_name")).removeprefix("Flax")
    if name not in CLASSES:
        known = ", ".join(CLASSES)
        raise ValueError(f"its scheduler is a {name}, which is not read; known are {known}")
    name = OF_PIPELINES.get(pipeline or "", name)
    cls = CLASSES[name]
    own = {field.name for field in fields(cls)} - {*cls.ignores}
    unknown = [key for key in said if key not in KNOWN and not key.startswith("_")]
    if unknown:
        warnings.warn(
            f"scheduler_config.json: nothing is known of {', '.join(unknown)}", stacklevel=2
        )
    what = f"scheduler_config.json, a {name}"
    config = construct(what, cls, {key: value for key, value in said.items() if key in own})
    try:
        method, schedule = config.method, config.schedule
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    process: dict[str, Any] = {"schedule": schedule}
    process["parameterization"] = PREDICTIONS[config.prediction_type]
    if config.thresholding:
        process["bounds"] = (-1.0, 1.0)
    elif config.clip_sample:
        process["bounds"] = (-config.clip_sample_range, config.clip_sample_range)
    elif "clip_sample" not in cls.ignores:
        process["bounds"] = None
    if isinstance(config, DDPMScheduler):
        process["variance"] = VARIANCES[config.variance_type]
    if method is None:
        warnings.warn(
            f"its own sampler, a {name} as it is set, is not offered: name a plan, or it is "
            "sampled by skipped steps",
            stacklevel=2,
        )
        return Read(process, None)
    steps = STEPS.get(pipeline or "", STEPS.get(name, 50))
    steps = min(steps, schedule.T)
    if config.thresholding:
        threshold = config.dynamic_thresholding_ratio, config.sample_max_value
        return Read(process, Scheduler(method, steps, threshold=threshold))
    clip = config.clip_sample_range if config.clip_sample else None
    return Read(process, Scheduler(method, steps, clip))
