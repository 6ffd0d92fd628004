"""The command `skipjax` in processes that can be killed, and that start in no time: forked off one
that has imported everything and computed nothing.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["skipjax.cli"])


class Process:
    """`skipjax ARGUMENTS` at work.

    Args:
        arguments: Of the command.
        log: File that what it says goes to.
        devices: Virtual devices that it computes on.
        cache: Folder of compiled programs.
        hurry: Whether it compiles as `compiling.in_a_hurry` does.
    """

    def __init__(
        self,
        arguments,
        log: Path,
        devices: int = 1,
        cache: str | Path | None = None,
        hurry: bool = False,
    ):
        arguments = list(map(str, arguments))
        self._start(_command, log, arguments, devices, cache and str(cache), hurry)

    @classmethod
    def of(cls, function: Callable[[], None], log: Path) -> "Process":
        """A function at work."""
        process = cls.__new__(cls)
        process._start(function, log)
        return process

    def _start(self, function: Callable, log: Path, *arguments) -> None:
        self.log = log
        self._process = FORKS.Process(
            target=_main, args=(function, str(log), arguments), daemon=True
        )
        self._process.start()
        self.pid = self._process.pid

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and waits for the end."""
        self._process.kill()
        self._process.join()

    def wait(self, timeout: float = 60) -> int:
        """Its exit code, once it has ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise AssertionError(f"it did not end within {timeout} s, and said:\n{self.said}")
        return self._process.exitcode

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8").replace("\r", "\n")


def _main(function: Callable, log: str, arguments: tuple) -> None:
    with open(log, "a", encoding="utf-8", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)
    function(*arguments)


def _command(arguments: list[str], devices: int, cache: str | None, hurry: bool) -> None:
    import jax

    from skipjax import cli

    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_disable_most_optimizations", hurry)
    if cache is not None:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    cli.main(arguments)
