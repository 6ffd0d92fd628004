"""Where weights and pictures lie on a mesh, and that the pictures are the same wherever."""

import re
from contextlib import nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from compiling import in_a_hurry
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

import skipjax
from skipjax import guidance, plans, sharding

KEY = jax.random.key(2)
DEVICES = jax.local_devices()
P = PartitionSpec


def named(mesh, *axes):
    return NamedSharding(mesh, P(*axes))


def own_mesh(kind=AxisType.Auto):
    """A user's own, under other names; `jax.make_mesh` makes explicit axes unless told."""
    return jax.make_mesh((2, 4), ("x", "y"), (kind,) * 2, devices=DEVICES)


def put(tree, mesh):
    return jax.device_put(tree, sharding.shardings(mesh, tree))


def test_a_mesh_has_pictures_along_one_axis_and_weights_along_the_other(subtests):
    for arguments, shape in [
        ({}, (8, 1)),
        ({"model": 4}, (2, 4)),
        ({"model": 8}, (1, 8)),
        ({"data": 2, "model": 2}, (2, 2)),
        ({"data": 3}, (3, 1)),
        ({"devices": DEVICES[5:]}, (3, 1)),
        ({"data": 1, "model": 3, "devices": DEVICES[4:]}, (1, 3)),
    ]:
        with subtests.test(arguments):
            mesh = sharding.mesh(**arguments)
            assert mesh.axis_names == ("data", "model") and mesh.devices.shape == shape
            assert mesh.axis_types == (AxisType.Auto,) * 2
            among = arguments.get("devices", DEVICES)[: mesh.size]
            assert set(mesh.devices.flat) == set(among)


def test_a_mesh_needs_devices_enough(subtests):
    for arguments, message in [
        ({"model": 3}, "model is 3, and 8 devices do not divide by it: say data too"),
        ({"model": 9}, "model is 9: it must be a whole number in 1 .. 8"),
        ({"model": 0}, "model is 0: it must be a whole number in 1 .. 8"),
        ({"data": 3, "model": 4}, "data is 3: it must be a whole number in 1 .. 2"),
        ({"data": 2, "devices": DEVICES[:1]}, "data is 2: it must be a whole number in 1 .. 1"),
        ({"data": 1.0}, "data is 1.0: it must be a whole number in 1 .. 8"),
    ]:
        with subtests.test(arguments), pytest.raises(ValueError, match=re.escape(message)):
            sharding.mesh(**arguments)


def test_weights_are_split_along_the_largest_axis_that_divides_the_last_of_equals(subtests):
    mesh = sharding.mesh(model=4)
    for shape, axes in [
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
    ]:
        with subtests.test(shape):
            assert sharding.split(mesh, shape) == named(mesh, *axes)
            whole = sharding.split(sharding.mesh(), shape)
            assert whole.is_fully_replicated


def test_a_mesh_without_an_axis_for_weights_splits_none():
    assert sharding.split(own_mesh(), (8, 8)).is_fully_replicated


LIKE = {"a": np.zeros((8, 4)), "b": {"c": np.zeros(3), "d": np.zeros((2, 12))}}


def test_every_kind_of_placement_gives_a_sharding_for_each_array():
    mesh = sharding.mesh(model=4)
    split, whole = partial(sharding.split, mesh), sharding.replicated(mesh)
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
        assert sharding.shardings(kind, LIKE) == expected
    arrays = jax.device_put(LIKE, sharding.shardings(mesh, LIKE))
    assert arrays["b"]["d"].addressable_shards[0].data.shape == (2, 3)


def test_a_prefix_goes_through_a_network():
    params, mesh = tiny.pretrained(), sharding.mesh(model=8)
    assert sharding.shardings(mesh, params).network == params.network
    put(params, mesh)


def test_another_kind_of_placement_is_refused(subtests):
    on_one, kinds = SingleDeviceSharding(DEVICES[0]), "it must be a Sharding"
    other = "sharding does not have the structure of the weights"
    for name, kind, message in [
        (
            "text",
            "data",
            "sharding holds a str: it must be a Sharding, a Mesh, a function from a shape",
        ),
        ("number", 8, f"sharding holds a int: {kinds}"),
        ("leaf", {"a": "data", "b": on_one}, "sharding holds a str"),
        ("missing", {"a": on_one}, other),
        ("list", [on_one] * 2, other),
        ("function", lambda shape: P("model"), "sharding holds a P"),
        ("nothing", lambda shape: None, "sharding holds a NoneType"),
    ]:
        with subtests.test(name), pytest.raises(ValueError, match=message):
            sharding.shardings(kind, LIKE)


def test_pictures_lie_over_all_axes_that_no_weight_is_split_over():
    mesh, own = sharding.mesh(model=4), own_mesh()
    three = jax.make_mesh((2, 2, 2), ("a", "b", "c"), (AxisType.Auto,) * 3)
    for where, axes, free in (
        (mesh, ("model", None), ("data",)),
        (mesh, (), ("data", "model")),
        (sharding.mesh(model=8), ("model",), ("data",)),
        (own, (None, "y"), ("x",)),
        (own, ("y", "x"), ()),
        (own, (("x", "y"),), ()),
        (three, ("b",), ("a", "c")),
    ):
        weights = {"w": jax.device_put(np.zeros((8, 8)), named(where, *axes)), "b": np.zeros(2)}
        assert sharding.pictures(where, weights) == named(where, free)
    assert sharding.pictures(mesh) == named(mesh, ("data", "model"))


