"""A folder as diffusers writes it: a pipeline, or one component with its config and weights."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from skipjax.conditioners import Labels, Tokenizer
from skipjax.pretrained import Pretrained
from skipjax.weights import registry
from skipjax.weights.components import Component, Found, of, role
from skipjax.weights.diffusers import classes, files, pipelines
from skipjax.weights.diffusers import scheduler as schedulers
from skipjax.weights.readers import state_dict

# What train_unconditional's averages add to the config of their network.
OF_AVERAGES = ("decay", "inv_gamma", "min_decay", "optimization_step", "power")
OF_AVERAGES += ("update_after_step", "use_ema_warmup")


class Described(NamedTuple):
    """What the configs of a folder describe.

    Attributes:
        model: A Pretrained or a part alone, without params.
        configs: Of its networks, by component.
        places: Where these lie in it, "unet/", or "".
    """

    model: Any
    configs: dict[str, Any]
    places: dict[str, str]


def is_folder(path: Path) -> bool:
    """Whether a folder is one of diffusers'."""
    return path.is_dir() and files.is_pipeline(files.listing(path))


def find(path: Path, name: str | None = None, variant: str | None = None) -> Found:
    """What there is in a folder, all of it looked for before anything large is read.

    Args:
        path: The folder of a pipeline, or of a component.
        name: What to call it; default: the folder's.
        variant: Of the weights, such as "fp16".

    Raises:
        ValueError: If something is missing, or nothing can be built from what is there.
    """
    try:
        names = files.listing(path)
        model, configs, places = described(path, name or _name(path), names, whole=True)
        components: dict[str, Component] = {}
        every: list[Path] = []
        plain: list[str] = []
        for component, place in places.items():
            weights = files.weights(names, place, variant)
            plain += weights.files[:1] if weights.plain else ()
            read, paths = _tensors(path, place, weights)
            components[component] = Component(configs[component], read, path / place)
            every += paths
        if plain:
            warnings.warn(
                f"{path} has no variant {variant!r}: took {', '.join(plain)}", stacklevel=2
            )
        if files.AVERAGE in places and f"unet/{files.CONFIG}" in names:
            warnings.warn(
                f"{path}: took {files.AVERAGE}, the average of the weights; its folder unet has "
                "those of the last step",
                stacklevel=2,
            )
        return Found(path, model, components, tuple(every))
    except ValueError as error:
        raise of(path, error) from None


def describe(path: Path) -> Any:
    """What the configs in a folder describe, without params, whether its weights are there or not.

    Raises:
        ValueError: If nothing can be built from them.
    """
    try:
        return described(path, _name(path), files.listing(path)).model
    except ValueError as error:
        raise of(path, error) from None


def described(path: Path, name: str, names: set[str], whole: bool = False) -> Described:
    """What the configs of a folder describe, and where its networks lie in it.

    Args:
        path: The folder.
        name: What to call the model.
        names: Of the files that are to be there.
        whole: Whether all of it is there, so that tokenizers are read, and what is missing said.
    """
    index = files.read(path / files.INDEX) if files.INDEX in names else None
    places = files.components(names, index)
    if whole:
        # Of tokenizers it is said where a vocabulary is looked for.
        lost = [name for name in files.absent(names, index) if name not in files.TOKENIZERS]
        pipelines.say_missing(path, lost)
    said = {name: _config(path, place, index, name) for name, place in places.items()}
    network, *others = said
    for other in others:
        if registry.config_of(said[other][0]) is None:
            pipelines.say(f"{other} is a {said.pop(other)[0]}, which is not read", other)
    if not all(name in said for name in files.ENCODERS if files.class_of(index or {}, name)):
        said = {one: cls for one, cls in said.items() if one not in files.ENCODERS}
    configs = {one: classes.network(cls, fields) for one, (cls, fields) in said.items()}
    if not network:
        (config,) = configs.values()
        network = role(config)
        configs, places = {network: config}, {network: ""}
    config = configs[network]
    alone = registry.MODELS[type(config)](config, name)
    if not isinstance(alone, Pretrained):
        return Described(alone, configs, places)
    told = _scheduler(path, names, index)
    pipeline = (index or {}).get("_class_name")
    pipeline = pipeline if isinstance(pipeline, str) else None
    read = None if told is None else schedulers.read(told, pipeline)
    tokenizers = _tokenizers(path, names, index or {}) if whole else []
    model = pipelines.assemble(name, configs, tokenizers, read, _settings(index or {}))
    model = _with_class_names(model, (index or {}).get("id2label"))
    return Described(model, configs, {component: places[component] for component in configs})


