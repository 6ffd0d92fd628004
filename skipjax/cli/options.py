"""How options are read that are neither text nor number."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from skipjax.config import LoadConfig
from skipjax.config.sample_config import (
    ClassifierLike,
    GuideLike,
    PlanLike,
    ScaleLike,
    SizeLike,
)

RULES = tyro.constructors.ConstructorRegistry()
Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class Weights(LoadConfig):
    """Which weights, with options that may be given several times."""

    lora: Repeated = LoadConfig.lora
    embedding: Repeated = LoadConfig.embedding


@RULES.primitive_rule
def _whole(info: Any) -> Any:
    """A whole number; or, as it was typed, what is none: `whole` then refuses it by name."""
    if info.type is not int:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda typed: _int(typed[0]),
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


@RULES.primitive_rule
def _named(info: Any) -> Any:
    """A plan, a classifier or a guide: on the command line, its name or path."""
    if info.type not in (PlanLike, ClassifierLike, GuideLike):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="STR",
        instance_from_str=lambda typed: typed[0],
        is_instance=lambda value: value is None or isinstance(value, str),
        str_from_instance=lambda value: [str(value)],
    )


@RULES.primitive_rule
def _scale(info: Any) -> Any:
    """A scale of guidance: on the command line, a number."""
    if info.type != ScaleLike:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT",
        instance_from_str=lambda typed: float(typed[0]),
        is_instance=lambda value: value is None or isinstance(value, (int, float)),
        str_from_instance=lambda value: [str(value)],
    )


@RULES.primitive_rule
def _size(info: Any) -> Any:
    """Height and width: HxW, H of a square, or two numbers."""
    if info.type != SizeLike:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="HxW",
        instance_from_str=_pair,
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: ["x".join(map(str, value or ()))],
    )


def _pair(typed: list[str]) -> Any:
    """Two numbers; or, as it was typed, what is none: that is refused by name where it is used."""
    sides = [_int(side) for text in typed for side in text.lower().split("x")]
    if len(sides) == 1:
        sides *= 2
    fits = len(sides) == 2 and all(isinstance(side, int) for side in sides)
    return tuple(sides) if fits else " ".join(typed)


def _int(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text
