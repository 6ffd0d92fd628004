"""Pipelines like Stable Diffusion's, tiny: what the config.json of each part holds, and folders.

Two levels where the released networks have four, and pictures of 16 x 16 pixels; what is not said
has the default of its class.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tiny_vocabulary
from flax import traverse_util
from safetensors.numpy import save_file

from skipjax.models import param_shapes
from skipjax.weights import layout, registry

SIDE, FACTOR = 8, 2  # of latents, and pixels along each
SIZE = SIDE * FACTOR


class Pipeline(NamedTuple):
    """The parts of a pipeline.

    Attributes:
        cls: Its class.
        unet: Of the network.
        text: Of its text encoders, text_encoder and text_encoder_2; None where there is none.
        vae: Of the autoencoder.
        scheduler: `scheduler_config.json`.
        pads: What its tokenizers pad with.
        flags: Of model_index.json.
    """

    cls: str
    unet: dict[str, Any]
    text: tuple[dict[str, Any] | None, dict[str, Any] | None]
    vae: dict[str, Any]
    scheduler: dict[str, Any]
    pads: tuple[str, str] = (tiny_vocabulary.END, "!")
    flags: dict[str, Any] = {}


BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
# scheduler_config.json of 1.5, of 2.1, of XL base and of LCM dreamshaper.
PNDM = BETAS | {"_class_name": "PNDMScheduler", "steps_offset": 1, "skip_prk_steps": True}
PNDM |= {"set_alpha_to_one": False, "clip_sample": False, "num_train_timesteps": 1000}
DDIM = BETAS | {"_class_name": "DDIMScheduler", "steps_offset": 1, "clip_sample": False}
DDIM |= {"set_alpha_to_one": False}
EULER = BETAS | {"_class_name": "EulerDiscreteScheduler", "steps_offset": 1}
EULER |= {"timestep_spacing": "leading", "interpolation_type": "linear"}
EULER |= {"use_karras_sigmas": False, "prediction_type": "epsilon"}
LCM = BETAS | {"_class_name": "LCMScheduler", "original_inference_steps": 50}

CLIP_L = {
    "vocab_size": tiny_vocabulary.SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": tiny_vocabulary.POSITIONS,
    "hidden_act": "quick_gelu",
    "projection_dim": 16,
    "bos_token_id": 0,
    "eos_token_id": 2,  # as all released ones say
}
OPENCLIP = CLIP_L | {"hidden_size": 48, "hidden_act": "gelu", "projection_dim": 24}

VAE = {
    "block_out_channels": [16, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": SIZE,
    "scaling_factor": 0.18215,
}

UNET = {
    "sample_size": SIDE,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 4,
    "cross_attention_dim": CLIP_L["hidden_size"],
}
LINEAR = UNET | {"attention_head_dim": [2, 4], "use_linear_projection": True}
TIMES = 8  # numbers that each of XL's time ids becomes


def of_xl(text: int, pooled: int, times: int) -> dict[str, Any]:
    """The network of XL, told of text [L, text], of a pooled vector and of `times` numbers."""
    return LINEAR | {
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2],
        "cross_attention_dim": text,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIMES,
        "projection_class_embeddings_input_dim": pooled + times * TIMES,
    }


_BOTH = CLIP_L["hidden_size"] + OPENCLIP["hidden_size"]
_POOLED = OPENCLIP["projection_dim"]
PIPELINES = {
    "sd1": Pipeline("StableDiffusionPipeline", UNET, (CLIP_L, None), VAE, PNDM),
    "sd2": Pipeline(
        "StableDiffusionPipeline",
        LINEAR | {"cross_attention_dim": OPENCLIP["hidden_size"]},
        (OPENCLIP, None),
        VAE,
        DDIM | {"prediction_type": "v_prediction"},
        ("!", "!"),
    ),
    "xl": Pipeline(
        "StableDiffusionXLPipeline",
        of_xl(_BOTH, _POOLED, 6),
        (CLIP_L, OPENCLIP),
        VAE | {"scaling_factor": 0.13025},
        EULER,
        flags={"force_zeros_for_empty_prompt": True},
    ),
    "refiner": Pipeline(
        "StableDiffusionXLImg2ImgPipeline",
        of_xl(OPENCLIP["hidden_size"], _POOLED, 5),
        (None, OPENCLIP),
        VAE | {"scaling_factor": 0.13025},
        EULER,
        flags={"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True},
    ),
    "lcm": Pipeline(
        "LatentConsistencyModelPipeline",
        UNET | {"time_cond_proj_dim": 16},
        (CLIP_L, None),
        VAE,
        LCM,
    ),
    "inpainting": Pipeline(
        "StableDiffusionInpaintPipeline", UNET | {"in_channels": 9}, (CLIP_L, None), VAE, PNDM
    ),
}


CALM = 0.3  # of a network's last layer, or what it draws multiplies its rounding


def write(folder: Path, name: str = "sd1") -> Path:
    """The folder of one of `PIPELINES` as diffusers writes it, with random weights; without any
    library of theirs.
    """
    told = PIPELINES[name]
    index: dict[str, Any] = {"_class_name": told.cls, **told.flags}
    component(folder / "unet", "UNet2DConditionModel", told.unet)
    component(folder / "vae", "AutoencoderKL", told.vae)
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    scheduler = told.scheduler["_class_name"]
    put(folder / "scheduler" / "scheduler_config.json", told.scheduler)
    index["scheduler"] = ["diffusers", scheduler]
    for i, (fields, pad) in enumerate(zip(told.text, told.pads, strict=True), 1):
        if fields is not None:
            end, cls = ("", "CLIPTextModel") if i == 1 else ("_2", "CLIPTextModelWithProjection")
            component(folder / f"text_encoder{end}", cls, fields)
            tiny_vocabulary.write(folder / f"tokenizer{end}", pad)
            index[f"text_encoder{end}"] = ["transformers", cls]
            index[f"tokenizer{end}"] = ["transformers", "CLIPTokenizer"]
    if "XL" not in told.cls:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    put(folder / "model_index.json", index)
    return folder


def component(folder: Path, cls: str, fields: dict[str, Any]) -> Path:
    """The folder of a network."""
    of_text = cls.startswith("CLIP")
    said = {"architectures": [cls]} if of_text else {"_class_name": cls}
    put(folder / "config.json", said | fields)
    arrays = state_dict(registry.CLASSES[cls](said | fields))
    if cls == "UNet2DConditionModel":
        arrays["conv_out.weight"] *= CALM
    file = "model.safetensors" if of_text else "diffusion_pytorch_model.safetensors"
    save_file(arrays, folder / file)
    return folder


def state_dict(config: Any) -> dict[str, np.ndarray]:
    """Random weights such that every layer matters, by torch's names and in its layouts."""
    rng, found, name = np.random.default_rng(0), {}, registry.NAMES[type(config)]
    flat: Any = traverse_util.flatten_dict(param_shapes(config))
    for path, leaf in flat.items():
        shape = layout.accepted(path, leaf.shape)[0]
        value = rng.normal(size=shape)
        if path[-1] == "kernel":
            value /= np.prod(shape[1:]) ** 0.5
        elif path[-1] in ("scale", "bias"):
            value = 0.2 * value + (path[-1] == "scale")
        else:
            value *= 0.5
        found[name(path)] = value.astype(np.float32)
    return found


def put(path: Path, content: dict[str, Any]) -> None:
    """A file of JSON, in folders that are made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
