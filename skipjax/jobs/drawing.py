"""The loop: pictures by id, batch after batch, put together to shards."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import jax
import numpy as np

from skipjax.codecs import images
from skipjax.jobs.formats import Pictures
from skipjax.jobs.job import Resolved
from skipjax.jobs.program import Program
from skipjax.jobs.shards import Layout

OnNan = Literal["stop", "skip"]
AHEAD = 2  # batches on the device: one that is drawn while the last is taken from it


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
    queue, taken, started = _Queue(shards, layout), deque[np.ndarray](), deque[jax.Array]()
    while not stopped():
        try:
            while len(started) < AHEAD and len(ids := queue.take(program.batch)):
                taken.append(ids)
                started.append(program(ids))
            if not started:
                return
            floats = on_host(started[0])[: len(taken[0])]
        except jax.errors.JaxRuntimeError as error:
            queue.put_back(taken)
            taken.clear()
            started.clear()
            program.shrink(error)
            continue
        started.popleft()
        ids = taken.popleft()
        if on_nan == "stop":
            images.finite(floats, ids)
        for shard, pixels, finite in queue.add(floats):
            ids = layout.ids(shard)
            whole = Pictures(ids, pixels, resolved.labels(ids), resolved.captions(ids))
            skipped = ids[~finite].tolist()
            finish(Drawn(shard, whole.take(finite) if skipped else whole, skipped))
        on_batch(len(floats))


class _Queue:
    """Ids on their way through the device: those of shards, in order, in at one end, and their
    pictures out at the other.
    """

    def __init__(self, shards: Iterable[int], layout: Layout):
        self._shards, self._layout = iter(shards), layout
        self._begun: deque[int] = deque()
        self._ids = np.array([], int)
        self._drawn: list[tuple[np.ndarray, np.ndarray]] = []

    def take(self, num: int) -> np.ndarray:
        """The next ids, `num` of them or as many as there are."""
        while len(self._ids) < num and (shard := next(self._shards, None)) is not None:
            self._begun.append(shard)
            self._ids = np.concatenate([self._ids, self._layout.ids(shard)])
        taken, self._ids = self._ids[:num], self._ids[num:]
        return taken

    def put_back(self, batches: Iterable[np.ndarray]) -> None:
        """Batches that were taken and not drawn wait again."""
        self._ids = np.concatenate([*batches, self._ids])

    def add(self, floats: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Adds the pictures of the batch that was taken first, float32 [n, ...].

        Returns:
            The shards that are whole with them: number, uint8 pictures, which are finite.
        """
        finite = np.isfinite(floats)
        pixels = images.to_uint8(np.where(finite, floats, 0))
        self._drawn.append((pixels, np.asarray(finite.reshape(len(floats), -1).all(axis=1))))
        whole = []
        while self._begun and self._num_drawn >= (num := len(self._layout.ids(self._begun[0]))):
            pixels, finite = map(np.concatenate, zip(*self._drawn, strict=True))
            whole.append((self._begun.popleft(), pixels[:num], finite[:num]))
            self._drawn = [(pixels[num:], finite[num:])]
        return whole

    @property
    def _num_drawn(self) -> int:
        return sum(len(pixels) for pixels, _ in self._drawn)
