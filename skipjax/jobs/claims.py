"""Who draws which shard just now, so that no other does too.

A claim saves work, and nothing rests on it: a shard is the same file whoever makes it. It is void
when it has stood unchanged for as long as it promises to be renewed in, as whoever wants the shard
sees by a clock of its own; the clocks of two hosts are compared for claims of long ago alone. A
claim of the worker's own number is one of its former life, and one that cannot be read is none.
"""

import json
import os
import socket
import threading
import time
import uuid
from typing import Any

from skipjax.jobs.storage import Store, read

FOLDER = "claims"
FIRST = 300.0  # seconds that a claim promises before it is known how long a batch takes
LEAST = 30.0
BATCHES = 4  # as many as the longest batch took, it promises later on
SKEW = 600.0  # seconds that two hosts' clocks may be apart


class Claims:
    """The claims of one worker while the block lasts; they end with it.

    Args:
        store: Of the job.
        worker: Its number.
    """

    def __init__(self, store: Store, worker: int):
        self._store = store
        self._who = {"worker": worker, "host": socket.gethostname(), "process": os.getpid()}
        self._who["token"] = uuid.uuid4().hex
        self._lifetime, self._longest = FIRST, 0.0
        self._beat = self._renewed = time.monotonic()
        self._held: set[int] = set()
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._lock = threading.Lock()  # shards are released by the thread that writes them

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, *_: Any) -> None:
        for shard in list(self._held):
            self.release(shard)

    def take(self, shard: int) -> bool:
        """Claims a shard, unless another worker has it: whether it did."""
        name, ours = _name(shard), self._text()
        theirs = read(self._store, name)
        if theirs is None:
            if not self._store.create(name, ours):
                return False
        else:
            if not self._void(shard, theirs) or read(self._store, name) != theirs:
                return False
            self._store.put(name, ours)
            if read(self._store, name) != ours:
                return False
        if not self._held:
            self._beat = time.monotonic()
        self._held.add(shard)
        return True

    def renew(self) -> None:
        """Writes the claims anew that would soon be void, and all after the first batch, which
        shortens what they promised before it; called after each batch.
        """
        now, first = time.monotonic(), not self._longest
        self._longest, self._beat = max(self._longest, now - self._beat), now
        self._lifetime = max(LEAST, BATCHES * self._longest)
        if not first and now - self._renewed < self._lifetime / 3:
            return
        self._renewed = now
        with self._lock:
            for shard in self._held:
                if self._is_ours(shard):
                    self._store.put(_name(shard), self._text())

    def release(self, shard: int) -> None:
        """Ends a claim, unless another worker has taken it over."""
        with self._lock:
            if self._is_ours(shard):
                self._store.remove(_name(shard))
            self._held.discard(shard)

    def _void(self, shard: int, claim: bytes) -> bool:
        """Whether what is found in another's place counts for nothing."""
        try:
            said = json.loads(claim)
            if said["worker"] == self._who["worker"]:
                return True
            lifetime, renewed = float(said["lifetime"]), float(said["renewed"])
        except (ValueError, KeyError, TypeError):
            return True
        now = time.monotonic()
        if self._seen.get(shard, (b"", 0))[0] != claim:
            self._seen[shard] = claim, now
        unchanged = now - self._seen[shard][1]
        return unchanged > lifetime or time.time() - renewed > lifetime + SKEW

    def _is_ours(self, shard: int) -> bool:
        try:
            said = json.loads(read(self._store, _name(shard)) or b"")
            return said["token"] == self._who["token"]
        except (ValueError, KeyError, TypeError):
            return False

    def _text(self) -> bytes:
        said = self._who | {"lifetime": self._lifetime, "renewed": time.time()}
        return json.dumps(said).encode()


def clear(store: Store) -> None:
    """Removes what the dead have left of a job that is finished."""
    for name in store.names(FOLDER):
        store.remove(f"{FOLDER}/{name}")
    store.sweep(every=True)


def _name(shard: int) -> str:
    return f"{FOLDER}/{shard:06d}.json"
