"""What is the same in all single files of a family, and in none of them: configs that are shipped.

A scheduler is as in the repositories of diffusers that the family was released in.
"""

from dataclasses import dataclass, field
from typing import Any

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULE |= {"num_train_timesteps": 1000, "steps_offset": 1, "clip_sample": False}
PNDM = SCHEDULE | {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
DDIM = SCHEDULE | {"_class_name": "DDIMScheduler", "set_alpha_to_one": False}
EULER = SCHEDULE | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}


@dataclass(frozen=True)
class Family:
    """Stable Diffusion of a version.

    Attributes:
        name: What people call it.
        sample_size: Side of a latent that it was trained on.
        scheduler: Its scheduler_config.json, of networks that predict eps.
        of_v: Of those that predict v.
        scaling_factor: Of its latents.
        pipeline: The class of its pipeline.
        zeros_for_empty: Whether zeros stand for an empty negative prompt.
        aesthetic: Whether it is told of a score.
    """

    name: str
    sample_size: int
    scheduler: dict[str, Any] = field(default_factory=lambda: PNDM)
    of_v: dict[str, Any] = field(default_factory=lambda: DDIM)
    scaling_factor: float = 0.18215
    pipeline: str = "StableDiffusionPipeline"
    zeros_for_empty: bool = False
    aesthetic: bool = False


_XL = {"scheduler": EULER, "of_v": EULER, "scaling_factor": 0.13025}
SD1 = Family("Stable Diffusion 1", 64)
SD2 = Family("Stable Diffusion 2", 64)
XL = Family(
    "Stable Diffusion XL", 128, **_XL, pipeline="StableDiffusionXLPipeline", zeros_for_empty=True
)
REFINER = Family(
    "Stable Diffusion XL's refiner",
    128,
    **_XL,
    pipeline="StableDiffusionXLImg2ImgPipeline",
    aesthetic=True,
)
SIDE_OF_V = 96  # of a latent, of Stable Diffusion 2 that predicts v

# Names, or parts of names, that tell what is not read.
REFUSED = {
    "double_blocks.": "Flux",
    "joint_blocks.": "Stable Diffusion 3",
    ".add_q_proj.": "Stable Diffusion 3 or Flux",
    "clip_txt_mapper.": "Stable Cascade",
    "effnet_mapper.": "Stable Cascade",
    "control_model.": "ControlNet",
    "input_hint_block.": "ControlNet",
    "controlnet_cond_embedding.": "ControlNet",
    "motion_modules.": "AnimateDiff",
    "edm_mean": "Playground 2.5",
    "noise_augmentor.": "Stable unCLIP",
    "time_stack.": "Stable Video Diffusion",
    "weight.absmax": "quantised weights",
    "weight.quant_map": "quantised weights",
    "scaled_fp8": "weights scaled to 8 bits",
    ".scale_weight": "weights scaled to 8 bits",
}
OF_LORAS = ("lora_", ".lora.", "hada_", "lokr_")
