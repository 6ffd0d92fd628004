"""Released files of weights: what is loaded from them, and where it is put."""

import dataclasses
import tracemalloc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import released_files
import tiny
from compiling import in_a_hurry
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from reference import CASES, Case

import skipjax
from skipjax import placement
from skipjax.models import param_shapes
from skipjax.weights import cards, folders, torch_file

KEY = jax.random.key(5)
DEVICES = jax.local_devices()
SUFFIXES = ("pt", "safetensors")
each_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


@pytest.fixture(scope="module")
def net():
    return tiny.pretrained(variance="learned_range")


@pytest.fixture(scope="module")
def guide():
    return tiny.classifier()


@pytest.fixture(autouse=True)
def shelf(tmp_path, monkeypatch, net, guide):
    """Cards that know the two networks' files."""
    known = released_files.card(net, "tiny_ema.pt"), released_files.card(guide)
    folder = released_files.shelve(tmp_path / "cards", *known)
    monkeypatch.setattr(cards, "RELEASED", folder)
    return folder


def same(loaded, written):
    assert loaded.spec == written.spec
    assert jax.tree.structure(loaded) == jax.tree.structure(written)
    jax.tree.map(np.testing.assert_array_equal, loaded, written)


def zeros(unet):
    """A network whose weights are of no interest."""
    shapes = param_shapes(unet)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    return skipjax.Pretrained(params, skipjax.Spec("zeros", unet))


def rounded(loaded, stored, kept="float32"):
    """The same after it was stored in one dtype and kept in another."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(stored)).astype(kept), loaded)


@each_suffix
def test_weights_are_those_of_the_file(tmp_path, net, guide, suffix, subtests):
    for dtype in ("float32", "float16", "bfloat16", "float64"):
        (tmp_path / dtype).mkdir()
        for written in (net, guide):
            path = tmp_path / dtype / f"{written.spec.name}.{suffix}"
            with subtests.test(dtype=dtype, file=path.name):
                loaded = skipjax.load(released_files.write(path, written, dtype))
                assert type(loaded) is type(written)
                assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype("float32")}
                same(loaded, rounded(written, dtype))


def test_weights_are_kept_in_the_dtype_that_is_asked_for(tmp_path, net, subtests):
    path = released_files.write(tmp_path / "tiny.pt", net)
    for dtype in ("float32", jnp.bfloat16, np.float16, jnp.dtype("bfloat16")):
        with subtests.test(dtype):
            loaded = skipjax.load(path, dtype=dtype)
            same(loaded, rounded(net, dtype, jnp.dtype(dtype)))
            assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype(dtype)}


def test_every_kind_of_file_gives_guided_diffusions_weights(tmp_path, goldens, subtests):
    case = Case(goldens / CASES["unet_c"])
    known = skipjax.Pretrained(case.params, skipjax.Spec("golden", case.config, variance="small"))
    (tmp_path / "golden").mkdir()
    folders.save(tmp_path / "golden", case.params, released_files.card(known), np.float32)
    for file in ("golden.pt", "golden.safetensors", "golden"):
        path, config = tmp_path / file, None
        if file != "golden":
            released_files.write_arrays(path, case.state_dict)
            config = case.config
        with subtests.test(file):
            same(skipjax.load(path, config=config), known)


@pytest.mark.slow
def test_pictures_are_those_of_the_same_weights(tmp_path, net, guide):
    loaded = [
        skipjax.load(released_files.write(tmp_path / file, written))
        for file, written in {"tiny.pt": net, "tiny_classifier.safetensors": guide}.items()
    ]
    settings = {"steps": "3", "num": 2, "guidance": 2.0, "devices": DEVICES[:1]}
    with in_a_hurry():
        pictures, others = (
            skipjax.sample(params, KEY, classifier=by, **settings)
            for params, by in (loaded, (net, guide))
        )
    assert pictures.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(pictures, others)


def test_a_card_is_found_by_any_of_its_file_names(tmp_path, net, subtests):
    for file in ("tiny.pt", "tiny.safetensors", "tiny_ema.pt", "tiny_ema.pth"):
        with subtests.test(file):
            path = released_files.write(tmp_path / file, net)
            assert skipjax.load(path).spec == skipjax.load(str(path)).spec == net.spec


def test_a_card_is_told_by_its_name(tmp_path, net, guide):
    path = released_files.write(tmp_path / "mine.pt", net)
    same(skipjax.load(path, card="tiny"), net)
    path = released_files.write(tmp_path / "theirs.safetensors", guide)
    same(skipjax.load(path, card="tiny_classifier"), guide)


def test_the_card_that_is_told_wins_over_the_name_of_the_file(tmp_path, guide):
    path = released_files.write(tmp_path / "tiny.pt", guide)
    same(skipjax.load(path, card="tiny_classifier"), guide)


@pytest.mark.parametrize(("out_channels", "variance"), [(6, "learned_range"), (3, "small")])
def test_an_architecture_is_taken_to_be_trained_as_adms_are(tmp_path, out_channels, variance):
    unet = tiny.config(out_channels=out_channels)
    path = released_files.write(tmp_path / "mine.v2.pt", zeros(unet))
    loaded = skipjax.load(path, config=unet)
    assert loaded.spec == skipjax.Spec("mine.v2", unet, variance=variance)
    assert (loaded.spec.schedule, loaded.spec.T, loaded.spec.prediction) == ("linear", 1000, "eps")


def test_the_architecture_of_a_classifier_makes_one(tmp_path, guide):
    path = released_files.write(tmp_path / "mine.pt", guide)
    loaded = skipjax.load(path, config=guide.spec.classifier)
    assert isinstance(loaded, skipjax.Classifier)
    assert loaded.spec == skipjax.ClassifierSpec("mine", guide.spec.classifier)


@pytest.mark.parametrize("file", ["mine.pt", "tiny.pt"])
def test_a_spec_says_all_there_is_to_know(tmp_path, net, guide, file):
    spec = dataclasses.replace(net.spec, name="mine", schedule="cosine", T=50, variance="large")
    assert skipjax.load(released_files.write(tmp_path / file, net), config=spec).spec is spec
    spec = dataclasses.replace(guide.spec, name="theirs", T=50)
    assert skipjax.load(released_files.write(tmp_path / "c.pt", guide), config=spec).spec is spec


def test_every_card_that_comes_with_the_package_says_what_its_file_holds(monkeypatch):
    monkeypatch.undo()
    specs = {name: cards.spec(cards.named(name)) for name in cards.released()}
    assert len(specs) == 21 and all(spec.name == name for name, spec in specs.items())
    assert specs["256x256_diffusion"].class_names[207] == "golden retriever"
    assert specs["256x256_classifier"].class_names[207] == "golden retriever"
    assert specs["64_256_upsampler"].low_res == 64


def mesh():
    return placement.mesh(data=2, model=4)


def by_rows(shape):
    """Of a mesh of the user's own: first axes that 8 divides are split over all devices."""
    split = shape[0] % 8 == 0
    return NamedSharding(placement.mesh(), PartitionSpec("data" if split else None))


