"""Tiny networks in files of the kind that OpenAI published, and cards that know them."""

import json

import jax
import numpy as np
import torch_writer
from safetensors.numpy import save_file

from skipjax.weights import adm, parts


def arrays(loaded, dtype="float32"):
    """Its weights by guided-diffusion's names, in its layouts."""
    dtype = torch_writer.dtype(dtype)
    return adm.state_dict(jax.tree.map(lambda leaf: np.asarray(leaf, dtype), loaded.params))


def write(path, loaded, dtype="float32"):
    """A .pt or .safetensors, as the path ends."""
    return write_arrays(path, arrays(loaded, dtype))


def write_arrays(path, arrays):
    """A .pt or .safetensors of any arrays by name."""
    if path.suffix == ".safetensors":
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, path)
        return path
    return torch_writer.save(path, {name: torch_writer.tensor(a) for name, a in arrays.items()})


def card(loaded, *file_names, **more):
    """What a card says of a network, under its own name as a .pt and under others."""
    known, name = parts.describe(loaded), loaded.name
    files = {"file_names": [f"{name}.pt", *file_names], "source": [f"https://example.org/{name}"]}
    sizes = {"parameters": sum(leaf.size for leaf in jax.tree.leaves(loaded))}
    return known | files | sizes | {"sha256": None} | more


def shelve(folder, *cards):
    """A folder of cards, such as `skipjax.weights.cards.RELEASED`."""
    folder.mkdir(exist_ok=True)
    for known in cards:
        (folder / f"{known['name']}.json").write_text(json.dumps(known))
    return folder


def with_cards(folder, *networks):
    """A folder with a .pt of each, and a shelf of cards that know them."""
    for made in networks:
        write(folder / f"{made.name}.pt", made)
        shelve(folder / "cards", card(made))
    return folder


def damaged(path):
    """Another bit than was there, in the middle of the largest part of it."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path
