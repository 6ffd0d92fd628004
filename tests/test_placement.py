"""Where weights and pictures lie on a mesh, and that the pictures are the same wherever."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

import skipjax
from skipjax import Guide, api, placement, plans

KEY = jax.random.key(2)
DEVICES = jax.local_devices()
P = PartitionSpec


def named(mesh, *axes):
    return NamedSharding(mesh, P(*axes))


def own_mesh(kind=AxisType.Auto):
    """A user's own, under other names; `jax.make_mesh` makes explicit axes unless told."""
    return jax.make_mesh((2, 4), ("x", "y"), (kind,) * 2, devices=DEVICES)


def put(tree, mesh):
    return jax.device_put(tree, placement.shardings(mesh, tree))


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, (8, 1)),
        ({"model": 4}, (2, 4)),
        ({"model": 8}, (1, 8)),
        ({"data": 2, "model": 2}, (2, 2)),
        ({"data": 3}, (3, 1)),
        ({"devices": DEVICES[5:]}, (3, 1)),
        ({"data": 1, "model": 3, "devices": DEVICES[4:]}, (1, 3)),
    ],
    ids=str,
)
def test_a_mesh_has_pictures_along_one_axis_and_weights_along_the_other(arguments, shape):
    mesh = placement.mesh(**arguments)
    assert mesh.axis_names == ("data", "model") and mesh.devices.shape == shape
    assert mesh.axis_types == (AxisType.Auto,) * 2
    among = arguments.get("devices", DEVICES)[: mesh.size]
    assert set(mesh.devices.flat) == set(among)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": 3}, "model is 3, and 8 devices do not divide by it: say data too"),
        ({"model": 9}, "model is 9: it must be a whole number in 1 .. 8"),
        ({"model": 0}, "model is 0: it must be a whole number in 1 .. 8"),
        ({"data": 3, "model": 4}, "data is 3: it must be a whole number in 1 .. 2"),
        ({"data": 2, "devices": DEVICES[:1]}, "data is 2: it must be a whole number in 1 .. 1"),
        ({"data": 1.0}, "data is 1.0: it must be a whole number in 1 .. 8"),
    ],
    ids=str,
)
def test_a_mesh_needs_devices_enough(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        placement.mesh(**arguments)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 3, 64, 128), (None, None, None, "model")),
        ((3, 3, 128, 64), (None, None, "model", None)),
        ((64, 64), (None, "model")),
        ((4, 4, 4), (None, None, "model")),
        ((3, 3, 8, 6), (None, None, "model", None)),
        ((512, 65), ("model", None)),
        ((65, 6), (None, None)),
        ((8,), ("model",)),
        ((3,), (None,)),
        ((), ()),
        ((0, 4), (None, "model")),
        ((0,), (None,)),
    ],
    ids=str,
)
def test_weights_are_split_along_the_largest_axis_that_divides_the_last_of_equals(shape, axes):
    mesh = placement.mesh(model=4)
    assert placement.split(mesh, shape) == named(mesh, *axes)
    whole = placement.split(placement.mesh(), shape)
    assert whole.is_fully_replicated


def test_a_mesh_without_an_axis_for_weights_splits_none():
    assert placement.split(own_mesh(), (8, 8)).is_fully_replicated


LIKE = {"a": np.zeros((8, 4)), "b": {"c": np.zeros(3), "d": np.zeros((2, 12))}}


def test_every_kind_of_placement_gives_a_sharding_for_each_array():
    mesh = placement.mesh(model=4)
    split, whole = partial(placement.split, mesh), placement.replicated(mesh)
    single = SingleDeviceSharding(DEVICES[3])
    by_rule = {
        "a": named(mesh, "model", None),
        "b": {"c": named(mesh, None), "d": named(mesh, None, "model")},
    }
    for kind, expected in [
        (None, jax.tree.map(lambda _: SingleDeviceSharding(DEVICES[0]), LIKE)),
        (single, jax.tree.map(lambda _: single, LIKE)),
        (mesh, by_rule),
        (split, by_rule),
        (by_rule, by_rule),
        ({"a": single, "b": whole}, {"a": single, "b": {"c": whole, "d": whole}}),
    ]:
        assert placement.shardings(kind, LIKE) == expected
    arrays = jax.device_put(LIKE, placement.shardings(mesh, LIKE))
    assert arrays["b"]["d"].addressable_shards[0].data.shape == (2, 3)


def test_a_prefix_goes_through_a_network():
    params, mesh = tiny.pretrained(), placement.mesh(model=8)
    assert placement.shardings(mesh, params).spec == params.spec
    put(params, mesh)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("data", "sharding holds a str: it must be a Sharding, a Mesh, a function from a shape"),
        (8, "sharding holds a int: it must be a Sharding"),
        ({"a": "data", "b": SingleDeviceSharding(DEVICES[0])}, "sharding holds a str"),
        ({"a": SingleDeviceSharding(DEVICES[0])}, "does not have the structure of the weights"),
        ([SingleDeviceSharding(DEVICES[0])] * 2, "does not have the structure of the weights"),
        (lambda shape: P("model"), "sharding holds a P"),
        (lambda shape: None, "sharding holds a NoneType"),
    ],
    ids=["text", "number", "leaf", "missing", "list", "function", "nothing"],
)
def test_another_kind_of_placement_is_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        placement.shardings(kind, LIKE)


