"""Class labels: by number or name, or drawn for pictures that were given none."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.pretrained import ClassifierSpec, Spec

Label = int | str
DRAW = 2**32 - 2  # folded into a picture's key where its label is drawn; steps use 0 .. N-1


def resolve(
    spec: Spec | ClassifierSpec,
    key: jax.Array,
    ids: np.ndarray,
    label: Label | Sequence[Label] | None,
) -> np.ndarray | None:
    """Labels of the pictures `ids`, int32 [len(ids)], or None for an unconditional network.

    Args:
        spec: What the network is that takes the labels.
        key: Key of the run; a label that is not given is drawn with it and the picture's id.
        ids: Ids of the pictures.
        label: One for all, one per picture, or None to draw them.

    Raises:
        ValueError: For a class that is not there, another number of labels than pictures, or any
            label for an unconditional network.
    """
    if not spec.classes:
        if label is not None:
            raise ValueError(f"{spec.name} is unconditional: it takes no label, got {label!r}")
        return None
    if label is None:
        drawn = np.asarray(_drawn(key, ids.astype(np.uint32), spec.classes))
        return drawn + (drawn >= _null(spec))
    given: Any = label.tolist() if isinstance(label, (jax.Array, np.ndarray)) else label
    if isinstance(given, str) or not isinstance(given, Sequence):
        return np.full(len(ids), number(spec, given), np.int32)
    if len(given) != len(ids):
        raise ValueError(
            f"label has {len(given)} entries for {len(ids)} pictures: give one for all, or as many"
        )
    return np.array([number(spec, one) for one in given], np.int32)


def number(spec: Spec | ClassifierSpec, label: Label) -> int:
    """The number of a class given by number or name; a name's unique beginning is enough.

    Raises:
        ValueError: If there is no such class, or several begin like that.
    """
    names, null = [name.lower() for name in spec.class_names], _null(spec)
    labels = spec.classes + (null < np.inf)
    known = f"0 .. {labels - 1}" + (f", or one of: {_listed(spec.class_names)}" if names else "")
    if isinstance(label, str) and not label.strip().isdecimal():
        wanted = label.strip().lower()
        found = [i for i, name in enumerate(names) if name == wanted]
        found = found or [i for i, name in enumerate(names) if wanted and name.startswith(wanted)]
        if len(found) != 1:
            problem = "is not a class"
            if found:
                problem = f"fits several classes ({_listed([names[i] for i in found])})"
            raise ValueError(f"label {label!r} {problem}: it must be {known}")
        return found[0] + (found[0] >= null)
    if isinstance(label, (bool, np.bool)) or not isinstance(label, (str, int, np.integer)):
        raise ValueError(f"label {label!r} is neither a number nor a name: it must be {known}")
    if not 0 <= int(label) < labels:
        raise ValueError(f"label {label} is out of range: it must be {known}")
    return int(label)


def _null(spec: Spec | ClassifierSpec) -> float:
    """The label that is no class, which names and draws pass over; infinite if there is none."""
    null = spec.null_label if isinstance(spec, Spec) else None
    return np.inf if null is None else null


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


@partial(jax.jit, static_argnames="classes")
def _drawn(key: jax.Array, ids: jax.Array, classes: int) -> jax.Array:
    def draw(i):
        own = jax.random.fold_in(jax.random.fold_in(key, i), DRAW)
        return jax.random.randint(own, (), 0, classes, jnp.int32)

    return jax.vmap(draw)(ids)
