"""Labelled pictures to train on: what all data sets are read as."""

import hashlib
from typing import NamedTuple, Protocol

import numpy as np

SHOWN = 3  # names, sizes or files that a line holds


class Images(Protocol):
    """An array of pictures, or what reads those that are asked for from files."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C)."""
        ...

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        """uint8 [B, H, W, C], of the places int [B]."""
        ...


class Pictures(NamedTuple):
    """Labelled pictures: N of them, H x W pixels."""

    images: np.ndarray | Images  # uint8 [N, H, W, C]; or float32 [N, ...], such as latents
    labels: np.ndarray | None  # int32 [N], in 0 .. len(class_names) - 1; None for no classes
    names: tuple[str, ...] = ()  # N, what each is called: "grinning face"; empty for no names
    class_names: tuple[str, ...] = ()  # such as "Smileys & Emotion"
    others: dict[str, np.ndarray] = {}  # what else conditions the network, [N, ...]: "text"

    @property
    def condition(self) -> dict[str, np.ndarray]:
        """All that is known of the samples, leaves [N, ...]."""
        return self.others if self.labels is None else {"label": self.labels} | self.others

    @property
    def fingerprint(self) -> str:
        """Tells these pictures from others: a hash of their number, shape, labels and content.

        Of pictures that are read from files, names stand for the content.
        """
        images = self.images
        content = images.tobytes() if isinstance(images, np.ndarray) else repr(self.names).encode()
        labels = b"" if self.labels is None else self.labels.astype(np.int32).tobytes()
        text = repr((images.shape, self.class_names)).encode()
        others = b"".join(name.encode() + a.tobytes() for name, a in self.others.items())
        return hashlib.sha256(b"".join([text, labels, content, others])).hexdigest()[:16]

    def take(self, chosen: np.ndarray) -> "Pictures":
        """Those of some places, int [n]; of pictures in memory alone."""
        names = tuple(self.names[i] for i in chosen) if self.names else ()
        labels = None if self.labels is None else self.labels[chosen]
        others = {name: array[chosen] for name, array in self.others.items()}
        return self._replace(images=self.images[chosen], labels=labels, names=names, others=others)


def describe(pictures: Pictures) -> str:
    """What was understood of some data, in one line."""
    num, *sizes = pictures.images.shape
    classes = "no classes"
    if names := pictures.class_names:
        shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        classes = f"{len(names)} classes: {shown}"
    return f"{num:,} pictures of {' x '.join(map(str, sizes))}, {classes}"


def check(pictures: Pictures, shape: tuple[int, ...], num_classes: int | None) -> None:
    """Refuses pictures that a network of so many classes cannot be trained on.

    Raises:
        ValueError: If there are none, they are of another shape or type, or labels do not fit.
    """
    images, labels = pictures.images, pictures.labels
    if len(images.shape) != 1 + len(shape) or not images.shape[0]:
        axes = "[N, H, W, C]" if len(shape) == 3 else f"[N, {', '.join(map(str, shape))}]"
        raise ValueError(f"pictures are {images.shape}: expected {axes}, N > 0")
    dtype = getattr(images, "dtype", np.dtype(np.uint8))
    if dtype not in (np.uint8, np.float32):
        raise ValueError(f"pictures are {dtype}: expected uint8, 0 .. 255, or float32")
    if images.shape[1:] != shape:
        raise ValueError(f"pictures are {images.shape[1:]}, the network wants {shape}")
    if labels is None:
        if num_classes is not None:
            raise ValueError(
                f"the network has {num_classes} classes, and the pictures have no labels"
            )
        return
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}: expected a whole number for each "
            f"of {images.shape[0]} pictures"
        )
    if num_classes is not None and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels are {labels.min()} .. {labels.max()}: a network of {num_classes} classes "
            f"takes 0 .. {num_classes - 1}"
        )


def held_out(
    pictures: Pictures, fraction: float = 0.1, seed: int = 0
) -> tuple[Pictures, Pictures]:
    """Splits into (train, held): `fraction` of every class, rounded, is held out.

    The same seed gives the same split; both parts keep the order of `pictures`. Pictures that
    occur more than once (France's flag is also Clipperton Island's) all stay in train, so that
    no held picture has been seen. Raises ValueError where fraction is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction must be in [0, 1); got {fraction}")
    rng = np.random.default_rng(seed)
    images = np.asarray(pictures.images)
    flat = images.reshape(len(images), -1)
    labels = np.zeros(len(flat), int) if pictures.labels is None else pictures.labels
    _, which, times = np.unique(flat, axis=0, return_inverse=True, return_counts=True)
    alone = times[which.reshape(-1)] == 1
    held = np.zeros(len(flat), bool)
    for label in range(labels.max(initial=0) + 1):
        members = labels == label
        count = round(fraction * int(members.sum()))
        held[rng.permutation(np.flatnonzero(members & alone))[:count]] = True
    return pictures.take(np.flatnonzero(~held)), pictures.take(np.flatnonzero(held))
