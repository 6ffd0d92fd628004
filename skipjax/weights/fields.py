"""Dataclasses from the fields that JSON gives, each checked in words."""

import dataclasses
import warnings
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def known(
    part: type, name: str, fields: Mapping[str, Any], idle: Collection[str] = ()
) -> dict[str, Any]:
    """Those fields of a config.json that a config has; others are named in a warning.

    Args:
        part: The config, a dataclass.
        name: Of diffusers' class.
        fields: Of the file. Those that begin with "_" say nothing of the network.
        idle: Others that change nothing.
    """
    ours = {field.name for field in dataclasses.fields(part)}
    others = [k for k in fields if k not in ours and k not in idle and k[:1] != "_"]
    if others:
        warnings.warn(
            f"the config of {name} holds {', '.join(others)}: no option that is known, and left "
            "out",
            stacklevel=4,
        )
    return {key: value for key, value in fields.items() if key in ours}


def construct(what: str, part: type, fields: Mapping[str, Any]) -> Any:
    """A dataclass of fields that JSON gave, each checked.

    Raises:
        ValueError: For a field that is not known, with the nearest that is; one that is missing or
            of another type, or a value that the dataclass refuses.
    """
    known = {f.name: f for f in dataclasses.fields(part) if f.init and f.name != "params"}
    hints = get_type_hints(part)
    for name, value in fields.items():
        if name not in known:
            raise ValueError(f"{what}: {name} is no field, {nearest(name, known)}")
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
    told = {name: _tuples(value) for name, value in fields.items()}
    told |= {f.name: None for f in dataclasses.fields(part) if f.name == "params" and f.init}
    try:
        return part(**told)
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


def nearest(name: str, known: Iterable[str]) -> str:
    """The names that are known, and the one of them that was meant, for errors."""
    near = get_close_matches(name, known, 1, 0.5)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{meant}known are {', '.join(known)}"
