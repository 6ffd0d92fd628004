"""What a plan of many calls makes of the examples: computed once, and kept."""

import hashlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from skipjax.claims import claim
from skipjax.files import pending
from skipjax.plans import Plan
from skipjax.tuning.examples import Denoiser, Examples, Features, drawn, pixels


def taught(
    denoiser: Denoiser,
    teacher: Plan,
    examples: Examples,
    *,
    features: Features = pixels,
    batch: int = 256,
    keep: Path | None = None,
    about: dict | None = None,
) -> Examples:
    """The examples, with features of the teacher's pictures as their target.

    Args:
        denoiser: Of the network.
        teacher: The plan that is trusted.
        examples: Without targets.
        features: What pictures are compared in.
        batch: Pictures at a time.
        keep: Folder to keep pictures in, a file for each batch: what is there is not drawn again.
        about: What the pictures depend on, as JSON can say it.

    Raises:
        ValueError: If the folder holds pictures of something else.
        FloatingPointError: If a picture is not finite.
    """
    if keep is not None:
        table = hashlib.sha256(teacher.to_json().encode()).hexdigest()[:16]
        claim(keep / "teacher.json", (about or {}) | {"batch": batch, "plan": table})
    found = []
    for i, part in enumerate(examples.batches(batch)):
        path = None if keep is None else keep / f"{i:05d}.npy"
        if path is not None and path.exists():
            found.append(np.load(path))
            continue
        pictures = np.asarray(drawn(denoiser, teacher, part))
        if not np.isfinite(pictures).all():
            raise FloatingPointError(f"the teacher, {teacher}, draws pictures that are not finite")
        if path is not None:
            with pending(path) as temporary:
                np.save(temporary, pictures)
        found.append(pictures)
    pictures = np.concatenate(found)[: len(examples.x)]
    return examples._replace(target=np.asarray(features(jnp.asarray(pictures))))
