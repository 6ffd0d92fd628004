"""Grids of whole times."""

from collections.abc import Sequence

import numpy as np

from skipjax.checks import whole
from skipjax.schedules.arguments import takes_T


@takes_T
def skipped(T: int, skip: int = 20) -> np.ndarray:
    """T-1, T-1-skip, T-1-2 skip, ...: every `skip`-th time, from the noisiest.

    The network is called ceil(T / skip) times. The last jump, to the data, is shorter than `skip`
    where `skip` does not divide T. Source: arXiv:2508.15233, algorithm 2.

    Args:
        T: Number of training times.
        skip: Stride over them, in 1 .. T; 1 visits all.

    Raises:
        ValueError: If `skip` is not a whole number in 1 .. T.
    """
    skip = whole("skip", skip, 1, T)
    return np.arange(T - 1, -1, -skip)


@takes_T
def respaced(T: int, steps: str | Sequence[int] = "") -> np.ndarray:
    """The times that ADM's `timestep_respacing` keeps, noisiest first.

    "ddimN" takes every k-th time from 0, with the smallest stride k that gives N times. "a,b,c"
    cuts the times into as many sections, least noisy first, and spreads a, b, c times evenly over
    each, both ends included. "" keeps all. Source: guided-diffusion, `space_timesteps`.

    Args:
        T: Number of training times.
        steps: ADM's string, or the numbers per section.

    Raises:
        ValueError: If the string cannot be read, no stride gives N times, or a section is asked
            for more times than it has.
    """
    if isinstance(steps, str):
        if steps.startswith("ddim"):
            return _strided(T, _number(steps.removeprefix("ddim"), steps))[::-1]
        counts = [_number(part, steps) for part in steps.split(",")] if steps else [T]
    else:
        counts = [whole("steps", count, 0) for count in steps]

    times, start = [], 0
    for i, count in enumerate(counts):
        size = T // len(counts) + (i < T % len(counts))
        if not 0 <= count <= size:
            raise ValueError(
                f"steps {steps!r} asks for {count} of the {size} times in section {i + 1} of "
                f"{len(counts)} (T = {T}): ask for at most {size} there"
            )
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        position = 0.0
        for _ in range(count):
            # Added up and rounded half to even, as ADM does: i * stride gives other times.
            times.append(start + round(position))
            position += stride
        start += size
    if not times:
        raise ValueError(f"steps {steps!r} keeps no time at all: ask for at least 1")
    return np.array(times)[::-1]


@takes_T
def leading(T: int, num: int, offset: int = 0, *, multistep: bool = False) -> np.ndarray:
    """(num-1) k + offset, ..., k + offset, offset with k = T // num: diffusers' "leading".

    Stable Diffusion 1 and 2 use offset 1.

    Args:
        T: Number of training times.
        num: How many times.
        offset: Added to each.
        multistep: Whether to space them as diffusers' multistep solvers do (DPM-Solver, UniPC,
            DEIS, SA-Solver) instead of its DDIM: the first `num` of num + 1 times.

    Raises:
        ValueError: If `num` is not in 1 .. T (T-1 for `multistep`), or the offset leads beyond
            T-1.
    """
    if multistep:
        return leading(T, whole("num", num, 1, T - 1) + 1, offset)[:-1]
    num = whole("num", num, 1, T)
    stride = T // num
    offset = whole("offset", offset, 0, T - 1 - (num - 1) * stride)
    return np.arange(num)[::-1] * stride + offset


@takes_T
def trailing(T: int, num: int) -> np.ndarray:
    """round(T - i T / num) - 1 for i = 0 .. num-1: from T-1 on, diffusers' "trailing".

    Raises:
        ValueError: If `num` is not in 1 .. T.
    """
    num = whole("num", num, 1, T)
    return np.round(T - np.arange(num) * (T / num)).astype(int) - 1


@takes_T
def linspace(T: int, num: int, *, multistep: bool = False) -> np.ndarray:
    """`num` times from T-1 to 0, both included, evenly and rounded: diffusers' "linspace".

    Its Euler, Heun and LMS do not round: theirs is `uniform`.

    Args:
        T: Number of training times.
        num: How many times.
        multistep: Whether to space them as diffusers' multistep solvers do, see `leading`.

    Raises:
        ValueError: If `num` is not in 1 .. T (T-1 for `multistep`).
    """
    if multistep:
        return linspace(T, whole("num", num, 1, T - 1) + 1)[:-1]
    num = whole("num", num, 1, T)
    return np.round(np.linspace(0, T - 1, num)).astype(int)[::-1]


def _strided(T: int, num: int) -> np.ndarray:
    for stride in range(1, T):
        if len(range(0, T, stride)) == num:
            return np.arange(0, T, stride)
    raise ValueError(
        f"no whole stride over {T} times gives {num} of them ('ddim{num}'): "
        f"use '{num}' to spread them unevenly, or a divisor of {T}"
    )


def _number(text: str, steps: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"steps {steps!r} is not a respacing: write '250', 'ddim25' or '90,60,60,20,20'"
        ) from None
