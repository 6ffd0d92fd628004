"""The kinds of parts that checkpoints are made of, by the names that cards call them.

A network family is a row: a config, and how the tensors of a released file become its params.
Adding one edits no other file; another package registers its own, or names itself under the entry
points "skipjax.families", which are imported where a kind is not known.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import entry_points
from typing import Any

from flax import traverse_util

from skipjax.codecs import AutoencoderKL, AutoencoderTiny, Identity, Latents
from skipjax.conditioners import (
    ClipText,
    EmbeddedGuidance,
    Given,
    Labels,
    MicroConditioning,
    Pictures,
    TextEncoder,
)
from skipjax.models import (
    AutoencoderKLConfig,
    AutoencoderTinyConfig,
    ClassifierConfig,
    CLIPTextConfig,
    DhariwalUNetConfig,
    DiTConfig,
    MagnitudeUNetConfig,
    SongUNetConfig,
    UNet2DConditionConfig,
    UNet2DConfig,
    UNetConfig,
    param_shapes,
)
from skipjax.plans import schedulers
from skipjax.process import Edm, Flow, Iddpm, Times, Ve, Vp
from skipjax.weights import adm, autoencoder, clip_text, dit, edm, unet2d, unet2d_condition
from skipjax.weights.fields import construct, nearest

# (tensors by name, config, convert) -> params: `weights.adm.to_params` is one.
ToParams = Callable[..., Any]
# (config, name) -> a model without params: `weights.adm.model` is one.
Model = Callable[[Any, str], Any]
# (fields of a component's config.json) -> config of a network, for diffusers' classes.
ConfigOf = Callable[[Mapping[str, Any]], Any]

KINDS: dict[str, type] = {
    "unet": UNetConfig,
    "unet2d": UNet2DConfig,
    "unet2d_condition": UNet2DConditionConfig,
    "classifier": ClassifierConfig,
    "dit": DiTConfig,
    "song_unet": SongUNetConfig,
    "dhariwal_unet": DhariwalUNetConfig,
    "magnitude_unet": MagnitudeUNetConfig,
    "clip_text_network": CLIPTextConfig,
    "labels": Labels,
    "pictures": Pictures,
    "embedded_guidance": EmbeddedGuidance,
    "given": Given,
    "clip_text": ClipText,
    "text_encoder": TextEncoder,
    "micro_conditioning": MicroConditioning,
    "identity": Identity,
    "latents": Latents,
    "autoencoder_kl": AutoencoderKL,
    "autoencoder_tiny": AutoencoderTiny,
    "autoencoder_kl_network": AutoencoderKLConfig,
    "autoencoder_tiny_network": AutoencoderTinyConfig,
    "times": Times,
    "flow": Flow,
    "edm": Edm,
    "vp": Vp,
    "ve": Ve,
    "iddpm": Iddpm,
    "ddpm": schedulers.DDPM,
    "ddim": schedulers.DDIM,
    "pndm": schedulers.PNDM,
    "lcm": schedulers.LCM,
    "euler": schedulers.Euler,
    "heun": schedulers.Heun,
    "dpm": schedulers.DPM,
    "unipc": schedulers.UniPC,
    "edm_heun": schedulers.EDM,
}
FILES: dict[type, ToParams] = {
    UNetConfig: adm.to_params,
    ClassifierConfig: adm.to_params,
    UNet2DConfig: unet2d.to_params,
    UNet2DConditionConfig: unet2d_condition.to_params,
    DiTConfig: dit.to_params,
    CLIPTextConfig: clip_text.to_params,
    SongUNetConfig: edm.to_params,
    DhariwalUNetConfig: edm.to_params,
    MagnitudeUNetConfig: edm.to_params,
    AutoencoderKLConfig: autoencoder.to_params,
    AutoencoderTinyConfig: autoencoder.to_params,
}
MODELS: dict[type, Model] = {
    UNetConfig: adm.model,
    ClassifierConfig: adm.model,
    UNet2DConfig: unet2d.model,
    UNet2DConditionConfig: unet2d_condition.model,
    DiTConfig: dit.model,
    SongUNetConfig: edm.models.model,
    DhariwalUNetConfig: edm.models.model,
    MagnitudeUNetConfig: edm.models.model,
    AutoencoderKLConfig: autoencoder.model,
    AutoencoderTinyConfig: autoencoder.model,
    CLIPTextConfig: lambda config, _: TextEncoder(None, config),
}
# How diffusers or transformers call the tensors of the params of a network, by their path.
NAMES: dict[type, Callable[[tuple[str, ...]], str]] = {
    UNet2DConfig: unet2d.name,
    UNet2DConditionConfig: unet2d.name,
    AutoencoderKLConfig: unet2d.name,
    AutoencoderTinyConfig: unet2d.name,
    CLIPTextConfig: clip_text.name,
}
# What diffusers calls the networks of which tensors can be written.
WRITTEN: dict[str, type] = {
    "UNet2DModel": UNet2DConfig,
    "UNet2DConditionModel": UNet2DConditionConfig,
    "AutoencoderKL": AutoencoderKLConfig,
    "AutoencoderTiny": AutoencoderTinyConfig,
}
CLASSES: dict[str, ConfigOf] = {
    "UNet2DModel": unet2d.config_of,
    "UNet2DConditionModel": unet2d_condition.config_of,
    "DiTTransformer2DModel": dit.config_of,
    "Transformer2DModel": dit.config_of,
    "AutoencoderKL": autoencoder.config_of,
    "AutoencoderTiny": autoencoder.config_of,
    "CLIPTextModel": clip_text.config_of,
    "CLIPTextModelWithProjection": partial(clip_text.config_of, with_projection=True),
}


def register(
    kind: str,
    part: type,
    to_params: ToParams | None = None,
    model: Model | None = None,
    classes: Mapping[str, ConfigOf] | None = None,
) -> None:
    """Makes a kind of part known: a network's config, a conditioner, a codec, or the method of a
    scheduler.

    Args:
        kind: What cards call it.
        part: A frozen dataclass whose fields a card gives; those may be of registered kinds too,
            or tuples of them. A part that owns params has a method `init(key)` and a field
            `params`, which a card leaves out. One that owns files besides (a vocabulary) has
            their fields' names in `in_files`, which a card leaves out too, and methods
            `write_files(folder)` and `read_files(folder)`, which gives the part with them.
        to_params: Of a network, from a file's tensors to its params; default: its files are not
            read.
        model: Of a network, from its config and a name to what it is taken to be where nothing
            else is known of a file: a Pretrained without params, or another part that is all
            of the network, a codec; default: its card says all.
        classes: Of a network, what diffusers calls it (`_class_name`), each with a function from
            the fields of its config.json to its config.

    Raises:
        ValueError: If the kind is another part's.
    """
    if KINDS.get(kind, part) is not part:
        raise ValueError(f"kind {kind!r} is that of {KINDS[kind].__name__}: choose another")
    KINDS[kind] = part
    if to_params is not None:
        FILES[part] = to_params
    if model is not None:
        MODELS[part] = model
    CLASSES.update(classes or {})


def config_of(name: str) -> ConfigOf | None:
    """What makes a config of the fields of a class of diffusers'; None if none is known."""
    if name not in CLASSES:
        _import_families()
    return CLASSES.get(name)


