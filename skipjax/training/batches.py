"""What a run sees, step by step: a grain pipeline whose place is the number of the step."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from skipjax.training.pictures import Pictures

Batch = tuple[np.ndarray, dict[str, np.ndarray] | None]
THREADS, AHEAD = 2, 8  # that read, and batches that they read ahead


class Batches:
    """Batch i of pictures that are shuffled anew each time all of them were seen.

    A whole batch is one record, gathered at once: a record for each picture would cost a tenth of
    a millisecond each, longer than a small network takes to learn from it.

    Args:
        pictures: Of what.
        batch: Pictures of a batch on all processes together.
        seed: What the order follows from.
        steps: Number of batches.
        part: Which process this is, and of how many: each reads its own part of a batch.

    Raises:
        ValueError: If grain, which reads them ahead, is not installed.
    """

    def __init__(
        self,
        pictures: Pictures,
        batch: int,
        seed: int,
        steps: int,
        part: tuple[int, int] = (0, 1),
    ):
        _grain()
        self._pictures, self._batch, self._seed, self._steps = pictures, batch, seed, steps
        self._mine = np.split(np.arange(batch), part[1])[part[0]]

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, i: int) -> Batch:
        """Samples [B, ...], and what is known of them: "label", int32 [B], and others; or None."""
        place = i * self._batch + self._mine
        num = self._pictures.images.shape[0]
        index = np.empty(len(place), np.int64)
        for epoch in np.unique(place // num):
            now = place // num == epoch
            index[now] = _order(self._seed, int(epoch), num)[place[now] % num]
        condition = self._pictures.condition
        return self._pictures.images[index], {k: v[index] for k, v in condition.items()} or None


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, num: int) -> np.ndarray:
    """In which order an epoch sees its pictures; a batch may lie in two epochs."""
    return np.random.default_rng((seed, epoch)).permutation(num)


def iterate(batches: Batches, start: int) -> Iterator[Batch]:
    """The batches from step `start` on, read ahead by threads."""
    grain = _grain()
    rest = grain.MapDataset.source(batches)[start:]
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD)
    return iter(rest.to_iter_dataset(options))


def _grain() -> Any:
    try:
        import grain
    except ImportError:
        raise ValueError(
            "training reads pictures with grain: pip install 'skipjax[train]'"
        ) from None
    return grain
