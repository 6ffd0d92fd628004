"""A bar that moves while a compiled loop runs.

The compiled program calls back once a step. It calls one function, whatever bar is shown, so that
a new bar does not make a program compile anew; the bar that moves is the one opened last.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
from tqdm import tqdm

_shown: list["Bar"] = []


class Bar:
    """Counts network calls over one or more batches."""

    def __init__(self, batches: int, nfe: int):
        self._nfe, self._before = nfe, 0
        # There before the first step is: until then the program is being compiled.
        self._bar = tqdm(total=batches * nfe, desc="compiling", unit="call")

    def step(self, i: int) -> None:
        """Row i of the plan is done in the current batch; may be said more than once."""
        new = self._before + i + 1 - self._bar.n
        if new > 0:
            self._bar.set_description("sampling", refresh=False)
            self._bar.update(new)

    def next_batch(self) -> None:
        """The current batch is done."""
        self._before += self._nfe

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()


@contextmanager
def bar(nfe: int, batches: int = 1) -> Iterator[Bar]:
    """Shows a bar at once, and moves it with every call of `on_step` until the block ends."""
    shown = Bar(batches, nfe)
    _shown.append(shown)
    try:
        yield shown
        jax.effects_barrier()
    finally:
        _shown.remove(shown)
        shown.close()


def on_step(i) -> None:
    """What a compiled program tells that row i is done."""
    if _shown:
        _shown[-1].step(int(i))
