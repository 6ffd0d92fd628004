"""EDM's and EDM2's networks against transcriptions in NumPy, and every key list."""

import json
import math
import warnings
from dataclasses import replace

import edm_networks
import edm_reference
import edm_writer
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import skipjax
from skipjax.denoisers import Point
from skipjax.models import DhariwalUNetConfig, SongUNetConfig, param_shapes
from skipjax.process import Edm, Iddpm, Ve, Vp
from skipjax.weights import edm, folders, parts

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
NAMES = [
    "edm-cifar10-32x32-cond-vp",
    pytest.param("edm-cifar10-32x32-uncond-ve", marks=pytest.mark.slow),
    pytest.param("edm-imagenet-64x64-cond-adm", marks=pytest.mark.slow),
    "edm2-img512-xs",
]


def made(name):
    """A small network of a kind, and its tensors as its pickle has them."""
    class_name, kwargs = edm_networks.CASES[name]
    tensors, _ = edm_networks.tensors_of(class_name, kwargs)
    model = edm_networks.described(name)
    model = model.replace(params=edm.to_params(tensors, model.network))
    return class_name, kwargs, tensors, model


def some(*names):
    """Kinds of networks: these, and in the slow tests all."""
    slow = (pytest.param(n, marks=pytest.mark.slow) for n in edm_networks.CASES if n not in names)
    return [*names, *slow]


@pytest.fixture(scope="module", params=some("ddpmpp", "edm2"))
def case(request):
    return made(request.param)


@pytest.fixture(scope="module", params=some("ddpmpp"))
def one(request):
    return made(request.param)


def samples(model, num=2):
    return np.random.default_rng(1).normal(size=(num, *model.shape)).astype(np.float32)


def told(model):
    """A class and no class."""
    n = model.network.label_dim
    return np.array([1, n]) if n else None


@jax.jit
def x_0(model, x, sigma, label):
    condition = None if label is None else {"label": label}
    point = Point(jnp.float32(0), jnp.float32(1), sigma)
    return skipjax.denoiser(model, condition)(x, point).x_0


def test_what_it_denoises_is_that_of_the_transcription(case):
    """At 60 it is the raw output that is compared, next to nothing of x."""
    class_name, kwargs, tensors, model = case
    x, label = samples(model), told(model)
    for sigma in (0.01, 0.4, 3.0, 60.0):
        ours = x_0(model.core, x, jnp.float32(sigma), label)
        inputs = np.moveaxis(x.astype(float), -1, 1), sigma, label
        theirs = edm_reference.denoised(class_name, tensors, kwargs, *inputs)
        theirs = np.moveaxis(theirs, 1, -1)
        assert np.abs(ours - theirs).max() < 5e-5 * np.abs(theirs).max(), sigma


@pytest.mark.slow
def test_half_precision_is_near(one):
    *_, model = one
    x, label, t = samples(model), told(model), np.array([0.3, -0.7], np.float32)
    condition = None if label is None else {"label": label}
    apply = jax.jit(model.network.apply, static_argnames="dtype")
    exact = apply(model.params, x, t, condition)
    near = apply(model.params, x, t, condition, dtype=jnp.dtype(jnp.bfloat16))
    assert near.dtype == jnp.float32
    assert np.abs(near - exact).max() < 0.06 * np.abs(exact).max()


@pytest.mark.slow
def test_it_is_drawn_guided_saved_and_loaded_again(one, tmp_path):
    *_, model = one
    key, options = jax.random.key(0), {"num": 2, "plan": "edm", "steps": 3, "grid": "karras"}
    drawn = skipjax.sample(model, key, **options)
    assert drawn.shape == (2, *model.shape) and np.isfinite(drawn).all()
    if model.labels is not None:
        assert model.labels.classes == model.network.label_dim
        null = model.labels.null_label
        guided = skipjax.sample(model, key, label=1, guidance=0.0, **options)
        without = skipjax.sample(model, key, label=null, **options)
        scale = np.abs(without).max()
        np.testing.assert_allclose(guided, without, atol=1e-3 * scale)
        told = skipjax.sample(model, key, label=1, **options)
        assert np.abs(told - without).max() > 1e-2 * scale
    folders.save(tmp_path, model.params, parts.describe(model), np.float32, model)
    loaded = skipjax.load(tmp_path)
    assert loaded.network == model.network and loaded.process == model.process
    assert loaded.conditioner == model.conditioner
    again = skipjax.sample(loaded, key, **options)
    np.testing.assert_array_equal(again, drawn)


