"""The loop: pictures by id, batch after batch, put together to shards."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import jax
import numpy as np

from skipjax import api, images
from skipjax.jobs.job import Resolved
from skipjax.jobs.program import Program
from skipjax.jobs.shards import Layout, Pictures

OnNan = Literal["stop", "skip"]
AHEAD = 2  # batches on the device: one that is drawn while the last is taken from it


class Part(NamedTuple):
    """Some of the ids of a shard."""

    shard: int
    ids: np.ndarray


class Drawn(NamedTuple):
    """A shard whose pictures are all drawn; `skipped` were not finite and are left out."""

    shard: int
    pictures: Pictures
    skipped: list[int]


def draw(
    resolved: Resolved,
    program: Program,
    shards: Iterable[int],
    layout: Layout,
    finish: Callable[[Drawn], None],
    *,
    on_nan: OnNan = "stop",
    stopped: Callable[[], bool] = lambda: False,
    on_batch: Callable[[int], None] = lambda num: None,
    on_host: Callable[[jax.Array], np.ndarray] = np.asarray,
) -> None:
    """Draws shards one after the other, in batches that do not care where a shard ends.

    Args:
        resolved: The job.
        program: What draws a batch; made to shrink where the device has no memory for it.
        shards: Numbers of the shards to draw; asked for the next one when it is needed.
        layout: Which ids are in them.
        finish: Takes a shard that is whole.
        on_nan: What to do with a picture that is NaN or infinite: "stop" raises, "skip" leaves it
            out.
        stopped: Whether to stop before the next batch, and drop what is not whole.
        on_batch: Told how many pictures were drawn.
        on_host: Waits for a batch and brings it to the host.

    Raises:
        FloatingPointError: With the ids of pictures that are not finite, for "stop".
        ValueError: If the device has no memory for even one picture.
    """
    waiting, assembly = _Waiting(shards, layout), _Assembly(layout, resolved.labels, on_nan)
    started: deque[jax.Array] = deque()
    while not stopped():
        try:
            while len(started) < AHEAD and len(ids := waiting.take(program.batch)):
                started.append(program(ids))
            if not started:
                return
            floats = on_host(started[0])
        except jax.errors.JaxRuntimeError as error:
            started.clear()
            waiting.put_back()
            program.shrink(error)
            continue
        started.popleft()
        parts = waiting.done()
        for part in parts:
            now, floats = floats[: len(part.ids)], floats[len(part.ids) :]
            if drawn := assembly.add(part, now):
                finish(drawn)
        on_batch(sum(len(part.ids) for part in parts))


class _Waiting:
    """Ids that are still to be drawn, and those of batches that are being drawn."""

    def __init__(self, shards: Iterable[int], layout: Layout):
        self._shards, self._layout = iter(shards), layout
        self._parts: deque[Part] = deque()
        self._taken: deque[list[Part]] = deque()

    def take(self, num: int) -> np.ndarray:
        """The next ids, `num` of them or as many as there are."""
        batch: list[Part] = []
        while num:
            if not self._parts:
                shard = next(self._shards, None)
                if shard is None:
                    break
                self._parts.append(Part(shard, self._layout.ids(shard)))
            shard, ids = self._parts.popleft()
            batch.append(Part(shard, ids[:num]))
            if len(ids) > num:
                self._parts.appendleft(Part(shard, ids[num:]))
            num -= len(batch[-1].ids)
        if not batch:
            return np.array([], int)
        self._taken.append(batch)
        return np.concatenate([part.ids for part in batch])

    def done(self) -> list[Part]:
        """The parts of the batch that was taken first, which is drawn."""
        return self._taken.popleft()

    def put_back(self) -> None:
        """All that was taken and not drawn waits again, in order."""
        for batch in reversed(self._taken):
            self._parts.extendleft(reversed(batch))
        self._taken.clear()


class _Assembly:
    """Shards of which some pictures are drawn."""

    def __init__(
        self,
        layout: Layout,
        labels: Callable[[np.ndarray], np.ndarray | None],
        on_nan: OnNan,
    ):
        self._layout, self._labels, self._on_nan = layout, labels, on_nan
        self._pixels: dict[int, list[np.ndarray]] = {}
        self._finite: dict[int, list[np.ndarray]] = {}

    def add(self, part: Part, floats: np.ndarray) -> Drawn | None:
        """Adds pictures, float32 [n, H, W, C]: the shard, if it is whole with them."""
        if self._on_nan == "stop":
            api.finite(floats, part.ids)
        finite = np.asarray(np.isfinite(floats).all(axis=(1, 2, 3)))
        shard, ids = part.shard, self._layout.ids(part.shard)
        pixels = images.to_uint8(np.where(finite[:, None, None, None], floats, 0))
        self._pixels.setdefault(shard, []).append(pixels)
        self._finite.setdefault(shard, []).append(finite)
        if part.ids[-1] != ids[-1]:
            return None
        pixels, kept = (np.concatenate(kind.pop(shard)) for kind in (self._pixels, self._finite))
        whole = Pictures(ids, pixels, self._labels(ids))
        return Drawn(shard, whole.take(kept) if not kept.all() else whole, ids[~kept].tolist())
