"""SIGTERM and SIGINT: the first asks to stop in good order, the second is obeyed at once."""

import os
import signal
import socket
import sys
import threading
from typing import Any

GRACE = 8.0  # seconds between the first signal and the end, come what may


class Stop:
    """Listens for signals while the block lasts.

    A thread of its own hears them, since the main one, which must enter it, may be deep in a
    compiler for minutes. If the block has not ended within `GRACE` of the first signal, or at the
    second, the process exits then and there.

    Attributes:
        signal: The number of the signal that came, or None.
    """

    def __init__(self):
        self.signal: int | None = None
        self._before: dict[int, Any] = {}
        self._last: threading.Timer | None = None

    @property
    def code(self) -> int:
        """The exit code: 143 after SIGTERM, 130 after SIGINT, 0 if none came."""
        return 0 if self.signal is None else 128 + self.signal

    def __enter__(self) -> "Stop":
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, lambda *_: None)
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._write.close()
        if self._last is not None:
            self._last.cancel()

    def _listen(self) -> None:
        while received := self._read.recv(1):
            if received[0] not in self._before:
                continue
            if self.signal is not None:
                self._exit()
            self.signal = received[0]
            print(
                f"skipjax: {signal.Signals(self.signal).name}: stopping, finished shards are "
                "kept; once more to exit at once",
                file=sys.stderr,
                flush=True,
            )
            self._last = threading.Timer(GRACE, self._exit)
            self._last.daemon = True
            self._last.start()
        self._read.close()

    def _exit(self) -> None:
        os._exit(self.code)