@pytest.mark.slow
def test_augmentation_is_zeros_unless_it_is_said():
    class_name, kwargs = edm_networks.CASES["ddpmpp"]
    tensors, _ = edm_networks.tensors_of(class_name, kwargs)
    model = edm_networks.described("ddpmpp")
    params = edm.to_params(tensors, model.network)
    x, t, label = samples(model), np.array([0.3, -0.7], np.float32), np.array([0, 2])
    said = np.random.default_rng(2).normal(size=(2, 9)).astype(np.float32)
    apply = jax.jit(model.network.apply)
    ours = apply(params, x, t, {"label": label, "augment": said})
    inputs = np.moveaxis(x.astype(float), -1, 1), t, label, said
    theirs = np.moveaxis(edm_reference.song_unet(tensors, kwargs, *inputs), 1, -1)
    assert np.abs(ours - theirs).max() < 5e-5 * np.abs(theirs).max()
    zeros = apply(params, x, t, {"label": label, "augment": 0 * said})
    theirs = np.moveaxis(edm_reference.song_unet(tensors, kwargs, *inputs[:3]), 1, -1)
    assert np.abs(zeros - theirs).max() < 5e-5 * np.abs(theirs).max()
    with pytest.raises(ValueError, match=r"augment is \[2, 8\]: it must be \[2, 9\]"):
        model.network.apply(params, x, t, {"label": label, "augment": said[:, 1:]})


class Named:
    """A tensor of which a name and shape are known, and its values if it is a filter."""

    def __init__(self, name, shape, taps):
        self.shape, self._filter = tuple(shape), name.endswith("resample_filter")
        self._taps = taps

    def __array__(self, dtype=None, copy=None):
        if self._filter:
            return edm_networks.kernel_of(self._taps)
        return np.broadcast_to(np.float32(1), self.shape)


def key_list(shared, name):
    found = json.loads((shared / "keys" / "diffusers" / f"{name}.json").read_text())
    kwargs = {k: v for k, v in found["config"].items() if k != "precond"}
    taps = kwargs.get("resample_filter", [1, 1])
    tensors = {k: Named(k, shape, taps) for k, shape in found["keys"].items()}
    return found, edm.models.model_of(found["cls"], kwargs, name), tensors


@pytest.mark.parametrize("name", NAMES)
def test_every_key_list_fits(shared, name):
    found, model, tensors = key_list(shared, name)
    params = edm.to_params(tensors, model.network)
    shapes = jax.tree.map(np.shape, params, is_leaf=lambda leaf: hasattr(leaf, "shape"))
    expected = jax.tree.map(lambda leaf: leaf.shape, param_shapes(model.network))
    assert shapes == expected and len(tensors) == found["tensors"]
    flat = traverse_util.flatten_dict(params)
    drawn = sum(math.prod(np.shape(v)) for k, v in flat.items() if k[-1] in ("freqs", "phases"))
    ours = sum(math.prod(np.shape(v)) for v in flat.values()) - drawn
    folded = 37 + 128 if name.startswith("edm2") else 0  # gains, and what only training needs
    assert ours + folded == found["params"]


