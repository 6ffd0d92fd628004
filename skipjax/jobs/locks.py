"""Who is at work: locks that show signs of life, and leases on shards of workers that died.

A worker holds `workers/I.json` for as long as it runs, and writes it anew every few seconds. One
that has stopped doing so is dead, and its place is free; so is, at once, that of a process that
this machine knows to be gone. A lock that another took over in the meantime is lost, and says so:
both draw the same pictures, so that nothing is spoilt by two at work for a moment.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from skipjax.jobs.storage import Store, read, read_all

FOLDER, LEASES = "workers", "leases"
BEAT = 5.0  # seconds between signs of life
EXPIRES = 30.0  # seconds without one, after which a worker is dead


class Lost(Exception):
    """Another process has taken the lock."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock.

    Attributes:
        token: Its own, and no other's.
        host: Name of the machine.
        space: Where `pid` has a meaning: the machine since it was started, and the namespace.
        pid: Of the process.
        born: When the process began, as the machine counts.
        workers: How many workers it believes there are.
        since: When it took the lock, seconds of Unix time.
        beat: Its last sign of life, likewise.
    """

    token: str
    host: str
    space: str
    pid: int
    born: str
    workers: int
    since: float
    beat: float

    @staticmethod
    def here(workers: int) -> "Owner":
        """This process."""
        now = time.time()
        pid = os.getpid()
        host = socket.gethostname()
        return Owner(uuid.uuid4().hex, host, _space(), pid, _born(pid), workers, now, now)

    @property
    def gone(self) -> bool | None:
        """Whether the process has ended; None where this machine cannot know."""
        if self.space != _space():
            return None
        return _born(self.pid) != self.born

    @property
    def dead(self) -> bool:
        """Whether it has ended, or shown no sign of life for long."""
        gone = self.gone
        return time.time() - self.beat > EXPIRES if gone is None else gone

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        age = max(time.time() - self.beat, 0)
        return f"process {self.pid} on {self.host}, since {since}, last seen {age:.0f} s ago"


class Lock:
    """A worker's place in a job, while the block lasts.

    Args:
        store: Of the job.
        name: Of the place: the worker's index.
        owner: This process.
        on_lost: Called from another thread if the lock is lost.

    Raises:
        ValueError: If a living process holds it, or works on this job as one of another number of
            workers.
    """

    def __init__(self, store: Store, name: str, owner: Owner, on_lost: Callable[[], None]):
        self._store, self._file, self._on_lost = store, f"{FOLDER}/{name}.json", on_lost
        self._owner, self._stop = owner, threading.Event()
        self._thread = threading.Thread(target=self._beating, daemon=True)

    def __enter__(self) -> "Lock":
        self._refuse_other_counts()
        self._take()
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()
        self.release()

    def release(self) -> None:
        """Gives the place free, if it is still this process's."""
        held = owner(self._store, self._file)
        if held is not None and held.token == self._owner.token:
            self._store.remove(self._file)

    def _take(self) -> None:
        while not self._store.create(self._file, _text(self._owner)):
            held = _watched(self._store, self._file)
            if held is not None and not held.dead:
                raise ValueError(
                    f"{self._store}: worker {Path(self._file).stem} is at work already ({held}). "
                    "Stop it first, or start another with --worker and --num-workers"
                )
            self._store.remove(self._file)

    def _refuse_other_counts(self) -> None:
        for held in living(self._store).values():
            if held.workers != self._owner.workers:
                raise ValueError(
                    f"{self._store}: a worker of {held.workers} is at work ({held}), and this is "
                    f"one of {self._owner.workers}: all must agree on how many there are"
                )

    def _beating(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                held = owner(self._store, self._file)
                if held is not None and held.token != self._owner.token:
                    self._on_lost()
                    return
                self._store.put(self._file, _text(replace(self._owner, beat=time.time())))
            except Exception:
                pass  # a full disk, a network away: whoever is at work with them will say so


def living(store: Store) -> dict[str, Owner]:
    """The workers that are alive, by the name of their place."""
    found = {Path(name).stem: _parsed(text) for name, text in read_all(store, FOLDER).items()}
    return {name: held for name, held in found.items() if held is not None and not held.dead}


def lease(store: Store, shard: int, owner_here: Owner) -> bool:
    """Takes a shard of a dead worker, unless a living one has it: whether it did."""
    name = f"{LEASES}/{shard:06d}.json"
    for _ in range(2):
        if store.create(name, _text(owner_here)):
            return True
        held = owner(store, name)
        if held is not None and held.token in tokens(store):
            return held.token == owner_here.token
        store.remove(name)
    return False


def leased(store: Store) -> dict[int, Owner]:
    """The shards that living workers have taken of dead ones."""
    found = {int(Path(name).stem): _parsed(text) for name, text in read_all(store, LEASES).items()}
    alive = tokens(store) if found else set()
    return {shard: o for shard, o in found.items() if o is not None and o.token in alive}


def end_leases_of_the_dead(store: Store) -> None:
    """Gives back the shards that were taken by workers that have died since."""
    there = read_all(store, LEASES)
    alive = tokens(store) if there else set()
    for name, text in there.items():
        held = _parsed(text)
        if held is None or held.token not in alive:
            store.remove(name)


def end_lease(store: Store, shard: int) -> None:
    """Gives a shard back, finished or not."""
    store.remove(f"{LEASES}/{shard:06d}.json")


def owner(store: Store, name: str) -> Owner | None:
    """Who wrote a lock; None if there is none, or it is not whole."""
    return _parsed(read(store, name) or b"")


def _parsed(text: bytes) -> Owner | None:
    try:
        return Owner(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _watched(store: Store, name: str) -> Owner | None:
    """The owner of a lock: after a while, if only time can tell whether it is alive."""
    first, held = read(store, name), owner(store, name)
    if first is None or held is not None and (held.gone is not None or held.dead):
        return held
    deadline = time.monotonic() + EXPIRES
    while time.monotonic() < deadline:
        time.sleep(BEAT / 5)
        if read(store, name) != first:
            return owner(store, name)
    return None


def tokens(store: Store) -> set[str]:
    """Those of the living workers."""
    return {held.token for held in living(store).values()}


def _text(owner: Owner) -> bytes:
    return json.dumps(asdict(owner)).encode()


def _space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return f"{socket.gethostname()} {uuid.getnode()}"


def _born(pid: int) -> str:
    """What tells a process from later ones of the same number; empty if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # ended, and not yet waited for
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"
