"""Pytrees on disk, through orbax."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp


def save(path: str | Path, tree: Any) -> None:
    """Writes a pytree of arrays as an orbax checkpoint; the folder appears whole or not at all.

    Raises:
        ValueError: If there is something at `path` already.
    """
    ocp.save(_absolute(path), tree)


def restore(path: str | Path, like: Any) -> Any:
    """Reads a pytree of the structure, shapes, dtypes and shardings of `like`.

    Args:
        path: Folder that `save` wrote.
        like: Pytree of arrays or `jax.ShapeDtypeStruct`s; values are cast to its dtypes.

    Raises:
        ValueError: If the arrays on disk have other names or shapes; says which.
    """
    # Orbax finds this out too, but tells it in thousands of lines.
    stored, wanted = _shapes(ocp.metadata(_absolute(path)).metadata), _shapes(like)
    faults = [
        f"{name} is {stored.get(name, 'missing')}, wanted {wanted.get(name, 'none')}"
        for name in sorted({*stored, *wanted})
        if stored.get(name) != wanted.get(name)
    ]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(f"{path} does not fit the network: {'; '.join(faults[:3])}{more}")
    return ocp.load(_absolute(path), _abstract(like))


class Steps:
    """Checkpoints of a training run, by step, the newest `keep` of them.

    They are written while the run goes on. A step that was being written when the process died is
    not there on the next start.
    """

    def __init__(self, directory: str | Path, keep: int = 2):
        Path(directory).mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._checkpointer = ocp.training.Checkpointer(
            _absolute(directory),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),  # pyright: ignore
            cleanup_tmp_directories=True,
        )
        self._writing: tuple[int, Any] | None = None
        self._failed = False

    @property
    def latest(self) -> int | None:
        """The newest step that is wholly written, or None where there is none yet."""
        self._finish()
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: Any) -> None:
        """Begins to write the state of a step; nothing happens if that step is there already.

        The state may be donated as soon as this returns.

        Raises:
            OSError: If this step or the one before cannot be written.
        """
        if step == self.latest:
            return
        with self._said(step):
            self._writing = step, self._checkpointer.save_async(step, state, force=True)

    def restore(self, like: Any) -> Any:
        """Reads the newest step into the structure and shardings of `like`."""
        return self._checkpointer.load(self.latest, _abstract(like))

    def close(self) -> None:
        """Waits for what is being written.

        Raises:
            OSError: If it cannot be.
        """
        try:
            self._finish()
        finally:
            # What was raised once, Orbax raises again, as it was.
            with suppress(Exception) if self._failed else nullcontext():
                self._checkpointer.close()

    def _finish(self) -> None:
        if self._writing is not None:
            (step, writing), self._writing = self._writing, None
            with self._said(step):
                writing.result()

    @contextmanager
    def _said(self, step: int) -> Iterator[None]:
        try:
            yield
        # Orbax and what it writes with raise many kinds, ValueError and RuntimeError among them.
        except Exception as error:
            self._failed = True
            reason = next((line for line in str(error).splitlines() if line), type(error).__name__)
            # What went wrong stands at the end of it, after long names of files.
            reason = reason if len(reason) < 100 else f"... {reason[-96:]}"
            raise OSError(
                f"the checkpoint of step {step} cannot be written to {self._directory} "
                f"({reason}); make room and start again, from the one before"
            ) from error


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="."): leaf.shape for p, leaf in leaves}


def _absolute(path: str | Path) -> str:
    return str(Path(path).absolute())


def _abstract(tree: Any) -> Any:
    # Orbax wants to be told where each array goes; without a word, to the first device.
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def abstract(leaf):
        sharding = getattr(leaf, "sharding", None) or first
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(abstract, tree)