def test_what_does_not_fit_is_named(shared):
    _, model, tensors = key_list(shared, "edm-cifar10-32x32-uncond-ve")
    with pytest.raises(ValueError, match="missing: enc.32x32_conv.bias"):
        edm.to_params(
            {k: v for k, v in tensors.items() if "32x32_conv.bias" not in k}, model.network
        )
    with pytest.raises(ValueError, match="unexpected: more"):
        edm.to_params(tensors | {"model.more": tensors["model.map_layer0.bias"]}, model.network)
    plain = replace(model.network, resample_filter=(1, 1))
    with pytest.raises(ValueError, match="is another filter than the config's resample_filter"):
        edm.to_params(tensors, plain)
    _, model, tensors = key_list(shared, "edm2-img512-xs")
    gain = "unet.enc.8x8_block1.emb_gain"
    with pytest.raises(ValueError, match="missing: enc.8x8_block1.emb_gain"):
        edm.to_params({k: v for k, v in tensors.items() if k != gain}, model.network)
    with pytest.raises(ValueError, match="unexpected: other_gain"):
        edm.to_params(tensors | {"unet.other_gain": tensors[gain]}, model.network)


def test_a_preconditioner_is_read_by_its_arguments():
    shape = {"img_resolution": 16, "img_channels": 3}
    for class_name, parameterization, told, ends in [
        ("EDMPrecond", "edm", Edm(0.5), (0.002, 80)),
        ("VPPrecond", "eps", Vp(), (0.002, 80)),
        ("VEPrecond", "neg_eps", Ve(), (0.02, 80)),
        ("iDDPMPrecond", "eps", Iddpm(), (Iddpm().levels()[-2], 80)),
        ("Precond", "edm", Edm(0.5), (0.002, 80)),
    ]:
        model = edm.models.model_of(class_name, shape, "x")
        process = model.process
        assert (process.parameterization, process.precondition) == (parameterization, told)
        sigma = process.schedule.sigma
        np.testing.assert_allclose((sigma[0], sigma[-1]), ends, rtol=1e-12)
        assert process.bounds is None and model.conditioner is None
        assert model.shape[-1] == 3
    assert isinstance(edm.models.model_of("EDMPrecond", shape, "x").network, DhariwalUNetConfig)
    assert isinstance(edm.models.model_of("VPPrecond", shape, "x").network, SongUNetConfig)
    narrow = shape | {"sigma_min": 0.1, "sigma_max": 10, "sigma_data": 0.25}
    model = edm.models.model_of("EDMPrecond", narrow, "x")
    assert (model.schedule.sigma[0], model.schedule.sigma[-1]) == (0.1, 10)
    assert model.process.precondition == Edm(0.25)
    assert parts.build(parts.describe(model)).process == model.process


def test_arguments_may_be_given_by_position(tmp_path):
    class_name, kwargs = edm_networks.CASES["vp"]
    tensors, buffers = edm_networks.tensors_of(class_name, kwargs)
    rest = {k: v for k, v in kwargs.items() if k not in ("img_resolution", "img_channels")}
    path = edm_writer.save(
        *(tmp_path / "a.pkl", class_name, tensors, rest, buffers), args=(16, 3, 0)
    )
    assert skipjax.load(path).network == edm_networks.described("vp").network


def test_arguments_that_cannot_be_are_refused(subtests):
    good = {"img_resolution": 16, "img_channels": 3}
    for changes, message in [
        ({"img_resolution": None}, "EDMPrecond: img_resolution is missing"),
        ({"img_channels": "3"}, "img_channels is '3': it must be a number"),
        ({"label_dim": True}, "label_dim is"),
        ({"sigma_data": "x"}, "sigma_data is 'x': it must be a number"),
        ({"sigma_min": 9, "sigma_max": 1}, "sigma_min and sigma_max must be 0 < least"),
        ({"channel_mult": 3}, "channel_mult is 3, a int: it must be a list of whole numbers"),
        ({"channel_mult": []}, "channel_mult is empty"),
        ({"channel_mult": [1, 2, 4, 8, 16, 32]}, "img_resolution is 16: it must be a multiple"),
        ({"num_blocks": 10**9}, "num_blocks is 1000000000: it must be in 1 .. 99"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"model_type": "SongUNet", "encoder_type": "x"}, "encoder_type is 'x': it must be one"),
        ({"model_type": "SongUNet", "resample_filter": [1, 2, 1]}, "an even number of taps"),
    ]:
        with subtests.test(changes=changes), pytest.raises(ValueError, match=message):
            edm.models.model_of("EDMPrecond", good | changes, "x")
    with pytest.warns(UserWarning, match="was made with 'colour', which DhariwalUNetConfig does"):
        edm.models.model_of("EDMPrecond", good | {"colour": 1}, "x")