def test_pictures_lie_over_all_axes_that_no_weight_is_split_over():
    mesh, own = placement.mesh(model=4), own_mesh()
    three = jax.make_mesh((2, 2, 2), ("a", "b", "c"), (AxisType.Auto,) * 3)
    for where, axes, free in (
        (mesh, ("model", None), ("data",)),
        (mesh, (), ("data", "model")),
        (placement.mesh(model=8), ("model",), ("data",)),
        (own, (None, "y"), ("x",)),
        (own, ("y", "x"), ()),
        (own, (("x", "y"),), ()),
        (three, ("b",), ("a", "c")),
    ):
        weights = {"w": jax.device_put(np.zeros((8, 8)), named(where, *axes)), "b": np.zeros(2)}
        assert placement.pictures(where, weights) == named(where, free)
    assert placement.pictures(mesh) == named(mesh, ("data", "model"))


@pytest.mark.parametrize("num", [1, 5, 8, 11, 16])
def test_the_last_picture_is_repeated_to_fill_the_devices(num):
    over = placement.pictures(placement.mesh())
    for array in (np.arange(num), jnp.arange(num * 2).reshape(num, 2)):
        spread = placement.spread(array, over)
        assert spread.sharding == over and len(spread) == -(-num // 8) * 8
        np.testing.assert_array_equal(spread[:num], array)
        assert (spread[num:] == array[-1:]).all()


def test_the_mesh_of_weights_is_found_where_there_is_one():
    mesh = placement.mesh(model=4)
    leaf = jax.device_put(np.zeros(8), named(mesh, "model"))
    assert placement.mesh_of({"a": np.zeros(3), "b": leaf}) == mesh
    on_one = jax.device_put(LIKE, placement.replicated(placement.mesh(1)))
    for tree in ({}, LIKE, jnp.zeros(3), on_one):
        assert placement.mesh_of(tree) is None


IDS = np.arange(5)


@pytest.mark.parametrize("model", [None, 4, 2])
def test_all_else_lies_on_the_mesh_of_the_weights(model):
    mesh = placement.mesh(model=4)
    params, classifier = put(tiny.pretrained(), mesh), tiny.classifier()
    if model is not None:
        classifier = put(classifier, placement.mesh(model=model))
    plan, guide = plans.skipped(params.schedule, 500), Guide(2.0, classifier=classifier)
    placed, *_, ids, labels, _, guide = api.place(params, plan, KEY, IDS, IDS, guide=guide)
    assert placement.mesh_of(guide) == mesh
    for leaf, given in zip(*map(jax.tree.leaves, (placed, params)), strict=True):
        assert leaf is given
    for array in (ids, labels):
        assert array.sharding == named(mesh, ("data",)) and len(array) == 6


def test_devices_that_are_asked_for_win_over_the_mesh_of_the_weights():
    params = put(tiny.pretrained(), placement.mesh(model=4))
    plan = plans.skipped(params.schedule, 500)
    placed, *_ = api.place(params, plan, KEY, IDS, None, DEVICES[6:])
    for leaf in jax.tree.leaves(placed):
        assert leaf.devices() == set(DEVICES[6:])


WHERE = {
    "over_8_devices": lambda tree: jax.device_put(tree, placement.replicated(placement.mesh())),
    "split_by_4_over_2": lambda tree: put(tree, placement.mesh(model=4)),
    "split_by_8": lambda tree: put(tree, placement.mesh(model=8)),
}


def calm(schedule):
    """Where there is more noise, networks of no meaning blow rounding up, and CPUs differ."""
    return plans.ddpm(schedule, [400, 300, 200, 20])


@pytest.fixture(scope="module")
def plain():
    params = tiny.pretrained()
    plan = calm(params.schedule)

    def draw(params, **options):
        return skipjax.sample(params, KEY, plan=plan, num=5, **options)

    return params, draw, np.asarray(draw(params, devices=DEVICES[:1]))


@pytest.fixture(scope="module")
def guided():
    """Pictures that are enlarged and guided by a classifier."""
    both = tiny.upsampler(), tiny.classifier(image_size=16)
    plan = calm(both[0].schedule)
    low_res = np.random.default_rng(0).uniform(-1, 1, (5, 8, 8, 3)).astype(np.float32)

    def draw(both, **options):
        params, classifier = both
        options |= {"low_res": low_res, "classifier": classifier, "guidance": 9.0}
        return skipjax.sample(params, KEY, plan=plan, **options)

    return both, draw, np.asarray(draw(both, devices=DEVICES[:1]))


def same_everywhere(run, where):
    loaded, draw, alone = run
    ours = draw(where(loaded))
    assert ours.shape == alone.shape
    np.testing.assert_allclose(ours, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("where", WHERE.values(), ids=WHERE)
def test_pictures_are_the_same_wherever_weights_lie(plain, where):
    same_everywhere(plain, where)


@pytest.mark.parametrize("where", WHERE.values(), ids=WHERE)
def test_guided_and_enlarged_pictures_are_the_same_wherever_weights_lie(guided, where):
    same_everywhere(guided, where)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_pictures_are_the_same_on_a_mesh_of_other_names(plain, kind):
    mesh = own_mesh(kind)

    def split(shape):
        return named(mesh, "y" if shape[0] % 4 == 0 else None)

    same_everywhere(plain, lambda tree: put(tree, split))
