"""The kinds of parts that checkpoints are made of, by the names that cards call them.

A network family is a row: a config, and how the tensors of a released file become its params.
Adding one edits no other file; another package registers its own, or names itself under the entry
points "skipjax.families", which are imported where a kind is not known.
"""

import dataclasses
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib.metadata import entry_points
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from skipjax.codecs import Identity
from skipjax.conditioners import Labels, Pictures
from skipjax.models import ClassifierConfig, UNetConfig
from skipjax.process import Edm, Flow, Times
from skipjax.weights import adm

# (tensors by name, config, convert) -> params: `weights.adm.to_params` is one.
ToParams = Callable[..., Any]
# (config, name) -> a model without params: `weights.adm.model` is one.
Model = Callable[[Any, str], Any]

KINDS: dict[str, type] = {
    "unet": UNetConfig,
    "classifier": ClassifierConfig,
    "labels": Labels,
    "pictures": Pictures,
    "identity": Identity,
    "times": Times,
    "flow": Flow,
    "edm": Edm,
}
FILES: dict[type, ToParams] = {UNetConfig: adm.to_params, ClassifierConfig: adm.to_params}
MODELS: dict[type, Model] = {UNetConfig: adm.model, ClassifierConfig: adm.model}


def register(
    kind: str, part: type, to_params: ToParams | None = None, model: Model | None = None
) -> None:
    """Makes a kind of part known: a network's config, a conditioner or a codec.

    Args:
        kind: What cards call it.
        part: A frozen dataclass whose fields a card gives. A part that owns params has a method
            `init(key)` and a field `params`, which a card leaves out.
        to_params: Of a network, from a file's tensors to its params; default: its files are not
            read.
        model: Of a network, from its config and a name to what it is taken to be where nothing
            else is known of a file: a Pretrained without params; default: its card says all.

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
    """A part as a card has it: its kind, and its fields that are no arrays."""
    fields = {
        f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.name != "params"
    }
    return {"kind": kind_of(part)} | fields


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
        for entry in entry_points(group="skipjax.families"):
            entry.load()
    if kind not in KINDS:
        raise ValueError(f"{what}: kind is {kind!r}, {_nearest(str(kind), KINDS)}")
    return construct(what, KINDS[kind], fields)


def construct(what: str, part: type, fields: Mapping[str, Any]) -> Any:
    """A dataclass of fields that JSON gave, each checked.

    Raises:
        ValueError: As `build` does.
    """
    known = {f.name: f for f in dataclasses.fields(part) if f.init and f.name != "params"}
    hints = get_type_hints(part)
    for name, value in fields.items():
        if name not in known:
            raise ValueError(f"{what}: {name} is no field, {_nearest(name, known)}")
        if not _is(value, hints[name]):
            raise ValueError(
                f"{what}: {name} is {value!r}, a {type(value).__name__}: it must be "
                f"{_words(hints[name])}"
            )
    missing = [
        name
        for name, f in known.items()
        if name not in fields
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{what} lacks {', '.join(missing)}")
    try:
        return part(**{name: _tuples(value) for name, value in fields.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: {error}") from None


def _is(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of a type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_is(value, one) for one in arguments)
    if hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if origin is not None and isinstance(origin, type) and not issubclass(origin, Mapping):
        if not isinstance(value, (list, tuple)):
            return False
        if origin is tuple and Ellipsis not in arguments:
            fits = len(value) == len(arguments)
            return fits and all(_is(v, h) for v, h in zip(value, arguments, strict=True))
        return all(_is(v, arguments[0]) for v in value)
    if origin is not None:  # Literal and the like: the part checks them
        return True
    return isinstance(value, hint) if isinstance(hint, type) else True


def _words(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_words, arguments))
    if hint is type(None):
        return "null"
    if origin is not None and arguments:
        first = names.get(arguments[0], "values").split(" ", 1)[-1]
        return f"a list of {first}s".replace("ss", "s")
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _nearest(name: str, known: Any) -> str:
    near = get_close_matches(name, known, 1, 0.5)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{meant}known are {', '.join(known)}"
