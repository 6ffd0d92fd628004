"""Bars: one that moves while a compiled loop runs, and those of what is done before and after.

The compiled program calls back once a step. It calls one function, whatever bar is shown, so that
a new bar does not make a program compile anew; the bar that moves is the one opened last.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import jax
from tqdm import tqdm

_shown: list[tqdm] = []


@contextmanager
def bar(nfe: int) -> Iterator[None]:
    """Shows a bar over `nfe` network calls at once, moved by `on_step` until the block ends."""
    # There before the first step is: until then the program is being compiled.
    with tqdm(total=nfe, desc="compiling", unit="call") as shown:
        _shown.append(shown)
        try:
            yield
            jax.effects_barrier()
        finally:
            _shown.remove(shown)


def on_step(i) -> None:
    """What a compiled program tells that row i is done; several devices may say the same."""
    if _shown and (new := int(i) + 1 - _shown[-1].n) > 0:
        if not _shown[-1].n:
            _shown[-1].set_description("sampling", refresh=False)
            _shown[-1].unpause()  # of compiling, which says nothing of the steps to come
        _shown[-1].update(new)


def stage(
    shown: bool, doing: str, total: int, unit: str, *, late: bool = False
) -> AbstractContextManager[None]:
    """A bar of its own until the block ends, of what no program tells the parts of; or none.

    Args:
        shown: Whether there is one.
        doing: What is done.
        total: How many.
        unit: Of what.
        late: Whether it is there only when all is done, and not at all after an error.
    """
    return _stage(doing, total, unit, 1e-9 if late else 0) if shown else nullcontext()


@contextmanager
def _stage(doing: str, total: int, unit: str, delay: float) -> Iterator[None]:
    with tqdm(total=total, desc=doing, unit=unit, delay=delay) as shown:
        yield
        shown.update(total)
