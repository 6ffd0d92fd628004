"""A bar that moves while a compiled loop runs.

The compiled program calls back once a step. It calls one function, whatever bar is shown, so that
a new bar does not make a program compile anew; the bar that moves is the one opened last.
"""

from collections.abc import Iterator
from contextlib import contextmanager

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
