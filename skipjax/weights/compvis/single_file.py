"""A single file of a whole Stable Diffusion, or of one of its networks: told by names and shapes.

It holds no configs. Those follow from shapes, and what does not is that of the family
(`compvis.released`).
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from skipjax.pretrained import Pretrained
from skipjax.weights import cards, registry
from skipjax.weights.components import Component, Found, of
from skipjax.weights.compvis import prediction, released, sections
from skipjax.weights.compvis.networks import Tensors
from skipjax.weights.diffusers import classes, pipelines
from skipjax.weights.diffusers import scheduler as schedulers
from skipjax.weights.diffusers.configs import PREDICTION_TYPES
from skipjax.weights.readers import edm_pickle, state_dict

GGUF = b"GGUF"  # how files of quantised weights begin


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
    with path.open("rb") as file:
        if file.read(len(GGUF)) == GGUF:
            raise ValueError(f"{path} is a GGUF, of quantised weights: take a plain .safetensors")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            tensors = {} if edm_pickle.is_one(path) else state_dict.read(path, key)
    except ValueError:
        return None  # whoever reads other files says what is the matter
    if all(name.startswith("diffusion_model.") for name in tensors):  # "model." was of all
        tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
    try:
        sections.refuse(tensors)
        if not sections.parts(tensors):
            return None
        for warning in said:
            warnings.warn(str(warning.message), stacklevel=2)
        known = _known(path)
        if told is None and known is not None:
            told = known.process.parameterization
        found = of_tensors(path, tensors, state_dict.about(path), told)
    except ValueError as error:
        raise of(path, error) from None
    if known is None or not isinstance(found.model, Pretrained):
        return found
    process, sampler = known.process, known.scheduler
    model = found.model.replace(process=process, scheduler=sampler, guidance=known.guidance)
    return replace(found, model=model)


def _known(path: Path) -> Pretrained | None:
    """What a card says that knows a file of this name; None if there is none."""
    card = cards.of_file(path)
    model = None if card is None else cards.model(card)
    return model if isinstance(model, Pretrained) else None


def of_tensors(
    path: Path, tensors: Tensors, about: Mapping[str, Any], told: str | None = None
) -> Found:
    """The model that the networks of a file make, and these.

    Args:
        path: The file.
        tensors: All of it, by name; their shapes are looked at, and of one perhaps the values.
        about: What the file says beside them.
        told: As in `find`.
    """
    parts = sections.parts(tensors)
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
    family = sections.family(parts)
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
