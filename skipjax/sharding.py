"""Where arrays live: pictures spread over one axis of a mesh, weights split over another or not.

A mesh has an axis "data" over pictures and an axis "model" over weights. The rule by which weights
are split: each array along its largest axis that the size of "model" divides (the last of several
that are equal), and copied whole to each device where there is none.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from skipjax.checks import whole

Tree = TypeVar("Tree")
DATA, MODEL = "data", "model"

# Where to put weights: one sharding for all, a mesh to split them over by the rule, a function
# from an array's shape to its sharding, or a pytree of shardings.
Placement = Sharding | Mesh | Callable[[tuple[int, ...]], Sharding] | Any


def mesh(
    data: int | None = None, model: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of data x model devices: pictures over the first axis, weights over the second.

    Args:
        data: Devices that pictures are spread over. Default: as many as there are.
        model: Devices that each copy of the weights is split over.
        devices: Which. Default: the first data x model of all.

    Raises:
        ValueError: If there are too few devices, or they do not divide by `model`.
    """
    devices = list(jax.devices() if devices is None else devices)
    model = whole("model", model, 1, len(devices))
    if data is None:
        if len(devices) % model:
            raise ValueError(
                f"model is {model}, and {len(devices)} devices do not divide by it: say data too"
            )
        data = len(devices) // model
    data = whole("data", data, 1, len(devices) // model)
    chosen = devices[: data * model]
    return jax.make_mesh((data, model), (DATA, MODEL), (AxisType.Auto,) * 2, devices=chosen)


def split(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """How weights of a shape lie on a mesh, by the rule above."""
    parts = mesh.shape.get(MODEL, 1)
    axes = [i for i, size in enumerate(shape) if parts > 1 and size and size % parts == 0]
    spec: list[str | None] = [None] * len(shape)
    if axes:
        spec[max(axes, key=lambda i: (shape[i], i))] = MODEL
    return NamedSharding(mesh, PartitionSpec(*spec))


def shardings(placement: Placement | None, like: Any) -> Any:
    """A sharding for each array of a pytree. Default: the first local device.

    Raises:
        ValueError: If `placement` is or gives another kind, or is a pytree of another structure.
    """
    if placement is None:
        placement = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if isinstance(placement, Mesh):
        placement = partial(split, placement)
    if isinstance(placement, Sharding):
        return jax.tree.map(lambda _: placement, like)
    if callable(placement):
        found = jax.tree.map(lambda leaf: placement(leaf.shape), like)
    else:
        try:
            found = jax.tree.broadcast(placement, like)
        except ValueError as error:
            raise ValueError(
                f"sharding does not have the structure of the weights: {error}"
            ) from None
    for leaf in jax.tree.leaves(found, is_leaf=lambda leaf: leaf is None):
        if not isinstance(leaf, Sharding):
            raise ValueError(
                f"sharding holds a {type(leaf).__name__}: it must be a Sharding, a Mesh, a "
                "function from a shape to a Sharding, or a pytree of Shardings"
            )
    return found


def mesh_of(tree: Any) -> Mesh | None:
    """The mesh of several devices that a pytree's arrays lie on, if they do."""
    for sharding in _named(tree):
        if isinstance(sharding.mesh, Mesh) and sharding.mesh.size > 1:
            return sharding.mesh
    return None


def automatic(tree: Any) -> Any:
    """The arrays where they are, on meshes whose axes the compiler follows (`AxisType.Auto`).

    `jax.make_mesh` makes explicit ones by default, for which programs are written otherwise.
    """

    def move(leaf):
        sharding = getattr(leaf, "sharding", None)
        if not isinstance(sharding, NamedSharding):
            return leaf
        mesh: Any = sharding.mesh
        auto = (AxisType.Auto,) * len(mesh.axis_names)
        if mesh.axis_types == auto:
            return leaf
        mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=auto)
        return jax.device_put(leaf, NamedSharding(mesh, sharding.spec))

    return jax.tree.map(move, tree)


def pictures(mesh: Mesh, weights: Any = ()) -> NamedSharding:
    """How arrays over pictures lie on a mesh: over all its axes that no weight is split over."""
    used = {name for sharding in _named(weights) for name in jax.tree.leaves(tuple(sharding.spec))}
    free = tuple(name for name in mesh.axis_names if name not in used)
    return NamedSharding(mesh, PartitionSpec(free))


def filled(num: int, over: NamedSharding | None) -> int:
    """The least number of pictures from `num` on that fills all devices alike."""
    if over is None:
        return num
    parts = math.prod(over.mesh.shape[name] for name in jax.tree.leaves(tuple(over.spec)))
    return -(-num // parts) * parts


def spread(array: np.ndarray | jax.Array, over: NamedSharding) -> jax.Array:
    """An array over pictures on its devices; the last one is repeated to fill them up."""
    short = filled(len(array), over) - len(array)
    if short:
        array = np.concatenate([array, np.repeat(np.asarray(array)[-1:], short, axis=0)])
    return jax.device_put(array, over)


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def place(
    model: Tree,
    guidance: Any,
    num: int,
    devices: Sequence[jax.Device] | None = None,
) -> tuple[Tree, Any, Callable[[Any], Any]]:
    """A model and what guides it on the devices, and what spreads arrays over samples there.

    Args:
        model: What is drawn from.
        guidance: What guides.
        num: How many samples at most are drawn at a time.
        devices: Each with a copy of the weights; default: where they lie if that is a mesh, all
            local devices otherwise.

    Returns:
        The model, the guidance, and a function from a pytree of arrays [B, ...] to the same on the
        devices, the last sample repeated where B is not a multiple of their number.
    """
    model, guidance = automatic((model, guidance))
    on = None if devices else mesh_of(model)
    if on is None:
        chosen = list(devices or jax.local_devices())[:num]
        on = mesh(len(chosen), devices=chosen)
        model = jax.device_put(model, replicated(on))
    if guidance and mesh_of(guidance) != on:
        guidance = jax.device_put(guidance, replicated(on))
    over = pictures(on, (model, guidance))

    def spread_all(tree: Any) -> Any:
        return jax.tree.map(lambda array: spread(array, over), tree)

    return model, guidance, spread_all


def memory(compiled: Any) -> int | None:
    """Bytes that a compiled program takes on each device: arguments, results and what is between
    them; None where that is not known.
    """
    try:
        said = compiled.memory_analysis()
        parts = (said.argument_size_in_bytes, said.output_size_in_bytes, said.temp_size_in_bytes)
    except (AttributeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    return int(sum(parts))


def _named(tree: Any) -> list[NamedSharding]:
    found = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(tree))
    return [sharding for sharding in found if isinstance(sharding, NamedSharding)]