def test_a_condition_that_cannot_be_is_refused():
    model = edm_networks.described("ddpmpp")
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), param_shapes(model.network))
    x, t = samples(model), np.zeros(2, np.float32)
    for condition, message in [
        (None, "class-conditional, and label is missing"),
        ({"label": np.zeros(2, int), "prompt": 1}, "the condition holds prompt"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.network.apply(params, x, t, condition)
    with pytest.raises(ValueError, match="it must be .batch, height, width, 3."):
        model.network.apply(params, x[..., :2], t, {"label": np.zeros(2, int)})
    with pytest.raises(ValueError, match="must be multiples of 4 for the 3 levels"):
        model.network.apply(params, x[:, :6], t, {"label": np.zeros(2, int)})
    other = edm_networks.described("ncsnpp").network
    with pytest.raises(ValueError, match="unconditional, and label is given"):
        other.apply({}, x, t, {"label": np.zeros(2, int)})


def test_weights_of_edm2_are_normalised_once():
    tensors, _ = edm_networks.tensors_of(*edm_networks.CASES["edm2"])
    network = edm_networks.described("edm2").network
    params = edm.to_params(tensors, network)
    scaled = {k: 7 * v if k.endswith(".weight") else v for k, v in tensors.items()}
    for ours, theirs in zip(
        jax.tree.leaves(params), jax.tree.leaves(edm.to_params(scaled, network)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4)
    kernel = params["enc_8x8_block0"]["conv_res0"]["kernel"]
    np.testing.assert_allclose(np.square(kernel).sum((0, 1, 2)), 1, rtol=1e-3)


def test_it_is_read_as_the_file_says_where_a_card_knows_its_name(tmp_path, monkeypatch):
    class_name, kwargs = edm_networks.CASES["ddpmpp"]
    tensors, buffers = edm_networks.tensors_of(class_name, kwargs)
    path = edm_writer.save(tmp_path / "a.pkl", class_name, tensors, kwargs, buffers)
    card = parts.describe(edm_networks.described("ddpmpp")) | {"name": "known"}
    card["conditioner"]["class_names"] = ["a", "b", "c", "d", "e"]
    card |= {"file_names": ["a.pkl"], "source": "x", "sha256": None}
    (tmp_path / "card.json").write_text(json.dumps(card))
    with warnings.catch_warnings(action="error"):
        params = skipjax.load(path, card=str(tmp_path / "card.json"))
    assert params.name == "known" and params.labels.class_names[1] == "b"
    card["network"]["num_blocks"] = 2
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.warns(UserWarning, match="differs from the card of known in num_blocks"):
        params = skipjax.load(path, card=str(tmp_path / "card.json"))
    assert params.network.num_blocks == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[:2])
def test_at_full_size_it_is_that_of_the_transcription(shared, name):
    found = json.loads((shared / "keys" / "diffusers" / f"{name}.json").read_text())
    kwargs = {k: v for k, v in found["config"].items() if k != "precond"}
    tensors, _ = edm_networks.tensors_of(found["cls"], kwargs)
    assert {k: list(v.shape) for k, v in tensors.items()} == found["keys"]
    model = edm.models.model_of(found["cls"], kwargs, name)
    model = model.replace(params=edm.to_params(tensors, model.network))
    x, label = samples(model, 1), np.array([3]) if kwargs["label_dim"] else None
    for sigma in (0.4, 20.0):
        ours = x_0(model.core, x, jnp.float32(sigma), label)
        inputs = np.moveaxis(x.astype(float), -1, 1), sigma, label
        theirs = edm_reference.denoised(found["cls"], tensors, kwargs, *inputs)
        theirs = np.moveaxis(theirs, 1, -1)
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        print(f"{name}, sigma {sigma}: {error:.1e}")
        assert error < 5e-5
