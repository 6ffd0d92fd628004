"""EDM's and EDM2's models: what a pickle says of one.

A pickle's network is a preconditioner, by whose class and arguments everything is fixed: EDM's
(Karras et al. 2022, arXiv:2206.00364, table 1), those of its baselines VP, VE and iDDPM, and
EDM2's. All stand on the noise level sigma with alpha = 1. None of their samplers clips, so that
x_0 has no bounds here.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from math import inf
from typing import Any, NamedTuple

from skipjax import schedules
from skipjax.codecs import Codec, Identity, Latents
from skipjax.conditioners import Conditioner, Labels
from skipjax.models import (
    DhariwalUNetConfig,
    EdmConfig,
    MagnitudeUNetConfig,
    SongUNetConfig,
)
from skipjax.plans import schedulers
from skipjax.plans.schedulers import Scheduler
from skipjax.pretrained import Pretrained
from skipjax.process import Edm, Iddpm, Precondition, Process, Ve, Vp
from skipjax.weights.fields import construct
from skipjax.weights.readers.edm_pickle import Snapshot
from skipjax.weights.readers.torch_pickle import shown

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0  # where EDM samples from and to, if the network goes so far
MOST_TIMES = 100_000  # of a baseline's own chain
T = 1000  # times in between, which only name levels
NETWORKS: dict[str, type[EdmConfig]] = {
    "SongUNet": SongUNetConfig,
    "DhariwalUNet": DhariwalUNetConfig,
}


class Kind(NamedTuple):
    """A class of preconditioners.

    Attributes:
        defaults: Its arguments in order, with the values that they have unless they are given.
        parameterization: What the network's output is.
        tell: From the arguments to what the network is told, and the range of sigma.
    """

    defaults: dict[str, Any]
    parameterization: str
    tell: Callable[[Any], tuple[Precondition, float, float]]


def _edm(said: Any) -> tuple[Precondition, float, float]:
    return Edm(said["sigma_data"]), said.get("sigma_min", 0), said.get("sigma_max", inf)


def _vp(said: Any) -> tuple[Precondition, float, float]:
    told = Vp(said["beta_d"], said["beta_min"], said["M"])
    return told, told.rho(said["epsilon_t"]), told.rho(1.0)


def _ve(said: Any) -> tuple[Precondition, float, float]:
    return Ve(), said["sigma_min"], said["sigma_max"]


def _iddpm(said: Any) -> tuple[Precondition, float, float]:
    told = Iddpm(said["C_1"], said["C_2"], said["M"])
    return told, float(told.levels()[-2]), float(told.levels()[0])


_SHAPE = {"img_resolution": None, "img_channels": None, "label_dim": 0, "use_fp16": False}
_EDM = {"sigma_min": 0.0, "sigma_max": inf, "sigma_data": 0.5, "model_type": "DhariwalUNet"}
_VP = {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5, "model_type": "SongUNet"}
_VE = {"sigma_min": 0.02, "sigma_max": 100.0, "model_type": "SongUNet"}
_IDDPM = {"C_1": 0.001, "C_2": 0.008, "M": 1000, "model_type": "DhariwalUNet"}
_EDM2 = {"use_fp16": True, "sigma_data": 0.5, "logvar_channels": 128}
KINDS: dict[str, Kind] = {
    "EDMPrecond": Kind(_SHAPE | _EDM, "edm", _edm),
    "VPPrecond": Kind(_SHAPE | _VP, "eps", _vp),
    "VEPrecond": Kind(_SHAPE | _VE, "neg_eps", _ve),
    "iDDPMPrecond": Kind(_SHAPE | _IDDPM, "eps", _iddpm),
    "Precond": Kind(_SHAPE | _EDM2, "edm", _edm),  # EDM2's
}


def described(snapshot: Snapshot, name: str) -> Pretrained:
    """What a pickle says of its network: a model without params.

    Raises:
        ValueError: As `model_of`, or for more arguments than the class has.
    """
    said = dict(snapshot.keywords)
    if snapshot.class_name in KINDS and snapshot.arguments:
        names = KINDS[snapshot.class_name].defaults
        said |= dict(zip(names, snapshot.arguments, strict=False))
        if len(snapshot.arguments) > len(names):
            raise ValueError(
                f"{snapshot.class_name} was made with {len(snapshot.arguments)} arguments"
            )
    return model_of(snapshot.class_name, said, name)


def model_of(class_name: str, said: Mapping[str, Any], name: str) -> Pretrained:
    """The model, without params, that a preconditioner of EDM's describes.

    Args:
        class_name: One of `KINDS`.
        said: Its arguments by name, and those that it hands on to its network; what is absent
            has the class's own default, what is not known is named in a warning.
        name: What to call it.

    Raises:
        ValueError: For a class that is not known, an argument that is missing or of another type,
            or one that no network can be built with.
    """
    if class_name not in KINDS:
        raise ValueError(
            f"its network is a {shown(class_name)}: read are EDM's and EDM2's, {', '.join(KINDS)}"
        )
    kind = KINDS[class_name]
    own = kind.defaults | {k: v for k, v in said.items() if k in kind.defaults}
    _check(class_name, own, kind.defaults)
    rest = {k: v for k, v in said.items() if k not in kind.defaults}
    network = _network(class_name, own, rest)
    precondition, least, largest = kind.tell(own)
    schedule = schedules.variance_exploding(T, max(SIGMA_MIN, least), min(SIGMA_MAX, largest))
    process = Process(schedule, kind.parameterization, precondition, bounds=None)
    return _made(network, process, name)


def model(config: EdmConfig, name: str) -> Pretrained:
    """What an architecture is taken to be, where nothing else is known: preconditioned as EDM's
    are, for sigma in 0.002 .. 80; without params.
    """
    process = Process(schedules.variance_exploding(T), "edm", Edm(), bounds=None)
    return _made(config, process, name)


def _made(network: EdmConfig, process: Process, name: str) -> Pretrained:
    """With the sampler that its figures were published with, without noise: EDM's, in 18 steps for
    32 pixels and 40 for more; and 32 steps of EDM2's.
    """
    steps = 18 if network.img_resolution <= 32 else 40
    if isinstance(network, MagnitudeUNetConfig):
        steps = 32
    conditioner, codec = conditioner_of(network), codec_of(network)
    own = Scheduler(schedulers.EDM(), steps)
    return Pretrained(None, network, process, conditioner, codec, name, own)


def codec_of(config: EdmConfig) -> Codec:
    """Of four channels, which are Stable Diffusion's latents; or of pixels."""
    return Latents() if config.shape[-1] == 4 else Identity()


