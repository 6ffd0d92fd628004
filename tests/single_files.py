"""Tiny single files of Stable Diffusion, made of the same networks' folders."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pipelines
import tiny_vocabulary
import torch_writer
from safetensors.numpy import load_file, save_file

from skipjax.weights.compvis import names

# What shapes cannot tell is as in files of full size: 32 groups, heads of 64 channels.
CLIP_L = pipelines.CLIP_L | {"hidden_size": 64, "num_attention_heads": 1, "projection_dim": 64}
OPENCLIP = CLIP_L | {"hidden_act": "gelu"}
BIG = OPENCLIP | {"projection_dim": 24}
VAE = {k: v for k, v in pipelines.VAE.items() if k not in ("sample_size", "norm_num_groups")}
VAE |= {"block_out_channels": [32, 64]}
UNET = {k: v for k, v in pipelines.UNET.items() if k != "norm_num_groups"}
UNET |= {"sample_size": 64, "attention_head_dim": 8, "cross_attention_dim": 64}
LINEAR = UNET | {"block_out_channels": [64, 128], "attention_head_dim": [1, 2]}
LINEAR |= {"use_linear_projection": True}


def _of_xl(text: int, times: int) -> dict[str, Any]:
    return pipelines.of_xl(text, 0, 0) | {
        "sample_size": 128,
        "block_out_channels": [64, 128],
        "attention_head_dim": [1, 2],
        "norm_num_groups": 32,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 24 + times * 256,
    }


_PIPELINES = pipelines.PIPELINES
XL = VAE | {"scaling_factor": 0.13025}
PIPELINES = {
    "sd1": _PIPELINES["sd1"]._replace(unet=UNET, text=(CLIP_L, None), vae=VAE),
    "sd2": _PIPELINES["sd2"]._replace(unet=LINEAR, text=(OPENCLIP, None), vae=VAE),
    "xl": _PIPELINES["xl"]._replace(unet=_of_xl(128, 6), text=(CLIP_L, BIG), vae=XL),
    "refiner": _PIPELINES["refiner"]._replace(unet=_of_xl(64, 5), text=(None, BIG), vae=XL),
    "inpainting": _PIPELINES["inpainting"]._replace(
        unet=UNET | {"in_channels": 9}, text=(CLIP_L, None), vae=VAE
    ),
}
PREFIXES = {
    "sd1": ("cond_stage_model.transformer.", None),
    "sd2": ("cond_stage_model.model.", None),
    "xl": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
    "refiner": (None, "conditioner.embedders.0.model."),
    "inpainting": ("cond_stage_model.transformer.", None),
}


def folder(place: Path, name: str) -> Path:
    """The folder of a pipeline that has the networks of a single file."""
    with patch.dict(pipelines.PIPELINES, {name: PIPELINES[name]}):
        return pipelines.write(place, name)


def tensors(place: Path, name: str, ema: bool = False) -> dict[str, np.ndarray]:
    """All tensors of a folder by the names of single files, with what training leaves there.

    Args:
        place: The folder.
        name: Of its pipeline.
        ema: Whether the U-Net is the average, beside another one.
    """
    unet = load_file(place / "unet" / "diffusion_pytorch_model.safetensors")
    found = named(unet)
    if ema:
        flat = {
            names.flat(f"diffusion_{n.removeprefix('model.diffusion_')}"): t
            for n, t in found.items()
        }
        found = {n: t + 1 for n, t in found.items()} | {
            f"model_ema.{n}": t for n, t in flat.items()
        }
        found["model_ema.num_updates"] = np.array(3, np.int32)
    vae = load_file(place / "vae" / "diffusion_pytorch_model.safetensors")
    for key, tensor in vae.items():
        theirs = names.autoencoder(key, 2)
        if ".attn_1." in theirs and tensor.ndim == 2:
            tensor = tensor[..., None, None]
        found[f"first_stage_model.{theirs}"] = tensor
    for end, prefix in zip(("", "_2"), PREFIXES[name], strict=True):
        if prefix is not None:
            text = load_file(place / f"text_encoder{end}" / "model.safetensors")
            if prefix.endswith("model."):
                more = 0 if end else 1
                found |= {prefix + n: t for n, t in openclip(text, more).items()}
            else:
                found |= {f"{prefix}text_model.{n}": t for n, t in text.items()}
                ids = np.arange(77)[None]
                found[f"{prefix}text_model.embeddings.position_ids"] = ids
    found["alphas_cumprod"] = np.ones(1000, np.float32)
    return {n: np.ascontiguousarray(t) for n, t in found.items()}


def named(unet: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a U-Net by CompVis's names."""
    layers, attends = names.layers(unet), names.attending(unet)
    return {f"model.diffusion_model.{names.unet(n, layers, attends)}": t for n, t in unet.items()}


def openclip(text: dict[str, np.ndarray], more: int) -> dict[str, np.ndarray]:
    """The tensors of a text encoder by OpenCLIP's names, with layers that are not used."""
    found: dict[str, np.ndarray] = {"logit_scale": np.array(1.0, np.float32)}
    for name, tensor in text.items():
        theirs = names.openclip(name)
        if "_proj." in name and "self_attn" in name and "out_proj" not in name:
            kinds = [name.replace(f"{name.split('.')[-2]}", f"{k}_proj") for k in "qkv"]
            tensor = np.concatenate([text[kind] for kind in kinds])
        found[theirs] = tensor.T if theirs == "text_projection" else tensor
    last = 1 + max(int(n.split(".")[2]) for n in found if n.startswith("transformer."))
    for i in range(last, last + more):
        above = f"transformer.resblocks.{last - 1}."
        layer = {n: t for n, t in found.items() if n.startswith(above)}
        found |= {n.replace(above, f"transformer.resblocks.{i}."): t for n, t in layer.items()}
        found.setdefault("text_projection", np.ones((64, 64), np.float32))
    return found


def write(path: Path, every: dict[str, np.ndarray], **about: Any) -> Path:
    """A file, of the kind that its name ends in; `about` is what it says beside."""
    if path.suffix == ".safetensors":
        save_file(every, path, metadata={k: str(v) for k, v in about.items()} or None)
    else:
        content = {"state_dict": {n: torch_writer.tensor(t) for n, t in every.items()}}
        torch_writer.save(path, content | about)
    return path


def vocabulary(place: Path) -> Path:
    """The folder of a tokenizer."""
    return tiny_vocabulary.write(place)


def shapes(keys: dict[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of shapes, which take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in keys.items()}


def read(path: Path) -> dict[str, Any]:
    """A list of keys."""
    return json.loads(path.read_text(encoding="utf-8"))
