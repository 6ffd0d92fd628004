"""A network in folders as diffusers writes them: small, of its own class, registered from here."""

import hashlib
import json
import warnings
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_writer
from flax import linen as nn
from flax import traverse_util
from safetensors.numpy import save_file

import skipjax
from skipjax import Pretrained, Process
from skipjax.conditioners import Labels
from skipjax.models import param_shapes
from skipjax.process import as_schedule
from skipjax.weights import layout, registry
from skipjax.weights.fields import construct

CLASS, PIPELINE = "ToyModel", "ToyPipeline"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.36.0",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "clip_sample": True,
    "prediction_type": "epsilon",
    "set_alpha_to_one": True,
}


class Toy(nn.Module):
    """Two linear layers over the channels of each pixel, told of the time and of a class."""

    width: int
    classes: int | None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, t, label):
        when = jnp.stack([jnp.sin(t / 100), jnp.cos(t / 100)], axis=-1)
        h = nn.Dense(self.width, name="conv_in", dtype=self.dtype)(x)
        h = h + nn.Dense(self.width, name="time")(when)[:, None, None]
        if self.classes is not None:
            h = h + nn.Embed(self.classes, self.width, name="label")(label)[:, None, None]
        return nn.Dense(x.shape[-1], name="conv_out")(nn.silu(h)).astype(jnp.float32)


@dataclass(frozen=True)
class ToyConfig:
    sample_size: int = 4
    in_channels: int = 3
    width: int = 8
    num_class_embeds: int | None = None

    @property
    def shape(self):
        return self.sample_size, self.sample_size, self.in_channels

    def init(self, key):
        net, x = Toy(self.width, self.num_class_embeds), jnp.zeros((1, *self.shape))
        return net.init(key, x, jnp.zeros(1), jnp.zeros(1, int))["params"]

    def apply(self, params, x, t, condition=None, *, dtype=jnp.float32):
        label = (condition or {}).get("label")
        net = Toy(self.width, self.num_class_embeds, dtype)
        return net.apply({"params": params}, x, t, label)


def name(path):
    *modules, leaf = path
    return ".".join([*modules, "bias" if leaf == "bias" else "weight"])


def to_params(state_dict, config, convert=None):
    return layout.to_params(state_dict, param_shapes(config), name, convert)


def config_of(said):
    known = {field.name for field in fields(ToyConfig)}
    told = {key: value for key, value in said.items() if not key.startswith("_")}
    if unknown := told.keys() - known:
        warnings.warn(f"config.json: nothing is known of {', '.join(unknown)}", stacklevel=2)
    told = {key: value for key, value in told.items() if key in known}
    return construct("config.json", ToyConfig, told)


def model(config, name):
    classes = config.num_class_embeds
    labels = None if classes is None else Labels(classes)
    return Pretrained(None, config, Process(as_schedule("linear")), labels, name=name)


registry.register("toy_diffusers", ToyConfig, to_params, model, {CLASS: config_of})


def arrays(config, dtype=np.float32):
    """Random weights by torch's names and in its layouts."""
    flat: Any = traverse_util.flatten_dict(param_shapes(config))
    rng = np.random.default_rng(0)
    drawn = {name(p): rng.normal(size=leaf.shape[::-1]) / 3 for p, leaf in flat.items()}
    turned = {name(p): leaf.shape for p, leaf in flat.items() if p[-1] == "embedding"}
    drawn |= {key: drawn[key].T for key in turned}
    return {key: np.ascontiguousarray(a, np.float16).astype(dtype) for key, a in drawn.items()}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def component(folder, config=None, file="diffusion_pytorch_model.safetensors", **more):
    """A component's folder; `file` may be None, for no weights."""
    config = ToyConfig() if config is None else config
    told = {field.name: getattr(config, field.name) for field in fields(ToyConfig)}
    write(
        folder / "config.json",
        {"_class_name": CLASS, "_diffusers_version": "0.36.0"} | told | more,
    )
    if file is not None:
        weights(folder / file, config)
    return folder


def weights(path, config, dtype=np.float32):
    """A file of the weights, in the format that its name ends in."""
    if path.suffix == ".safetensors":
        save_file(arrays(config, dtype), path)
    else:
        torch_writer.save(
            path, {k: torch_writer.tensor(a) for k, a in arrays(config, dtype).items()}
        )
    return path


def sharded(folder, config=None, suffix="safetensors", variant=""):
    """The weights in two files and an index, as large ones are."""
    every = arrays(ToyConfig() if config is None else config)
    names, where = sorted(every), {}
    dotted = f".{variant}" if variant else ""
    for i, part in enumerate((names[::2], names[1::2]), 1):
        file = f"diffusion_pytorch_model{dotted}-0000{i}-of-00002.{suffix}"
        some = {name: every[name] for name in part}
        if suffix == "safetensors":
            save_file(some, folder / file)
        else:
            torch_writer.save(folder / file, {k: torch_writer.tensor(a) for k, a in some.items()})
        where |= {name: file for name in part}
    index = {"metadata": {"total_size": 4 * sum(a.size for a in every.values())}}
    write(
        folder / f"diffusion_pytorch_model.{suffix}.index{dotted}.json",
        index | {"weight_map": where},
    )
    return folder


def pipeline(folder, config=None, scheduler=SCHEDULER, network="unet", flat=False, **more):
    """A pipeline's folder, with its components in folders or all in one."""
    component(folder if flat else folder / network, config)
    index = {
        "_class_name": PIPELINE,
        "_diffusers_version": "0.36.0",
        network: ["diffusers", CLASS],
    }
    if scheduler is not None:
        place = folder if flat else folder / "scheduler"
        write(place / "scheduler_config.json", scheduler)
        index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    write(folder / "model_index.json", index | more)
    return folder


def into_cache(cache, repository, folder, commit=COMMIT, ref="main"):
    """A folder's files in a cache of the hub, in its layout: blobs, and links to them."""
    place = cache / f"models--{repository.replace('/', '--')}"
    write(place / "refs" / ref, commit)
    (place / "blobs").mkdir(exist_ok=True)
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            # Large files go by their sha256, small ones by git's hash.
            large = path.suffix in (".safetensors", ".bin")
            digest = (hashlib.sha256 if large else hashlib.sha1)(content).hexdigest()
            (place / "blobs" / digest).write_bytes(content)
            link = place / "snapshots" / commit / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            up = "../" * (len(path.relative_to(folder).parts) + 1)
            link.symlink_to(f"{up}blobs/{digest}")
    return place / "snapshots" / commit


def params(config=None):
    """What `load` is to give of it."""
    config = ToyConfig() if config is None else config
    return jax.tree.map(np.asarray, to_params(arrays(config), config))


def same(loaded, config=None, dtype=np.float32):
    """Asserts that a model has the toy's weights."""
    wanted = jax.tree.map(lambda leaf: leaf.astype(dtype), params(config))
    assert jax.tree.structure(loaded.params) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, wanted)


def refused(words, folder, **options):
    """What `load` says, in one line, of a folder that it refuses."""
    with pytest.raises(ValueError, match=words) as caught:
        skipjax.load(folder, **options)
    said = str(caught.value)
    assert "\n" not in said
    return said


def edit(path, **changes):
    """Changes some of an object in a file of JSON; what is `...` is left out."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
