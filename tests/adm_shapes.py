"""Shapes of ADM's params by guided-diffusion's names, and tensors that have but a shape."""

import numpy as np
from flax import traverse_util

from skipjax.models import param_shapes
from skipjax.weights import adm


def shapes_of(config):
    """Shapes of the network's params by guided-diffusion's names, in torch's layout."""
    shapes = {}
    for path, leaf in traverse_util.flatten_dict(param_shapes(config)).items():
        shape = leaf.shape
        if path[-1] == "kernel":
            shape = (*shape[:-3:-1], *shape[:-2])
            shape += (1,) * (path[-2] in ("qkv", "proj_out", "qkv_proj", "c_proj"))
        shapes[adm.name(path)] = shape
    return shapes


def lazy(config):
    """A state dict of whose tensors none may be read."""
    return {name: Lazy(shape) for name, shape in shapes_of(config).items()}


class Lazy:
    """A tensor in a file: known by shape and dtype, and read when it is asked for."""

    def __init__(self, shape, dtype=np.float32, log=None):
        self.shape, self.dtype, self.log = shape, np.dtype(dtype), log

    def __array__(self, dtype=None, copy=None):
        assert self.log is not None, "a value was read"
        self.log.append(self)
        return np.full(self.shape, len(self.log), self.dtype)