def _import_families() -> None:
    for entry in entry_points(group="skipjax.families"):
        entry.load()


def tensor_names(config: Any) -> dict[str, tuple[str, ...]]:
    """What diffusers or transformers call the tensors of a network, each with its path in params.

    Raises:
        ValueError: If they are not known.
    """
    name = NAMES.get(type(config))
    if name is None:
        raise ValueError(f"names of {type(config).__name__} in diffusers are not known")
    flat: Any = traverse_util.flatten_dict(param_shapes(config))
    return {name(path): path for path in flat}


def kind_of(part: Any) -> str:
    """The name of a part's kind.

    Raises:
        ValueError: If it has none: `register` gives it one.
    """
    for kind, known in KINDS.items():
        if type(part) is known:
            return kind
    raise ValueError(
        f"{type(part).__name__} is of no known kind: skipjax.weights.registry.register it"
    )


def describe(part: Any) -> dict[str, Any]:
    """A part as a card has it: its kind, and its fields that are neither arrays nor files."""
    left = {"params", *getattr(part, "in_files", ())}
    names = [f.name for f in dataclasses.fields(part) if f.name not in left]
    return {"kind": kind_of(part)} | {name: _described(getattr(part, name)) for name in names}


def build(what: str, described: Mapping[str, Any]) -> Any:
    """The part that a card describes.

    Args:
        what: Where in the card it stands, for errors: "network".
        described: Its kind and fields.

    Raises:
        ValueError: For a kind or a field that is not known, with the nearest that is; a value of
            another type, or one that the part refuses.
    """
    if not isinstance(described, Mapping):
        raise ValueError(f"{what} is {described!r}: it must be an object with a kind")
    fields = dict(described)
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        _import_families()
    if kind not in KINDS:
        raise ValueError(f"{what}: kind is {kind!r}, {nearest(str(kind), KINDS)}")
    fields = {name: _built(f"{what}: {name}", value) for name, value in fields.items()}
    return construct(what, KINDS[kind], fields)


def _described(value: Any) -> Any:
    """The value of a field as JSON has it, where it is a part, or several."""
    if isinstance(value, tuple):
        return tuple(map(_described, value))
    return describe(value) if type(value) in KINDS.values() else value


def _built(what: str, value: Any) -> Any:
    """The value of a field, where JSON has a part there, or several."""
    if isinstance(value, (list, tuple)):
        return [_built(f"{what} {i}", one) for i, one in enumerate(value)]
    return build(what, value) if isinstance(value, Mapping) and "kind" in value else value