def tree_of(net):
    shapes = param_shapes(net.spec.unet)
    return jax.tree.map(lambda leaf: SingleDeviceSharding(DEVICES[leaf.ndim]), shapes)


def test_each_array_lies_where_it_should(tmp_path, net, subtests):
    copies = NamedSharding(mesh(), PartitionSpec())
    third = SingleDeviceSharding(DEVICES[3])
    path = released_files.write(tmp_path / "tiny.pt", net)
    for kind, where, wanted in [
        ("nothing", None, lambda leaf: SingleDeviceSharding(DEVICES[0])),
        ("mesh", mesh(), lambda leaf: placement.split(mesh(), leaf.shape)),
        ("sharding", copies, lambda leaf: copies),
        ("device", third, lambda leaf: third),
        ("function", by_rows, lambda leaf: by_rows(leaf.shape)),
        ("tree", tree_of(net), lambda leaf: SingleDeviceSharding(DEVICES[leaf.ndim])),
    ]:
        with subtests.test(kind):
            loaded = skipjax.load(path, sharding=where)
            same(loaded, net)
            for leaf in jax.tree.leaves(loaded):
                assert leaf.sharding == wanted(leaf) and leaf.committed
            if kind == "mesh":
                kernel = loaded.params["output_blocks_0_0"]["in_layers_2"]["kernel"]
                sizes = {shard.data.size for shard in kernel.addressable_shards}
                assert sizes == {kernel.size // 4}


def test_a_classifier_is_split_over_a_mesh_too(tmp_path, guide):
    path = released_files.write(tmp_path / "tiny_classifier.safetensors", guide)
    loaded = skipjax.load(path, sharding=mesh(), dtype="bfloat16")
    same(loaded, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), guide))
    for leaf in jax.tree.leaves(loaded):
        assert leaf.sharding == placement.split(mesh(), leaf.shape)


class Watched:
    """An array that notes when it is read, and how many read before are still in memory."""

    def __init__(self, name, array, log):
        self.name, self.array, self.log, self.shape = name, array, log, array.shape

    def __array__(self, dtype=None, copy=None):
        read = np.array(self.array, dtype)
        alive = sum(other() is not None for _, other, _ in self.log)
        self.log.append((self.name, weakref.ref(read), alive))
        return read


def test_arrays_are_read_in_order_and_dropped_before_the_next(tmp_path, net, monkeypatch):
    log, raw = [], released_files.arrays(net)
    watched = {name: Watched(name, array, log) for name, array in raw.items()}
    monkeypatch.setattr(torch_file, "state_dict", lambda path: watched)
    path = released_files.write(tmp_path / "tiny.pt", net)
    skipjax.load(path, dtype="float16")  # of float32, the device may keep what was read
    assert [name for name, _, _ in log] == list(raw)
    assert not any(alive for _, _, alive in log)


def test_nothing_is_read_before_all_shapes_fit(tmp_path, net, monkeypatch):
    log, raw = [], released_files.arrays(net)
    watched = {name: Watched(name, array, log) for name, array in raw.items()}
    watched["out.2.bias"].shape = (7,)
    monkeypatch.setattr(torch_file, "state_dict", lambda path: watched)
    with pytest.raises(ValueError, match=r"shape of out\.2\.bias: \(7,\), expected \(6,\)"):
        skipjax.load(released_files.write(tmp_path / "tiny.pt", net))
    assert not log


@each_suffix
def test_loading_takes_little_more_memory_than_the_weights(tmp_path, suffix):
    unet = tiny.config(model_channels=320)
    path = released_files.write(tmp_path / f"large.{suffix}", zeros(unet))
    raw = [4 * leaf.size for leaf in jax.tree.leaves(param_shapes(unet))]
    assert path.stat().st_size >= sum(raw) > 40e6

    tracemalloc.start()
    try:
        loaded = skipjax.load(path, config=unet, dtype="bfloat16")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded))
    assert weights == sum(raw) / 2
    assert peak < 1.3 * weights + max(raw) < 0.9 * sum(raw)
