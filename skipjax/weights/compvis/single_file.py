"""A single file of a whole Stable Diffusion, or of one of its networks: told by names and shapes.

It holds no configs. Those follow from shapes, and what does not is that of the family
(`compvis.released`).
"""

import re
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from skipjax.weights import registry
from skipjax.weights.components import Component, Found, of
from skipjax.weights.compvis import networks, prediction, released
from skipjax.weights.compvis.networks import Part, Tensors
from skipjax.weights.compvis.released import Family
from skipjax.weights.diffusers import classes, pipelines
from skipjax.weights.diffusers import scheduler as schedulers
from skipjax.weights.diffusers.configs import PREDICTION_TYPES
from skipjax.weights.readers import edm_pickle, state_dict

UNET, VAE = "model.diffusion_model.", "first_stage_model."
# Of text encoders: prefix, component, whether it is OpenCLIP's, and whose it is.
ENCODERS = (
    ("cond_stage_model.transformer.", "text_encoder", False, released.SD1),
    ("cond_stage_model.model.", "text_encoder", True, released.SD2),
    ("conditioner.embedders.0.transformer.", "text_encoder", False, released.XL),
    ("conditioner.embedders.0.model.", "text_encoder_2", True, released.REFINER),
    ("conditioner.embedders.1.model.", "text_encoder_2", True, released.XL),
)
# What is not of any network, and what training leaves behind.
_IGNORED = re.compile(
    r"betas$|alphas_cumprod|sqrt_|posterior_|log_one_minus|logvar$|lvlb_weights$|model_ema\."
    r"|first_stage_model\.(loss\.|model_ema\.)|.*\.position_ids$|.*\.logit_scale$|denoiser\."
    r"|scale_factor$|v_pred$|ztsnr$|embedding_manager\."
)

_FIRST = {"conv_in.weight", "input_blocks.0.0.weight"}  # of a U-Net's tensors
_XL_TOLD = 1280 + 6 * 256  # channels of what XL's base is told beside the time


def find(path: Path, key: str | None = None, told: str | None = None) -> Found | None:
    """What a file holds, before any weight is read; None if it is none of Stable Diffusion's.

    Args:
        path: A .safetensors, or a .ckpt that torch.save wrote.
        key: Of the state dict in it; default: found.
        told: What the network predicts, "eps" or "v"; default: what the file says, or seems to.

    Raises:
        ValueError: If it is a file of what is known by name and not read, lacks something, or
            holds more than is known of.
    """
    prediction.check(told)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            tensors = {} if edm_pickle.is_one(path) else state_dict.read(path, key)
    except ValueError:
        return None  # whoever reads other files says what is the matter
    if all(name.startswith("diffusion_model.") for name in tensors):  # "model." was of all
        tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
    try:
        _refuse(tensors)
        parts = _parts(tensors)
        if not parts:
            return None
        for warning in said:
            warnings.warn(str(warning.message), stacklevel=2)
        about = state_dict.about(path)
        return _found(path, parts, tensors, about, told)
    except ValueError as error:
        raise of(path, error) from None