def conditioner_of(config: EdmConfig, class_names: tuple[str, ...] = ()) -> Conditioner | None:
    """The classes of a network, and one more label that stands for none."""
    n = config.label_dim
    return Labels(n + 1, class_names, null_label=n) if n else None


def with_card(own: Pretrained, card: Any) -> Pretrained:
    """What a pickle says of its network, with the names that a card knows of it.

    The pickle has the last word on architecture and process: a warning says where the card, found
    by the file's name, speaks of another.
    """
    if not isinstance(card, Pretrained):
        raise ValueError(f"the card of {card.name} is a classifier's, and the file holds none")
    different = [
        f.name
        for f in fields(own.network)  # pyright: ignore
        if f.name not in ("dropout", "label_dropout")
        and getattr(own.network, f.name) != getattr(card.network, f.name, None)
    ]
    different += [] if own.process == card.process else ["process"]
    if different:
        warnings.warn(
            f"the file differs from the card of {card.name} in {', '.join(different)}: read as "
            "the file says",
            stacklevel=4,
        )
    labels = own.labels
    fits = labels is not None and card.labels is not None and labels.classes == card.labels.classes
    conditioner = card.conditioner if fits else own.conditioner
    return own.replace(name=card.name, conditioner=conditioner, codec=card.codec)


def _check(class_name: str, said: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Refuses arguments of a preconditioner that are missing, or of another type."""
    for field, value in said.items():
        default = defaults[field]
        wanted: Any = type(default) if default is not None else int
        wanted = (int, float) if wanted is float else wanted
        if isinstance(value, bool) != (wanted is bool) or not isinstance(value, wanted):
            got = "missing" if value is None else shown(value)
            what = "text" if wanted is str else "true or false" if wanted is bool else "a number"
            raise ValueError(f"{class_name}: {field} is {got}: it must be {what}")
        if field == "M" and not 1 <= value <= MOST_TIMES:
            raise ValueError(f"{class_name}: M is {shown(value)}: it must be in 1 .. {MOST_TIMES}")


def _network(class_name: str, said: dict[str, Any], rest: dict[str, Any]) -> EdmConfig:
    shape = {k: said[k] for k in ("img_resolution", "label_dim")}
    channels = said["img_channels"]
    if class_name == "Precond":
        part: type[EdmConfig] = MagnitudeUNetConfig
        shape["img_channels"] = channels
    else:
        if said["model_type"] not in NETWORKS:
            raise ValueError(
                f"{class_name}: model_type is {shown(said['model_type'])}: read are "
                f"{', '.join(NETWORKS)}"
            )
        part = NETWORKS[said["model_type"]]
        outputs = 2 * channels if class_name == "iDDPMPrecond" else channels
        shape |= {"in_channels": channels, "out_channels": outputs}
    known = {name for name in part.__dataclass_fields__ if name not in shape}
    strange = sorted(rest.keys() - known)
    if strange:
        warnings.warn(
            f"{class_name} was made with {', '.join(map(shown, strange))}, which "
            f"{part.__name__} does not have: left out",
            stacklevel=4,
        )
    given = shape | {k: v for k, v in rest.items() if k in known}
    return construct(class_name, part, given)
