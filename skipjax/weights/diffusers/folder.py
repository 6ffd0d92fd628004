"""A folder as diffusers writes it: a pipeline, or one component with its config and weights."""

import hashlib
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from jax.typing import DTypeLike

from skipjax.codecs import Latents
from skipjax.conditioners import Labels
from skipjax.models import param_shapes
from skipjax.pretrained import Pretrained
from skipjax.sharding import Placement
from skipjax.weights import checksums, placing, registry
from skipjax.weights.diffusers import classes, files
from skipjax.weights.diffusers import scheduler as schedulers
from skipjax.weights.readers import state_dict

# What train_unconditional's averages add to the config of their network.
OF_AVERAGES = ("decay", "inv_gamma", "min_decay", "optimization_step", "power")
OF_AVERAGES += ("update_after_step", "use_ema_warmup")


@dataclass(frozen=True)
class Folder:
    """What was found in a folder, before any weight is read.

    Attributes:
        path: The folder.
        model: What it describes, without params.
        place: The folder in it that holds the weights, or itself.
        weights: Of each tensor the file that it lies in, where there are several; else the file.
    """

    path: Path
    model: Pretrained
    place: Path
    weights: dict[str, str] | str

    @property
    def files(self) -> list[Path]:
        """The files of weights."""
        names = [self.weights] if isinstance(self.weights, str) else self.weights.values()
        return [self.place / name for name in dict.fromkeys(names)]

    def load(self, dtype: DTypeLike, where: Placement | None) -> Pretrained:
        """Reads the weights, one at a time.

        Raises:
            ValueError: If a file is damaged, or the weights do not fit the config, or are not
                finite.
        """
        for path in self.files:
            checksums.check_blob(path)
        try:
            if isinstance(self.weights, str):
                tensors = state_dict.read(self.place / self.weights)
            else:
                tensors = state_dict.read_shards(self.place, self.weights)
            params = placing.params(tensors, self.model.network, dtype, where)
        except ValueError as error:
            raise _of(self.place, error) from None
        return replace(self.model, params=params, source=str(self.path))

    def sha256(self) -> str:
        """The checksum of the weights: of the file, or of what `sha256sum` would print of all."""
        if len(self.files) == 1:
            return checksums.sha256(self.files[0])
        lines = "".join(f"{checksums.sha256(path)}  {path.name}\n" for path in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()


def is_folder(path: Path) -> bool:
    """Whether a folder is one of diffusers'."""
    return path.is_dir() and files.is_pipeline(files.listing(path))


def find(path: Path, name: str | None = None, variant: str | None = None) -> Folder:
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
        model, place = described(path, name or _name(path), names)
        weights = files.weights(names, place, variant)
        if weights.plain:
            warnings.warn(
                f"{path} has no variant {variant!r}: took {', '.join(weights.files[:1])}",
                stacklevel=2,
            )
        if place == f"{files.AVERAGE}/" and f"unet/{files.CONFIG}" in names:
            warnings.warn(
                f"{path}: took {files.AVERAGE}, the average of the weights; its folder unet has "
                "those of the last step",
                stacklevel=2,
            )
        if weights.index_file is not None:
            return Folder(path, model, path / place, files.shards(path / weights.index_file))
        return Folder(path, model, path / place, Path(weights.files[0]).name)
    except ValueError as error:
        raise _of(path, error) from None


def describe(path: Path) -> Pretrained:
    """What the configs in a folder describe, without params, whether its weights are there or not.

    Raises:
        ValueError: If nothing can be built from them.
    """
    try:
        return described(path, _name(path), files.listing(path))[0]
    except ValueError as error:
        raise _of(path, error) from None


def described(path: Path, name: str, names: set[str]) -> tuple[Pretrained, str]:
    """What the configs of a folder describe, without params; and where its network lies in it.

    Args:
        path: The folder.
        name: What to call the model.
        names: Of the files that are to be there.
    """
    components = files.read(path / files.INDEX) if files.INDEX in names else None
    place = files.network(names, components)
    fields = files.read(path / place / files.CONFIG)
    cls = fields.get("_class_name") or files.class_of(
        components or {}, place.rstrip("/") or "unet"
    )
    if not isinstance(cls, str):
        raise ValueError(
            f"{place}{files.CONFIG} has no _class_name: it is no network of diffusers'"
        )
    fields = {key: value for key, value in fields.items() if key not in OF_AVERAGES}
    network = classes.network(cls.removeprefix("Flax"), fields)
    model = registry.MODELS[type(network)](network, name)
    said = _scheduler(path, names, components)
    if said is not None:
        pipeline = (components or {}).get("_class_name")
        found = schedulers.read(said, pipeline if isinstance(pipeline, str) else None)
        process = model.process.replace(**found.process)
        model = model.replace(process=process, scheduler=found.scheduler)
    decoder = next((d for d in files.DECODERS if files.class_of(components or {}, d)), None)
    if decoder is not None:
        warnings.warn(f"{decoder} is not read: samples are latents", stacklevel=3)
        factor = 4 if decoder == "vqvae" else 8
        process = model.process.replace(bounds=None)
        model = model.replace(process=process, codec=Latents(factor))
    return _with_class_names(model, (components or {}).get("id2label")), place


def number_of_weights(model: Pretrained) -> int:
    """How many parameters a network has."""
    return sum(leaf.size for leaf in jax.tree.leaves(param_shapes(model.network)))


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
    return f"{path.parent.name}/{path.name}" if path.name in files.NETWORKS else path.name


def _of(path: Path, error: ValueError) -> ValueError:
    """The error with the folder before it."""
    return ValueError(f"{path}: {str(error).removeprefix(f'{path}: ').removeprefix(f'{path}/')}")
