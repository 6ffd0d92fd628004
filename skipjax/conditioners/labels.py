"""Classes: by number or name, or drawn for samples that were given none."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.conditioners.conditioner import Condition, Words

Label = int | str
DRAW = 2**32 - 2  # folded into a sample's key where its label is drawn; steps use 0 .. N-1


@jax.tree_util.register_static
@dataclass(frozen=True)
class Labels:
    """{"label": int32 [B]}, each in 0 .. num_classes-1.

    Args:
        num_classes: Number of labels that the network knows, one that stands for no class
            included.
        class_names: Names of those that stand for a class, in order; empty where they have none.
        null_label: The label that stands for no class, for guidance; None if there is none.

    Raises:
        ValueError: For a wrong number of names, or a null label that is no label.
    """

    num_classes: int
    class_names: tuple[str, ...] = ()
    null_label: int | None = None

    takes = ("label",)
    gives = ("label",)

    def __post_init__(self):
        object.__setattr__(self, "class_names", tuple(self.class_names))
        if self.null_label is not None and not 0 <= self.null_label < self.num_classes:
            raise ValueError(
                f"null_label is {self.null_label}: it must be one of the {self.num_classes} labels"
            )
        if self.class_names and len(self.class_names) != self.classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.classes} classes")

    def __repr__(self) -> str:
        null = "" if self.null_label is None else f", null_label {self.null_label}"
        return f"Labels({self.classes} classes{null})"

    @property
    def classes(self) -> int:
        """Number of labels that stand for a class."""
        return self.num_classes - (self.null_label is not None)

    def encode(self, words: Words, key: jax.Array, ids: np.ndarray) -> Condition:
        """Labels of the samples `ids`; `words["label"]` is one for all, one for each, or None to
        draw them from their ids.

        Raises:
            ValueError: For a class that is not there, or another number of labels than samples.
        """
        label = words.get("label")
        if label is None:
            drawn = np.asarray(_draw(key, np.asarray(ids, np.uint32), self.classes))
            return {"label": self.of_class(drawn)}
        given: Any = label.tolist() if isinstance(label, (jax.Array, np.ndarray)) else label
        if isinstance(given, str) or not isinstance(given, Sequence):
            return {"label": np.full(len(ids), self.number(given), np.int32)}
        if len(given) != len(ids):
            raise ValueError(
                f"label has {len(given)} entries for {len(ids)} samples: give one for all, or as "
                "many"
            )
        return {"label": np.array([self.number(one) for one in given], np.int32)}

    def null(self, condition: Condition, negative: Any = None) -> Condition | None:
        """The null label in the place of every label; None if there is none.

        Raises:
            ValueError: If there is a negative: classes have no opposite.
        """
        if negative is not None:
            raise ValueError("negative is given, and classes have no opposite: drop it")
        if self.null_label is None or "label" not in condition:
            return None
        return condition | {"label": jnp.full_like(condition["label"], self.null_label)}

    def of_class(self, numbers: np.ndarray) -> np.ndarray:
        """Labels of the classes 0, 1, ...: their numbers, with the null label passed over."""
        return numbers if self.null_label is None else numbers + (numbers >= self.null_label)

    def to_class(self, labels: np.ndarray) -> np.ndarray:
        """Classes 0, 1, ... of labels.

        Raises:
            ValueError: For the null label, which stands for none.
        """
        if self.null_label is None:
            return labels
        if np.any(labels == self.null_label):
            raise ValueError(
                f"label {self.null_label} stands for no class: a classifier has nothing to guide "
                "towards there"
            )
        return labels - (labels > self.null_label)

    def number(self, label: Label) -> int:
        """The label of a class given by number or name; a name's unique beginning is enough.

        Raises:
            ValueError: If there is no such class, or several begin like that.
        """
        known = f"0 .. {self.num_classes - 1}"
        known += f", or one of: {_list(self.class_names)}" if self.class_names else ""
        if isinstance(label, str) and not label.strip().isdecimal():
            names = [name.lower() for name in self.class_names]
            wanted = label.strip().lower()
            found = [i for i, name in enumerate(names) if name == wanted]
            found = found or [i for i, n in enumerate(names) if wanted and n.startswith(wanted)]
            if len(found) != 1:
                problem = "is not a class"
                if found:
                    problem = f"fits several classes ({_list([names[i] for i in found])})"
                raise ValueError(f"label {label!r} {problem}: it must be {known}")
            return int(self.of_class(np.asarray(found[0])))
        if isinstance(label, (bool, np.bool)) or not isinstance(label, (str, int, np.integer)):
            raise ValueError(f"label {label!r} is neither a number nor a name: it must be {known}")
        if not 0 <= int(label) < self.num_classes:
            raise ValueError(f"label {label} is out of range: it must be {known}")
        return int(label)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


@partial(jax.jit, static_argnames="classes")
def _draw(key: jax.Array, ids: jax.Array, classes: int) -> jax.Array:
    def draw(i):
        own = jax.random.fold_in(jax.random.fold_in(key, i), DRAW)
        return jax.random.randint(own, (), 0, classes, jnp.int32)

    return jax.vmap(draw)(ids)
