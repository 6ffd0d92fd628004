"""Which network each tensor of a single file is of, and whose networks these are."""

import re
from collections.abc import Mapping
from typing import Any

from skipjax.weights.compvis import networks, released
from skipjax.weights.compvis.networks import Part, Tensors
from skipjax.weights.compvis.released import Family

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


def parts(tensors: Tensors) -> dict[str, Part]:
    """The networks of a file by component; none where it holds none that is known.

    Raises:
        ValueError: If it holds tensors of none of them besides.
    """
    sections = {"unet": _section(tensors, UNET), "vae": _section(tensors, VAE)}
    if sections["unet"]:
        found = {"unet": networks.unet(sections["unet"], _section(tensors, "model_ema."))}
        taken = [UNET, VAE]
        if sections["vae"]:
            found["vae"] = networks.autoencoder(sections["vae"])
        for prefix, name, openclip, whose in ENCODERS:
            if section := _section(tensors, prefix):
                last = whose != released.SD2  # of its encoder the last but one layer is used
                found[name] = networks.text_encoder(section, openclip, last)
                taken.append(prefix)
        left = [n for n in tensors if not n.startswith(tuple(taken)) and not _IGNORED.match(n)]
        if left:
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            raise ValueError(f"it holds what is of no network: {', '.join(left[:3])}{more}")
        return found
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


def family(parts: Mapping[str, Part]) -> Family:
    """Whose networks these are, by their text encoders; of a U-Net alone by itself."""
    unet = parts["unet"].described()[1]
    told = unet.get("projection_class_embeddings_input_dim")
    if told is not None:
        # Of six sizes, or of five and with OpenCLIP's encoder alone.
        six = "text_encoder" in parts or ("text_encoder_2" not in parts and told == _XL_TOLD)
        return released.XL if six else released.REFINER
    return released.SD2 if unet["use_linear_projection"] else released.SD1


def refuse(tensors: Tensors) -> None:
    """Refuses files by what they seem to be."""
    for name in tensors:
        if any(mark in name for mark in released.OF_LORAS):
            raise ValueError(
                "it is a LoRA, which changes another network: load(CHECKPOINT, loras={path: 1.0})"
            )
        for mark, whose in released.REFUSED.items():
            if mark in name:
                raise ValueError(f"it holds {name}: it is of {whose}, which is not read")
