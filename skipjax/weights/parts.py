"""From a card to the parts of a checkpoint, and back.

    {
     "name": "emoji32",
     "network": {"kind": "unet", "image_size": 32, ...},
     "process": {"schedule": "linear", "T": 1000, "parameterization": "v", ...},
     "conditioner": {"kind": "labels", "num_classes": 9, ...},      or a list of them, or nothing
     "codec": {"kind": ...},                                        or nothing, for pixels
     "scheduler": {"method": {"kind": "ddim", ...}, "steps": 50, "clip": 1.0}    or nothing,
                                                        for that of its family, if it has one
     "guidance": 7.5                                    or nothing
    }

Of a part alone, such as an autoencoder, {"name": ..., "part": {"kind": ...}}.

A schedule is a name in `process.SCHEDULES`, T betas, {"alpha": [T], "sigma": [T]}, or the range of
one that explodes variance, {"sigma_min": ..., "sigma_max": ...}. Cards as they were before there
were parts ("unet", "schedule", "prediction", ... side by side) are read too.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from skipjax import conditioners
from skipjax.conditioners import Conditioner, Joint, Labels
from skipjax.models import ClassifierConfig
from skipjax.plans.schedulers import Scheduler
from skipjax.pretrained import Classifier, Pretrained
from skipjax.process import Process, Times, as_schedule, name_of, same_schedule
from skipjax.schedules import Schedule, variance_exploding
from skipjax.weights import adm, registry
from skipjax.weights.fields import construct

Card = dict[str, Any]
FLAT = ("unet", "classifier")  # of older cards
PROCESS = {"T", *(field.name for field in dataclasses.fields(Process))}


def build(card: Card, name: str | None = None) -> Any:
    """What a card describes, without params: a Pretrained, a Classifier, or a part alone.

    Args:
        card: Its content, class names listed.
        name: What to call it where the card does not.

    Raises:
        ValueError: If it lacks something, or nothing can be built from it: which field, what is
            accepted.
    """
    if "part" in card:
        return registry.build("part", card["part"])
    if "network" not in card:
        card = _parts_of_flat(card)
    network = registry.build("network", card["network"])
    process = _process(card.get("process", {}))
    conditioner = _conditioner(card.get("conditioner"))
    name = str(card.get("name", name or "network"))
    if isinstance(network, ClassifierConfig):
        if conditioner is None:
            conditioner = Labels(network.out_channels)
        if not isinstance(conditioner, Labels) or conditioner.classes != network.out_channels:
            raise ValueError(
                f"conditioner: a classifier of {network.out_channels} classes needs labels of as "
                "many"
            )
        return Classifier(None, network, process, conditioner, name)
    family = _of_family(network)
    _check(network, process, conditioner, family)
    scheduler = family and family.scheduler
    if "scheduler" in card:
        scheduler = _scheduler(card["scheduler"])
    model = Pretrained(None, network, process, conditioner, name=name, scheduler=scheduler)
    if card.get("guidance") is not None:
        model = model.replace(guidance=_scale(card["guidance"]))
    return (
        model.replace(codec=registry.build("codec", card["codec"])) if "codec" in card else model
    )


def describe(model: Any) -> Card:
    """The parts of a model, or a part alone, as a card has them."""
    if not isinstance(model, (Pretrained, Classifier)):
        return {"name": registry.kind_of(model), "part": registry.describe(model)}
    process = model.process
    card = {
        "name": model.name,
        "network": registry.describe(model.network),
        "process": {
            "schedule": _describe_schedule(process.schedule),
            "T": process.schedule.T,
            "parameterization": process.parameterization,
            "precondition": registry.describe(process.precondition),
            "variance": process.variance,
            "bounds": process.bounds,
        },
    }
    if isinstance(model, Classifier):
        return card | {"conditioner": registry.describe(model.labels)}
    card |= _describe_conditioner(model.conditioner)
    if registry.kind_of(model.codec) != "identity":
        card["codec"] = registry.describe(model.codec)
    if model.guidance is not None:
        card["guidance"] = model.guidance
    family = _of_family(model.network)
    if model.scheduler != (family and family.scheduler):
        card["scheduler"] = model.scheduler and (
            {f.name: getattr(model.scheduler, f.name) for f in dataclasses.fields(Scheduler)}
            | {"method": registry.describe(model.scheduler.method)}
        )
    return card


def described(config: Any, name: str) -> Pretrained | Classifier:
    """What a user says of a file: a model without params; or an architecture alone, which is then
    taken to be trained as those of its family are.

    Raises:
        ValueError: If it says something else.
    """
    if isinstance(config, (Pretrained, Classifier)):
        return config
    model = registry.MODELS.get(type(config))
    if model is None:
        known = ", ".join(network.__name__ for network in registry.MODELS)
        raise ValueError(
            f"config is a {type(config).__name__}: it must be a {known}, or a Pretrained or "
            "Classifier without params"
        )
    return model(config, name)


def _process(said: Any) -> Process:
    if not isinstance(said, Mapping):
        raise ValueError(f"process is {said!r}: it must be an object")
    fields = dict(said)
    T, schedule = fields.pop("T", 1000), fields.pop("schedule", "linear")
    if isinstance(T, bool) or not isinstance(T, int) or T < 1:
        raise ValueError(f"process: T is {T!r}: it must be a whole number of at least 1")
    if isinstance(schedule, Mapping):
        ranged = schedule.keys() == {"sigma_min", "sigma_max"}
        schedule = _ranged(schedule, T) if ranged else _tabulated(schedule)
    try:
        schedule = as_schedule(schedule, T)
    except ValueError as error:
        raise ValueError(f"process: {error}") from None
    if schedule.T != T:
        raise ValueError(
            f"process: schedule has {schedule.T} betas, and T is {T}: they must be as many"
        )
    if "precondition" in fields:
        fields["precondition"] = registry.build("precondition", fields["precondition"])
    process = construct("process", _Fields, fields)
    return Process(schedule, **{k: getattr(process, k) for k in fields})


@dataclasses.dataclass
class _Fields:
    """The fields of a process but its schedule, as JSON has them."""

    parameterization: str = "eps"
    precondition: Any = None
    variance: str = "small"
    bounds: tuple[float, float] | None = None


def _describe_schedule(schedule: Schedule) -> Any:
    name = name_of(schedule)
    if name is not None:
        return name
    ends = {"sigma_min": float(schedule.sigma[0]), "sigma_max": float(schedule.sigma[-1])}
    if schedule.T > 1 and same_schedule(schedule, variance_exploding(schedule.T, **ends)):
        return ends
    return {name: np.asarray(a).tolist() for name, a in schedule._asdict().items()}


def _ranged(ends: Mapping[str, Any], T: int) -> Schedule:
    try:
        return variance_exploding(T, float(ends["sigma_min"]), float(ends["sigma_max"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"process: {error}") from None


def _of_family(network: Any) -> Pretrained | None:
    """What a network is taken to be where a card does not say; None if its family does not."""
    model = registry.MODELS.get(type(network))
    return None if model is None else model(network, "")


def _scheduler(said: Any) -> Scheduler | None:
    if said is None:
        return None
    if not isinstance(said, Mapping):
        raise ValueError(f"scheduler is {said!r}: it must be an object")
    method = registry.build("scheduler: method", said.get("method", {}))
    return construct("scheduler", Scheduler, {**said, "method": method})


def _scale(said: Any) -> float:
    if isinstance(said, bool) or not isinstance(said, (int, float)):
        raise ValueError(f"guidance is {said!r}: it must be a number")
    return float(said)


def _tabulated(tables: Mapping[str, Any]) -> Schedule:
    try:
        alpha, sigma = (np.asarray(tables[name], np.float64) for name in ("alpha", "sigma"))
        fits = alpha.ndim == 1 and alpha.shape == sigma.shape and alpha.size > 0
        if not fits or not (sigma > 0).all() or not ((alpha >= 0) & (alpha <= 1)).all():
            raise ValueError("they must be as many, alpha in 0 .. 1, sigma above 0")
        return Schedule(alpha, sigma)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"process: schedule holds no alpha and sigma ({error})") from None


def _conditioner(said: Any) -> Conditioner | None:
    if said is None:
        return None
    if isinstance(said, Mapping):
        return registry.build("conditioner", said)
    return Joint(tuple(registry.build(f"conditioner {i}", one) for i, one in enumerate(said)))


def _check(
    network: Any, process: Process, conditioner: Conditioner | None, family: Pretrained | None
) -> None:
    """What the parts must agree in, as far as the network says what it takes."""
    channels, out = network.shape[-1], getattr(network, "out_channels", None)
    if process.learns_variance and out is not None and out != 2 * channels:
        raise ValueError(
            f"variance is {process.variance!r}, and the network has {out} output channels: it "
            f"needs {2 * channels} to learn a variance"
        )
    if family is not None:
        theirs = family.conditioner
        wanted = () if theirs is None else theirs.gives
        ours = () if conditioner is None else conditioner.gives
        taken = {*wanted, *getattr(network, "takes", ())}  # some of it may be left out
        if not {*wanted} <= {*ours} <= taken:
            raise ValueError(
                f"conditioner gives {', '.join(ours) or 'nothing'}, and the network takes "
                f"{', '.join(wanted) or 'nothing'}"
            )
    labels = conditioners.part(conditioner, Labels)
    number = getattr(network, "num_classes", None)
    if labels is not None and number is not None and labels.num_classes != number:
        raise ValueError(
            f"conditioner has {labels.num_classes} labels, and the network num_classes = {number}"
        )


def _describe_conditioner(conditioner: Conditioner | None) -> Card:
    """What a card says of a conditioner: one part, or a list of several; nothing of None."""
    described = [registry.describe(each) for each in conditioners.parts(conditioner)]
    if not described:
        return {}
    return {"conditioner": described if len(described) > 1 else described[0]}


def _parts_of_flat(card: Card) -> Card:
    """An older card, in parts."""
    kind = next((kind for kind in FLAT if kind in card), None)
    if kind is None:
        raise ValueError("the card describes no network: it lacks 'network'")
    if not isinstance(card[kind], Mapping):
        raise ValueError(f"network is {card[kind]!r}: it must be an object")
    network = {"kind": kind} | dict(card[kind])
    process = {k: card[k] for k in ("schedule", "T", "variance") if k in card}
    process["parameterization"] = card.get("prediction", "eps")
    if card.get("rescale_timesteps"):
        scale = Times(1000 / card.get("T", 1000))
        process["precondition"] = registry.describe(scale)
    names = card.get("class_names") or ()
    found: dict[str, Any] = {"name": card.get("name", "network")}
    found |= {"network": network, "process": process}
    if kind == "classifier":
        found["conditioner"] = registry.describe(Labels(_whole(network, "out_channels"), names))
        return found
    config = registry.build("network", network)
    conditioner = adm.conditioner_of(config, names, card.get("null_label"), card.get("low_res"))
    return found | _describe_conditioner(conditioner)


def _whole(fields: Mapping[str, Any], name: str) -> int:
    if not isinstance(fields.get(name), int):
        raise ValueError(f"network: {name} is {fields.get(name)!r}: it must be a whole number")
    return fields[name]
