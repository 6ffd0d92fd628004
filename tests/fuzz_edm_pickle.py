"""Mutates pickles of EDM's kind at random and reads them: a ValueError of one line, or a network.

python tests/fuzz_edm_pickle.py --files 5000 --seed 0
"""

import argparse
import random
import tempfile
import warnings
from pathlib import Path

import edm_writer
import fuzz_torch_file
import numpy as np
from fuzz_torch_file import Counts

from skipjax.models import param_shapes
from skipjax.weights import edm
from skipjax.weights.readers import edm_pickle

KWARGS = {"img_resolution": 8, "img_channels": 3, "model_channels": 8, "channel_mult": [1, 2]}
KWARGS |= {"model_type": "SongUNet", "num_blocks": 1, "label_dim": 3, "dropout": np.float64(0.1)}


def _bases():
    rng = np.random.default_rng(0)
    tensors = {
        f"model.enc.8x8_block{i}.conv0.{leaf}": rng.normal(size=shape).astype(dtype)
        for i in range(2)
        for leaf, shape, dtype in [("weight", (3, 2), "float32"), ("bias", (4,), "float16")]
    }
    yield edm_writer.snapshot("EDMPrecond", tensors, KWARGS)
    unet = {name.replace("model.", "unet."): array for name, array in tensors.items()}
    yield {"encoder": None} | edm_writer.snapshot("Precond", unet, {"img_resolution": 8})


def fuzz(files: int, seed: int, folder: Path, seconds: float = 1.0) -> Counts:
    """As `fuzz_torch_file.fuzz`; and what a pickle says of its network is read too."""
    rng, counts, audit = random.Random(seed), Counts(), fuzz_torch_file._Audit()
    path = folder / "model.pkl"
    bases = [edm_writer.pickled(content) for content in _bases()]
    donors = [edm_writer.pickled(content, memo=False) for content in _bases()]
    originals = []
    for content in bases:
        path.write_bytes(content)
        originals.append(fuzz_torch_file._arrays(path))
    for _ in range(files):
        base = rng.randrange(len(bases))
        if rng.random() < 0.4:
            content = fuzz_torch_file._bytes_anywhere(rng, bases[base])
        else:  # without a memo, as there
            content = fuzz_torch_file._pickle(rng, donors[base], donors)
        path.write_bytes(content)
        outcome = fuzz_torch_file._read(path, originals[base], audit, counts)
        assert counts.slowest < seconds, f"{path} took {counts.slowest} s"
        counts.outcomes[outcome] += 1
        counts.outcomes[_described(path)] += 1
    return counts


def _described(path: Path) -> str:
    try:
        with warnings.catch_warnings(action="ignore"):
            model = edm.models.described(edm_pickle.snapshot(path), "fuzzed")
            param_shapes(model.network)
    except ValueError as error:
        message = str(error)
        assert type(error) is ValueError and message.isprintable() and len(message) < 600, message
        return "not described"
    return "described"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(fuzz(arguments.files, arguments.seed, Path(folder), 5.0))


if __name__ == "__main__":
    main()
