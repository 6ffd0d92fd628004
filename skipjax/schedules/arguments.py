"""Arguments that stand for a schedule: taken where the meaning is plain, refused in words."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from skipjax.schedules.schedule import Schedule

P = ParamSpec("P")
R = TypeVar("R")


def as_schedule(value: Any) -> Schedule:
    """A `Schedule`, or that of an object with a `.schedule` or `.process.schedule`.

    Raises:
        TypeError: For anything else, with what was got and what is accepted.
    """
    for found in (
        value,
        getattr(value, "schedule", None),
        getattr(getattr(value, "process", None), "schedule", None),
    ):
        if isinstance(found, Schedule):
            return found
    got = repr(value) if isinstance(value, (str, int, float)) else f"a {type(value).__name__}"
    hint = f"; did you mean skipjax.schedules.{value}(1000)?" if isinstance(value, str) else ""
    raise TypeError(
        f"schedule is {got}: it must be a Schedule, such as params.schedule or "
        f"skipjax.schedules.linear(1000), or what load() gave{hint}"
    )


def takes_schedule(
    function: Callable[Concatenate[Schedule, P], R],
) -> Callable[Concatenate[Schedule, P], R]:
    """Puts the first argument of a function through `as_schedule`."""

    @wraps(function)
    def checked(schedule: Schedule, *args: P.args, **kwargs: P.kwargs) -> R:
        return function(as_schedule(schedule), *args, **kwargs)

    return checked


def takes_T(function: Callable[Concatenate[int, P], R]) -> Callable[..., R]:
    """Lets the first argument of a function, T, be a schedule, whose T it then is."""

    @wraps(function)
    def checked(T: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        is_schedule = isinstance(T, bool) or not hasattr(T, "__index__")
        return function(as_schedule(T).T if is_schedule else int(T), *args, **kwargs)

    return checked
