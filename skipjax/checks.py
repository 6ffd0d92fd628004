"""The one check that nearly every argument of this library needs."""

import numpy as np


def whole(name: str, value: int, low: int, high: int | None = None) -> int:
    """The value as int, if it is a whole number in low .. high, or of at least low.

    Raises:
        ValueError: If not, with what was got and what is accepted.
    """
    accepted = f"in {low} .. {high}" if high is not None else f"of at least {low}"
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_whole or value < low or (high is not None and value > high):
        raise ValueError(f"{name} is {value!r}: it must be a whole number {accepted}")
    return int(value)
