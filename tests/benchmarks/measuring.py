"""What the benchmarks share: interleaved repeats, fresh processes, lines of results."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any


def seconds(run: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def interleaved(repeats: int, *cases: Callable[[], float]) -> list[list[float]]:
    """Measures the cases in turn, so that a machine that drifts touches all of them alike.

    Args:
        repeats: Rounds; every other one runs backwards.
        cases: Each returns its measurement. The caller warms them up.

    Returns:
        One list of `repeats` measurements per case.
    """
    measured = [[] for _ in cases]
    for i in range(repeats):
        for number in range(len(cases))[:: -1 if i % 2 else 1]:
            measured[number].append(cases[number]())
    return measured


def fresh(script: str, *arguments: str, env: dict[str, str] | None = None) -> dict[str, float]:
    """What `script` prints as JSON, in its last line, when a fresh process runs it.

    Raises:
        RuntimeError: If the process fails; with what it wrote to stderr.
    """
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, env=inherited | (env or {}), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory() -> int:
    """Bytes that this process has held in memory at most (Linux).

    Not getrusage's ru_maxrss: in a child that starts from its parent's peak.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").open())
    return int(status["VmHWM"].split()[0]) * 1024


def ratio(
    what: str, over: list[float], under: list[float], limit: float | None, unit: str = "s"
) -> None:
    """Prints the ratio of two medians, and how far the rounds lie apart."""
    top, bottom = median(over), median(under)
    detail = f"medians of {len(over)}" if len(over) > 1 else "once"
    detail += f"; {top:.2f} {unit} / {bottom:.2f} {unit}"
    if len(over) > 1:
        rounds = [a / b for a, b in zip(over, under, strict=True)]
        detail += f"; by round {min(rounds):.3f} .. {max(rounds):.3f}"
    line(what, top / bottom, limit, detail)


def line(what: str, value: float, limit: float | None, detail: str, unit: str = "") -> None:
    """Prints one result beside the limit aimed at, if there is one."""
    aim = "no limit" if limit is None else f"limit {limit:g}{unit}"
    missed = ", MISSED" if limit is not None and value > limit else ""
    print(f"{what + ':':62} {f'{value:.3f}{unit}':>7} ({aim}{missed})  [{detail}]", flush=True)