def _tensors(path: Path, place: str, weights: files.Weights) -> tuple[Any, list[Path]]:
    """What reads the tensors of a component, and the files that they lie in."""
    if weights.index_file is None:
        file = path / weights.files[0]
        return partial(state_dict.read, file), [file]
    where = files.shards(path / weights.index_file)
    paths = [path / place / name for name in dict.fromkeys(where.values())]
    return partial(state_dict.read_shards, path / place, where), paths


def _config(
    path: Path, place: str, index: Mapping[str, Any] | None, component: str
) -> tuple[str, dict[str, Any]]:
    """The class of a component's network, and the fields of its config."""
    fields = files.read(path / place / files.CONFIG)
    architectures = fields.get("architectures")  # transformers' word for it
    cls = fields.get("_class_name")
    if isinstance(architectures, list) and architectures:
        cls = cls or architectures[0]
    cls = cls or files.class_of(index or {}, component)
    if not isinstance(cls, str):
        raise ValueError(
            f"{place}{files.CONFIG} has no _class_name: it is no network of diffusers'"
        )
    fields = {key: value for key, value in fields.items() if key not in OF_AVERAGES}
    return cls.removeprefix("Flax"), fields


def _settings(index: Mapping[str, Any]) -> pipelines.Settings:
    """What model_index.json says besides its components."""
    unread = next((name for name in files.UNREAD if files.class_of(index, name)), None)
    if unread is not None:
        pipelines.say(f"{unread} is not read", unread)
    lacks_codec = any(files.class_of(index, name) for name in files.CODECS)
    factor = 4 if unread == "vqvae" else 8 if unread or lacks_codec else None
    return pipelines.Settings(
        zeros_for_empty=index.get("force_zeros_for_empty_prompt") is True,
        aesthetic=index.get("requires_aesthetics_score") is True,
        factor=factor,
    )


def _tokenizers(path: Path, names: set[str], index: Mapping[str, Any]) -> list[Tokenizer]:
    """The tokenizers of a pipeline, one for each text encoder; none where one is missing."""
    encoders = [name for name in files.ENCODERS if files.class_of(index, name)]
    wanted = [files.TOKENIZERS[files.ENCODERS.index(name)] for name in encoders]
    if not all(files.vocabulary(names, f"{name}/") for name in wanted):
        return []
    return [Tokenizer.read(path / name) for name in wanted]


def _scheduler(path: Path, names: set[str], components: Any) -> dict[str, Any] | None:
    """What the scheduler's config says: in the folder, or beside it where it is a component's."""
    file = files.scheduler(names)
    if file is not None:
        said = files.read(path / file)
    elif components is not None:
        if files.class_of(components, "scheduler") is not None:
            raise ValueError(f"scheduler/{files.SCHEDULER} is missing")
        return None
    else:
        path = path.resolve()
        around = [path.parent]
        if re.fullmatch(r"checkpoint-\d+", path.parent.name):
            around.append(path.parent.parent)
        places = [p / s / files.SCHEDULER for p in around for s in ("scheduler", ".")]
        beside = next((place for place in places if place.is_file()), None)
        if beside is None:
            return None
        said = files.read(beside)
    cls = said.get("_class_name") or files.class_of(components or {}, "scheduler")
    return said | {"_class_name": cls}


def _with_class_names(model: Pretrained, names: Any) -> Pretrained:
    """The model with the names that model_index.json gives its classes, if it gives all."""
    labels = model.conditioner
    if not isinstance(labels, Labels) or not isinstance(names, dict):
        return model
    found = [names.get(str(i)) for i in range(labels.classes)]
    if not all(isinstance(one, str) for one in found):
        return model
    # All that a class is called, apart by commas.
    first = tuple(str(one).split(",")[0].strip() for one in found)
    return model.replace(conditioner=replace(labels, class_names=first))


def _name(path: Path) -> str:
    """What to call a folder: in the hub's cache as on the hub, a component by its pipeline."""
    path = path.resolve()
    if path.parent.name == "snapshots" and path.parents[1].name.startswith("models--"):
        return path.parents[1].name.removeprefix("models--").replace("--", "/")
    return f"{path.parent.name}/{path.name}" if path.name in files.COMPONENTS else path.name
