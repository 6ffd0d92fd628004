"""What a job says while it runs: a bar for people, lines of JSON for machines."""

import json
import sys
import time
from typing import Any

from tqdm import tqdm


class Report:
    """Told what happens; this one keeps it to itself."""

    def say(self, event: str, text: str, **facts: Any) -> None:
        """Something worth a line.

        Args:
            event: What kind of thing, for machines.
            text: For people.
            facts: For machines.
        """

    def begin(self, total: int, done: int) -> None:
        """Drawing begins: `done` pictures of `total` are there from earlier."""

    def drawn(self, num: int) -> None:
        """So many pictures more are drawn."""

    def end(self) -> None:
        """Drawing has ended."""


class Bar(Report):
    """A line for each event, and a bar with pictures per second and the time that is left."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def say(self, event: str, text: str, **facts: Any) -> None:
        if event != "shard":  # the bar shows those
            tqdm.write(text, file=sys.stderr)

    def begin(self, total: int, done: int) -> None:
        # Smoothing 0: the average since the start, of which the time left follows most steadily.
        every = 0.1 if sys.stderr.isatty() else 10.0  # seconds: logs keep every line
        self._bar = tqdm(total=total, initial=done, unit="picture", smoothing=0, mininterval=every)

    def drawn(self, num: int) -> None:
        if self._bar is not None:
            self._bar.update(num)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()


class Lines(Report):
    """A JSON object a line on stdout; how far it is, at most once a second."""

    def __init__(self) -> None:
        self._total = self._done = self._now = 0
        self._began = self._said = 0.0

    def say(self, event: str, text: str, **facts: Any) -> None:
        print(json.dumps({"event": event, "time": time.time(), "text": text} | facts), flush=True)

    def begin(self, total: int, done: int) -> None:
        self._total, self._done, self._began = total, done, time.monotonic()

    def drawn(self, num: int) -> None:
        self._now += num
        done, passed = self._done + self._now, time.monotonic() - self._began
        self._total = max(self._total, done)  # more than its own, where it steals
        if time.monotonic() - self._said >= 1 or done == self._total:
            self._said = time.monotonic()
            rate = self._now / max(passed, 1e-9)
            self.say(
                "progress",
                f"{done} of {self._total} pictures",
                done=done,
                total=self._total,
                pictures_per_second=rate,
                seconds_left=(self._total - done) / rate,
            )