def _found(
    path: Path,
    parts: dict[str, Part],
    tensors: Tensors,
    about: Mapping[str, Any],
    told: str | None,
) -> Found:
    """The model that the networks of a file make, and these."""
    if "unet" not in parts:
        (name,) = parts
        config = classes.network(*parts[name].described())
        if name == "vae" and not tensors.keys() & {"decoder.layers.0.weight"}:
            warnings.warn(
                f"{path} does not say how its latents are scaled: took "
                f"{released.SD1.scaling_factor}, that of Stable Diffusion 1 and 2; with XL's give "
                "config=AutoencoderKLConfig(..., scaling_factor=0.13025), or its folder",
                stacklevel=4,
            )
        model = registry.MODELS[type(config)](config, path.stem)
        components = {name: Component(config, partial(parts[name].named, config), path)}
        return Found(path, model, components, (path,))
    family = _family(parts)
    predicts, zero_snr = prediction.find(path, family, parts["unet"], tensors, about, told)
    scheduler = family.of_v if predicts == "v" or zero_snr else family.scheduler
    scheduler = scheduler | {"prediction_type": PREDICTION_TYPES[predicts]}
    if zero_snr:
        scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    side = family.sample_size
    if family == released.SD2 and predicts == "v":
        side = released.SIDE_OF_V
    fields: dict[str, dict[str, Any]] = {"unet": {"sample_size": side}}
    fields["vae"] = {"scaling_factor": family.scaling_factor}
    configs = {}
    for name, part in parts.items():
        cls, from_shapes = part.described()
        configs[name] = classes.network(cls, from_shapes | fields.get(name, {}))
    if parts["unet"].averaged:
        warnings.warn(
            f"{path}: took model_ema, the average of the U-Net's weights; those of the last step "
            "are there too",
            stacklevel=4,
        )
    if not any(name.startswith("text_encoder") for name in parts):
        pipelines.say(f"{path} holds no text encoder", "text_encoder")
    if "vae" not in parts:
        pipelines.say(f"{path} holds no autoencoder", "vae")
    settings = pipelines.Settings(family.zeros_for_empty, family.aesthetic)
    read = schedulers.read(scheduler, family.pipeline)
    model = pipelines.assemble(path.stem, configs, (), read, settings)
    components = {
        name: Component(config, partial(parts[name].named, config), path)
        for name, config in configs.items()
    }
    return Found(path, model, components, (path,))


def _parts(tensors: Tensors) -> dict[str, Part]:
    """The networks of a file by component; none where it holds none that is known.

    Raises:
        ValueError: If it holds tensors of none of them besides.
    """
    sections = {"unet": _section(tensors, UNET), "vae": _section(tensors, VAE)}
    if sections["unet"]:
        parts = {"unet": networks.unet(sections["unet"], _section(tensors, "model_ema."))}
        taken = [UNET, VAE]
        if sections["vae"]:
            parts["vae"] = networks.autoencoder(sections["vae"])
        for prefix, name, openclip, family in ENCODERS:
            if section := _section(tensors, prefix):
                last = family != released.SD2  # of its encoder the last but one layer is used
                parts[name] = networks.text_encoder(section, openclip, last)
                taken.append(prefix)
        left = [n for n in tensors if not n.startswith(tuple(taken)) and not _IGNORED.match(n)]
        if left:
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            raise ValueError(f"it holds what is of no network: {', '.join(left[:3])}{more}")
        return parts
    alone = {n: t for n, t in tensors.items() if not _IGNORED.match(n)}
    if sections["vae"]:
        return {"vae": networks.autoencoder(sections["vae"])}
    names = alone.keys()
    if any(".attn2." in name for name in names) and names & _FIRST:
        return {"unet": networks.unet(alone, {})}
    if names >= {"encoder.conv_in.weight", "decoder.conv_in.weight"}:
        return {"vae": networks.autoencoder(alone)}
    if names >= {"encoder.layers.0.weight", "decoder.layers.0.weight"}:
        return {"vae": networks.tiny_autoencoder(alone)}
    if any(name.endswith("embeddings.token_embedding.weight") for name in names):
        if not any("vision_model" in name for name in names):
            return {"text_encoder": networks.text_encoder(alone, False, True)}
    return {}


def _section(tensors: Tensors, prefix: str) -> dict[str, Any]:
    """The tensors with a prefix, without it, but for those that are of no network."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and (prefix == "model_ema." or not _IGNORED.match(name))
    }


def _family(parts: Mapping[str, Part]) -> Family:
    """Whose networks these are, by their text encoders; of a U-Net alone by itself."""
    unet = parts["unet"].described()[1]
    told = unet.get("projection_class_embeddings_input_dim")
    if told is not None:
        # Of six sizes, or of five and with OpenCLIP's encoder alone.
        six = "text_encoder" in parts or ("text_encoder_2" not in parts and told == _XL_TOLD)
        return released.XL if six else released.REFINER
    return released.SD2 if unet["use_linear_projection"] else released.SD1


def _refuse(tensors: Tensors) -> None:
    """Refuses files by what they seem to be."""
    for name in tensors:
        if any(mark in name for mark in released.OF_LORAS):
            raise ValueError(
                "it is a LoRA, which changes another network: load(CHECKPOINT, loras={path: 1.0})"
            )
        for mark, whose in released.REFUSED.items():
            if mark in name:
                raise ValueError(f"it holds {name}: it is of {whose}, which is not read")
