"""Writing in the background, a few files behind what is drawn and no more."""

import queue
import threading
from collections.abc import Callable
from typing import Any


class Writer:
    """Calls `write` with what is submitted, in order, in a thread of its own.

    Leaving the block waits until all is written. After an error nothing more is written, and the
    error is raised by the next `submit`, or by leaving the block.

    Args:
        write: What to call.
        behind: How many submissions may wait; `submit` blocks beyond that.
    """

    def __init__(self, write: Callable[..., None], behind: int = 2):
        self._write = write
        self._queue: queue.Queue[tuple | None] = queue.Queue(behind)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._writing, daemon=True)

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, kind: Any, *_) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def submit(self, *arguments: Any) -> None:
        """Hands something over to be written."""
        self._raise()
        self._queue.put(arguments)

    def _writing(self) -> None:
        while (arguments := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._write(*arguments)
                except BaseException as error:
                    self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