def test_the_last_picture_is_repeated_to_fill_the_devices(subtests):
    over = sharding.pictures(sharding.mesh())
    for num in (1, 5, 8, 11, 16):
        for array in (np.arange(num), jax.device_put(np.arange(num * 2).reshape(num, 2))):
            with subtests.test(num=num, kind=type(array)):
                spread = sharding.spread(array, over)
                assert spread.sharding == over and len(spread) == -(-num // 8) * 8
                array, spread = np.asarray(array), np.asarray(spread)
                np.testing.assert_array_equal(spread[:num], array)
                assert (spread[num:] == array[-1:]).all()


def test_the_mesh_of_weights_is_found_where_there_is_one():
    mesh = sharding.mesh(model=4)
    leaf = jax.device_put(np.zeros(8), named(mesh, "model"))
    assert sharding.mesh_of({"a": np.zeros(3), "b": leaf}) == mesh
    on_one = jax.device_put(LIKE, sharding.replicated(sharding.mesh(1)))
    for tree in ({}, LIKE, jnp.zeros(3), on_one):
        assert sharding.mesh_of(tree) is None


def test_explicit_axes_become_those_that_the_compiler_follows():
    tree = {"a": jax.device_put(np.ones((8, 4)), named(own_mesh(AxisType.Explicit), "x"))}
    tree |= {"b": np.zeros(3), "c": jax.device_put(np.ones(8), named(own_mesh(), "y"))}
    moved = sharding.automatic(tree)
    assert moved["a"].sharding == named(own_mesh(), "x")
    assert moved["b"] is tree["b"] and moved["c"] is tree["c"]
    jax.tree.map(np.testing.assert_array_equal, moved, tree)


IDS = np.arange(5)


@pytest.mark.parametrize("model", [None, 4, 2])
def test_all_else_lies_on_the_mesh_of_the_weights(model):
    mesh = sharding.mesh(model=4)
    params, classifier = put(tiny.pretrained(), mesh), tiny.classifier()
    if model is not None:
        classifier = put(classifier, sharding.mesh(model=model))
    by = guidance.ByClassifier(classifier, 2.0)
    placed, guide, spread = sharding.place(params, (by,), len(IDS))
    ids, labels = spread(IDS), spread(IDS)
    assert sharding.mesh_of(guide) == mesh
    for leaf, given in zip(*map(jax.tree.leaves, (placed, params)), strict=True):
        assert leaf is given
    for array in (ids, labels):
        assert array.sharding == named(mesh, ("data",)) and len(array) == 6


def test_devices_that_are_asked_for_win_over_the_mesh_of_the_weights():
    params = put(tiny.pretrained(), sharding.mesh(model=4))
    placed, *_ = sharding.place(params, (), len(IDS), DEVICES[6:])
    for leaf in jax.tree.leaves(placed):
        assert leaf.devices() == set(DEVICES[6:])


def calm(schedule):
    """Where there is more noise, networks of no meaning blow rounding up, and CPUs differ."""
    return plans.ddpm(schedule, [400, 300, 200, 20])


@pytest.fixture(scope="module")
def way(request):
    with request.param():
        yield


@pytest.fixture(scope="module")
def plain(way):
    params = tiny.pretrained()
    plan = calm(params.schedule)

    def draw(params, **options):
        return skipjax.sample(params, KEY, plan=plan, num=5, **options)

    return params, draw, np.asarray(draw(params, devices=DEVICES[:1]))


@pytest.fixture(scope="module")
def guided(way):
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


def over_8_devices(tree):
    return jax.device_put(tree, sharding.replicated(sharding.mesh()))


def split_by_4_over_2(tree):
    return put(tree, sharding.mesh(model=4))


def split_by_8(tree):
    return put(tree, sharding.mesh(model=8))


def of_other_names(kind):
    def split(shape):
        return named(own_mesh(kind), "y" if shape[0] % 4 == 0 else None)

    return lambda tree: put(tree, split)


def places(quick, hurried, as_ever=()):
    """Where to put weights: at once, in time, and in time by the programs that people run."""
    slow = [(in_a_hurry, where) for where in hurried] + [(nullcontext, where) for where in as_ever]
    params = [(in_a_hurry, where) for where in quick]
    params += [pytest.param(*both, marks=pytest.mark.slow) for both in slow]
    return pytest.mark.parametrize(("way", "where"), params, indirect=["way"])


AUTO, EXPLICIT = of_other_names(AxisType.Auto), of_other_names(AxisType.Explicit)


@places([split_by_4_over_2], [split_by_8, AUTO, EXPLICIT], [over_8_devices, split_by_4_over_2])
def test_pictures_are_the_same_wherever_weights_lie(plain, where):
    same_everywhere(plain, where)


@places([], [over_8_devices, split_by_4_over_2, split_by_8])
def test_guided_and_enlarged_pictures_are_the_same_wherever_weights_lie(guided, where):
    same_everywhere(guided, where)
