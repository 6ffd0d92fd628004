"""A checkpoint as diffusers writes it: the inverse of loading a pipeline's folder."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from skipjax import conditioners
from skipjax.conditioners import ClipText, EmbeddedGuidance, Labels, MicroConditioning
from skipjax.models import CLIPTextConfig
from skipjax.pretrained import Pretrained
from skipjax.weights import layout, registry
from skipjax.weights.components import networks
from skipjax.weights.diffusers import files, writing_schedulers

VERSION = "0.36.0"  # of diffusers, whose format it is
_OURS = {"concat_channels", "with_projection"}  # fields that diffusers lacks
_NOT_READ = {"safety_checker": [None, None], "feature_extractor": [None, None]}


def save(model: Pretrained, folder: str | Path) -> None:
    """Writes a pipeline: model_index.json, and of each network its config and weights, in the
    precision that they are kept in; the scheduler's config, and tokenizers.

    Args:
        model: With params. One that has no sampler of its own gets DDIM.
        folder: To write to; made where there is none.

    Raises:
        ValueError: If diffusers has no such network or scheduler, or weights are missing.
    """
    if not isinstance(model, Pretrained):
        raise ValueError(f"a {type(model).__name__} is no pipeline: give what has a network")
    folder, told = Path(folder), conditioners.parts(model.conditioner)
    index: dict[str, Any] = {"_class_name": _pipeline(model), "_diffusers_version": VERSION}
    index |= _settings(model)
    for name, (config, params) in networks(model).items():
        if params is None:
            raise ValueError(f"the {name} has no weights: load them first")
        cls = _class(config)
        text = isinstance(config, CLIPTextConfig)
        index[name] = ["transformers" if text else "diffusers", cls]
        place = folder / name
        place.mkdir(parents=True)
        _write(place / files.CONFIG, _config(config, cls))
        file = "model.safetensors" if text else f"{files.STEM}.safetensors"
        save_file(tensors(config, params), place / file, metadata={"format": "pt"})
    said = writing_schedulers.describe(model.process, model.scheduler)
    (folder / "scheduler").mkdir()
    _write(folder / "scheduler" / files.SCHEDULER, said)
    index["scheduler"] = ["diffusers", said["_class_name"]]
    encoders = [name for name in files.ENCODERS if files.class_of(index, name)]
    for part in told:
        if isinstance(part, ClipText):
            for encoder, tokenizer in zip(encoders, part.tokenizers, strict=False):
                name = files.TOKENIZERS[files.ENCODERS.index(encoder)]
                tokenizer.write(folder / name)
                index[name] = ["transformers", "CLIPTokenizer"]
        if isinstance(part, Labels) and part.class_names:
            index["id2label"] = {str(i): name for i, name in enumerate(part.class_names)}
    _write(folder / files.INDEX, index)


def tensors(config: Any, params: Any) -> dict[str, np.ndarray]:
    """The tensors of a network by diffusers' names and in torch's layouts.

    Args:
        config: The network's.
        params: Its weights.

    Raises:
        ValueError: If the names are not known.
    """
    flat: Any = traverse_util.flatten_dict(params)
    prefix = "text_model." if isinstance(config, CLIPTextConfig) else ""
    found = {}
    for name, path in registry.tensor_names(config).items():
        array = layout.to_torch(path, np.asarray(flat[path]))
        whole = name if name.startswith("text_projection") else prefix + name
        found[whole] = np.ascontiguousarray(array)
    return found


def _class(config: Any) -> str:
    """What diffusers or transformers call a network."""
    if isinstance(config, CLIPTextConfig):
        return "CLIPTextModelWithProjection" if config.with_projection else "CLIPTextModel"
    for cls, kind in registry.WRITTEN.items():
        if kind is type(config):
            return cls
    raise ValueError(f"names of {type(config).__name__} in diffusers are not known")


def _config(config: Any, cls: str) -> dict[str, Any]:
    """The content of a config.json."""
    fields = {k: v for k, v in dataclasses.asdict(config).items() if k not in _OURS}
    if isinstance(config, CLIPTextConfig):
        return {"architectures": [cls], "model_type": "clip_text_model"} | fields
    return {"_class_name": cls} | fields


def _settings(model: Pretrained) -> dict[str, Any]:
    """What a pipeline's index says besides its components."""
    text = conditioners.part(model.conditioner, ClipText)
    sizes = conditioners.part(model.conditioner, MicroConditioning)
    if text is None:
        return {}
    if sizes is None:
        return {"requires_safety_checker": False} | _NOT_READ
    said: dict[str, Any] = {"force_zeros_for_empty_prompt": text.zeros_for_empty}
    if sizes.aesthetic:
        said |= {"requires_aesthetics_score": True, "text_encoder": [None, None]}
        said["tokenizer"] = [None, None]
    return said


def _pipeline(model: Pretrained) -> str:
    """The class of pipeline that has such parts."""
    text = conditioners.part(model.conditioner, ClipText)
    sizes = conditioners.part(model.conditioner, MicroConditioning)
    beside = getattr(model.network, "concat_channels", 0)
    if text is None:
        return "DDPMPipeline"
    if conditioners.part(model.conditioner, EmbeddedGuidance) is not None:
        return "LatentConsistencyModelPipeline"
    kind = "StableDiffusion" if sizes is None else "StableDiffusionXL"
    if sizes is not None and sizes.aesthetic:
        return f"{kind}Img2ImgPipeline"
    return kind + {5: "Inpaint", 4: "InstructPix2Pix"}.get(beside, "") + "Pipeline"


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
