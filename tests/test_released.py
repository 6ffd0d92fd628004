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
import torch_writer
from compiling import in_a_hurry
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from reference import CASES, Case

import skipjax
from skipjax import schedules, sharding
from skipjax.conditioners import Pictures, part
from skipjax.models import param_shapes
from skipjax.process import called
from skipjax.weights import cards, folders
from skipjax.weights.readers import state_dict

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
    monkeypatch.setattr(cards, "RELEASED", (folder,))
    return folder


def same(loaded, written):
    assert tiny.card(loaded) == tiny.card(written)
    ours, theirs = loaded.params, written.params
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def zeros(unet):
    """A network whose weights are of no interest."""
    shapes = param_shapes(unet)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    return tiny.model(unet, "zeros", params)


def rounded(loaded, stored, kept="float32"):
    """The same after it was stored in one dtype and kept in another."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(stored)).astype(kept), loaded)


@each_suffix
def test_weights_are_those_of_the_file(tmp_path, net, guide, suffix, subtests):
    for dtype in ("float32", "float16", "bfloat16", "float64"):
        (tmp_path / dtype).mkdir()
        for written in (net, guide):
            path = tmp_path / dtype / f"{written.name}.{suffix}"
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
    known = tiny.model(case.config, "golden", case.params)
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
            for name in (path, str(path)):
                assert tiny.card(skipjax.load(name)) == tiny.card(net)


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
    wanted = tiny.model(unet, "mine.v2", {}, variance=variance)
    assert loaded.process == wanted.process and loaded.name == "mine.v2"
    assert loaded.network == unet and loaded.labels.num_classes == 3
    assert called(loaded.schedule) == "linear, T = 1000"
    assert loaded.process.parameterization == "eps"


def test_the_architecture_of_a_classifier_makes_one(tmp_path, guide):
    path = released_files.write(tmp_path / "mine.pt", guide)
    loaded = skipjax.load(path, config=guide.network)
    assert isinstance(loaded, skipjax.Classifier)
    assert tiny.card(loaded) == tiny.card(dataclasses.replace(guide, name="mine"))


@pytest.mark.parametrize("file", ["mine.pt", "tiny.pt"])
def test_a_spec_says_all_there_is_to_know(tmp_path, net, guide, file):
    process = net.process.replace(schedule=schedules.cosine(50), variance="large")
    for written, path in ((net, tmp_path / file), (guide, tmp_path / "c.pt")):
        known = dataclasses.replace(written, params=None, name="mine", process=process)
        loaded = skipjax.load(released_files.write(path, written), config=known)
        assert tiny.card(loaded) == tiny.card(known) and loaded.params


def test_every_card_that_comes_with_the_package_says_what_its_file_holds(monkeypatch):
    monkeypatch.undo()
    models = {name: cards.model(cards.named(name)) for name in cards.released()}
    files = [path for path in cards.BUNDLED.glob("*/*.json") if path.name != "card.json"]
    assert len(models) == len(files) and set(models) == {path.stem for path in files}
    assert all(model.name == name for name, model in models.items())
    assert models["256x256_diffusion"].labels.class_names[207] == "golden retriever"
    assert models["256x256_classifier"].labels.class_names[207] == "golden retriever"
    small = part(models["64_256_upsampler"].conditioner, Pictures)
    assert small == Pictures("low_res", (64, 64, 3))


def mesh():
    return sharding.mesh(data=2, model=4)


def by_rows(shape):
    """Of a mesh of the user's own: first axes that 8 divides are split over all devices."""
    split = shape[0] % 8 == 0
    return NamedSharding(sharding.mesh(), PartitionSpec("data" if split else None))


def tree_of(net):
    shapes = param_shapes(net.network)
    return jax.tree.map(lambda leaf: SingleDeviceSharding(DEVICES[leaf.ndim]), shapes)


def test_each_array_lies_where_it_should(tmp_path, net, subtests):
    copies = NamedSharding(mesh(), PartitionSpec())
    third = SingleDeviceSharding(DEVICES[3])
    path = released_files.write(tmp_path / "tiny.pt", net)
    for kind, where, wanted in [
        ("nothing", None, lambda leaf: SingleDeviceSharding(DEVICES[0])),
        ("mesh", mesh(), lambda leaf: sharding.split(mesh(), leaf.shape)),
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
        assert leaf.sharding == sharding.split(mesh(), leaf.shape)


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
    monkeypatch.setattr(state_dict, "read", lambda path, key: watched)
    path = released_files.write(tmp_path / "tiny.pt", net)
    skipjax.load(path, dtype="float16")  # of float32, the device may keep what was read
    assert [name for name, _, _ in log] == list(raw)
    assert not any(alive for _, _, alive in log)


def test_nothing_is_read_before_all_shapes_fit(tmp_path, net, monkeypatch):
    log, raw = [], released_files.arrays(net)
    watched = {name: Watched(name, array, log) for name, array in raw.items()}
    watched["out.2.bias"].shape = (7,)
    monkeypatch.setattr(state_dict, "read", lambda path, key: watched)
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


def test_the_content_of_a_file_says_what_kind_it_is(tmp_path, net):
    path = released_files.write(tmp_path / "a.safetensors", net)
    same(skipjax.load(path.rename(tmp_path / "tiny.pt")), net)
    path = released_files.write(tmp_path / "a.pt", net)
    for name in ("tiny.safetensors", "tiny"):
        same(skipjax.load(path.rename(tmp_path / name)), net)
        path = tmp_path / name


def test_weights_one_key_away_are_taken_and_said(tmp_path, net, guide):
    ours, theirs = (
        {f"module.{name}": torch_writer.tensor(a) for name, a in released_files.arrays(n).items()}
        for n in (net, guide)
    )
    path = torch_writer.save(tmp_path / "tiny.pt", {"ema": ours, "model": {**ours}, "step": 3})
    with pytest.warns(UserWarning, match="took the weights under 'ema'; .* takes 'model'$"):
        same(skipjax.load(path), net)
    path = torch_writer.save(tmp_path / "tiny_ema.pt", {"unet": ours, "guide": theirs})
    with pytest.raises(ValueError, match="say which, .* --key: 'unet', 'guide'$"):
        skipjax.load(path)
    same(skipjax.load(path, key="unet"), net)
    same(skipjax.load(path, card="tiny_classifier", key="guide"), guide)
