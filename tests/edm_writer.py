"""Pickles as EDM's training writes them, made without torch or EDM's code.

Classes stand in by name for those of torch and of EDM; each persistent object carries a source.
"""

import io
import pickle
import sys
import types
from collections import OrderedDict
from unittest import mock

import torch_writer
from torch_writer import STORAGES

SOURCE = "raise RuntimeError('the source of a pickle was executed')\n"


def _function(module, name):
    function = types.FunctionType((lambda *_: None).__code__, {}, name)
    function.__module__, function.__qualname__ = module, name
    return function


def _class(module, name, base=object):
    return type(name, (base,), {"__module__": module, "__qualname__": name})


RECONSTRUCT = _function("torch_utils.persistence", "_reconstruct_persistent_obj")
FROM_BYTES = _function("torch.storage", "_load_from_bytes")
ModuleDict = _class("torch.nn.modules.container", "ModuleDict")
EasyDict = _class("dnnlib.util", "EasyDict", dict)


class Persistent:
    """An object of a persistent class: its name, its state, and the source that it carries."""

    def __init__(self, class_name, state, source=SOURCE, **meta):
        self.meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name}
        self.meta |= {"state": state} | meta

    def __reduce__(self):
        return RECONSTRUCT, (self.meta,)


def _stand_ins():
    modules = dict(torch_writer._TORCH)
    for module in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util"):
        modules[module] = types.ModuleType(module)
    for module in ("torch.nn", "torch.nn.modules", "torch.nn.modules.container"):
        modules[module] = types.ModuleType(module)
    for one in (RECONSTRUCT, FROM_BYTES, ModuleDict, EasyDict):
        setattr(modules[one.__module__], one.__qualname__, one)
    return modules


class _Bytes:
    """A storage as its own bytes."""

    def __init__(self, content, elements=None):
        self.content, self.elements = content, elements

    def __reduce__(self):
        return FROM_BYTES, (self.content,)


class _Pickler(pickle._Pickler):  # pyright: ignore
    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, torch_writer.Storage):
            parts = torch_writer.pickled(obj, legacy=True)
            itemsize = obj.elements.itemsize if obj.elements.dtype.name in STORAGES else 1
            obj = _Bytes(b"".join(torch_writer.wrap_legacy(*parts, itemsize=itemsize)))
        return super().save(obj, save_persistent_id)


def layer_state(parameters=(), buffers=(), modules=(), **others):
    """The state of a layer of torch's."""
    state = {
        "training": False,
        "_parameters": OrderedDict(parameters),
        "_buffers": OrderedDict(buffers),
        "_non_persistent_buffers_set": set(),
        "_forward_hooks": OrderedDict(),
        "_modules": OrderedDict(modules),
    }
    return state | others


def network(class_name, tensors, kwargs, buffers=(), args=(), source=SOURCE):
    """A persistent network with tensors by dotted names; `enc` and `dec` are of torch's own class.

    Args:
        class_name: "EDMPrecond".
        tensors: Arrays by name.
        kwargs: What it was made with.
        buffers: Names of those that are no params.
        args: And what by position.
        source: Of every object in it.
    """

    def build(prefix, name):
        parameters, own, inner = {}, {}, {}
        for full, array in tensors.items():
            if not full.startswith(prefix):
                continue
            head, _, rest = full[len(prefix) :].partition(".")
            if rest:
                inner[head] = None
            elif full in buffers:
                own[head] = torch_writer.tensor(array)
            else:
                parameters[head] = torch_writer.Parameter(torch_writer.tensor(array))
        modules = {head: build(f"{prefix}{head}.", head) for head in inner}
        state = layer_state(parameters, own, modules)
        if name in ("enc", "dec"):
            layers = ModuleDict()
            layers.__dict__.update(state)
            return layers
        made = {"_init_args": (), "_init_kwargs": {}}
        if not prefix:
            made = {"_init_args": args, "_init_kwargs": kwargs}
        return Persistent(class_name if not prefix else "Layer", state | made, source)

    return build("", "")


def pickled(content, protocol=4, memo=True):
    """The bytes of a pickle."""
    file = io.BytesIO()
    pickler = _Pickler(file, protocol)
    pickler.fast = not memo
    with mock.patch.dict(sys.modules, _stand_ins()):
        pickler.dump(content)
    return file.getvalue()


def snapshot(class_name, tensors, kwargs, buffers=(), **options):
    """The content of a network's snapshot, with what else is in one."""
    return {
        "ema": network(class_name, tensors, kwargs, buffers, **options),
        "loss_fn": Persistent("EDMLoss", {"P_mean": -1.2, "sigma_data": 0.5}),
        "augment_pipe": None,
        "dataset_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset", path="x.zip"),
    }


def save(path, *arguments, protocol=4, **options):
    """Writes a snapshot to a file."""
    path.write_bytes(pickled(snapshot(*arguments, **options), protocol))
    return path
