"""DiT and SiT: the network, its config, and files of weights in both layouts."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_writer
from dit_reference import CONFIGS, TINY, close, forward, inputs, numbers, pretrained, state_dict

import skipjax
from skipjax import models
from skipjax.models import DiTConfig, param_shapes
from skipjax.models.dit import DIFFUSERS, SIZES, sinusoids
from skipjax.weights import cards, dit, folders, parts

RELEASED = {"DiT-XL-2-256x256": 32, "DiT-XL-2-512x512": 64, "SiT-XL-2-256x256": 32}
CONFIG_JSON = {
    "_class_name": "Transformer2DModel",
    "_diffusers_version": "0.12.0.dev0",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 72,
    "cross_attention_dim": None,
    "dropout": 0.0,
    "in_channels": 4,
    "norm_elementwise_affine": False,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_zero",
    "num_attention_heads": 16,
    "num_embeds_ada_norm": 1000,
    "num_layers": 28,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 32,
    "upcast_attention": False,
    "use_linear_projection": False,
}
pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")


def apply(model, x, t, y, **options):
    return model.network.apply(model.params, x, t, {"label": jnp.asarray(y)}, **options)


@pytest.mark.parametrize(
    "kind", ["facebook", "sit", pytest.param("oblong", marks=pytest.mark.slow)]
)
def test_the_network_is_the_transcription(kind):
    model = pretrained(kind)
    config, (x, t, y) = model.network, inputs(model.network)
    ours = jax.jit(lambda *args: apply(model, *args))(x, t, y)
    theirs = forward(state_dict(model.params), x, t, y, config.num_heads, config.patch_size)
    assert ours.shape == (3, *config.size, config.out_channels) and ours.dtype == jnp.float32
    close(ours, theirs[..., : config.out_channels])
    half = apply(model, x, t, y, dtype=jnp.bfloat16)
    assert half.dtype == jnp.float32
    close(half, theirs[..., : config.out_channels], 0.05)


def test_diffusers_network_is_another_and_embeds_in_every_block():
    model = pretrained("diffusers")
    x, t, y = inputs(model.network)
    same = dict(model.params) | {"embedder_1": model.params["embedder_0"]}
    known = state_dict({"embedder": same["embedder_0"]})
    rest = {k: v for k, v in same.items() if not k.startswith("embedder")}
    known |= state_dict(rest) | {"pos_embed": sinusoids(24, (4, 4), (4, 4))}
    theirs = forward(known, x, t, y, 3, 2, freq_shift=1, eps=1e-5)
    close(apply(model.replace(params=same), x, t, y), theirs)
    assert np.abs(apply(model, x, t, y) - theirs).max() > 1e-2
    # Its second block alone is told by the second embedder.
    changed = same | {"embedder_1": jax.tree.map(np.zeros_like, same["embedder_1"])}
    assert np.abs(apply(model.replace(params=changed), x, t, y) - theirs).max() > 1e-2


def test_places_are_sinusoids_of_column_then_row():
    ours = sinusoids(8, (2, 3), (2, 3))
    for token, (row, column) in enumerate([(r, c) for r in range(2) for c in range(3)]):
        angles = [place / divisor for place in (column, row) for divisor in (1, 100)]
        a, b, c, d = angles
        wanted = [*np.sin([a, b]), *np.cos([a, b]), *np.sin([c, d]), *np.cos([c, d])]
        np.testing.assert_allclose(ours[token], wanted, atol=1e-7)
    stretched = sinusoids(8, (4, 3), (2, 3))
    np.testing.assert_array_equal(stretched.reshape(4, 3, 8)[::2], ours.reshape(2, 3, 8))


@pytest.mark.slow
def test_fresh_params_give_zeros_and_saved_places(subtests):
    for kind in ("facebook", "diffusers"):
        with subtests.test(kind):
            config = CONFIGS[kind]
            params = config.init(jax.random.key(0))
            x, t, y = inputs(config)
            out = config.apply(params, x, t, {"label": y})
            np.testing.assert_array_equal(out, 0)
            assert ("pos_embed" in params) == (config.positions == "saved")
    places = CONFIGS["facebook"].init(jax.random.key(1))["pos_embed"]
    np.testing.assert_array_equal(places[0], sinusoids(24, (4, 4), (4, 4)))


@pytest.mark.slow
def test_saved_places_are_held_fixed_and_dropout_drops():
    model = pretrained("facebook", dropout=0.5)
    x, t, y = inputs(model.network)

    def total(params, key):
        return jnp.square(apply(model.replace(params=params), x, t, y, dropout=key)).sum()

    both = jax.jit(jax.value_and_grad(total))
    one, gradient = both(model.params, jax.random.key(0))
    np.testing.assert_array_equal(gradient["pos_embed"], 0)
    assert np.all(gradient["x_embedder_proj"]["kernel"] != 0)
    other, _ = both(model.params, jax.random.key(1))
    assert one != other


@pytest.mark.slow
def test_remat_changes_nothing():
    model, (x, t, y) = pretrained("facebook"), inputs(CONFIGS["facebook"])
    plain, again = (
        jax.jit(jax.grad(lambda x, on=on: apply(model, x, t, y, remat=on).sum()))(x)
        for on in (False, True)
    )
    np.testing.assert_allclose(plain, again, atol=1e-5 * np.abs(plain).max())


def test_computed_places_take_any_size_and_saved_ones_their_own():
    free, (x, t, y) = pretrained("diffusers"), inputs(CONFIGS["oblong"])
    assert apply(free, x, t, y).shape == (3, 8, 12, 8)
    fixed = pretrained("facebook")
    with pytest.raises(ValueError, match="x is 8 x 12: the places of 8 x 8 are saved"):
        apply(fixed, x, t, y)
    loose = dataclasses.replace(fixed.network, positions="computed")
    assert apply(fixed.replace(network=loose), x, t, y).shape == (3, 8, 12, 8)


def test_what_it_cannot_take_is_refused(subtests):
    model, (x, t, y) = pretrained("diffusers"), inputs(CONFIGS["diffusers"])
    for x_, condition, match in [
        (x, None, "the condition holds nothing: this network takes label"),
        (x, {"label": y, "text": y}, "the condition holds label, text"),
        (x[..., :3], {"label": y}, r"x is \[3, 8, 8, 3\]: it must be \[batch, height, width, 4\]"),
        (x[:, :7], {"label": y}, "x is 7 x 8: height and width must be multiples of patch_size"),
    ]:
        with subtests.test(match), pytest.raises(ValueError, match=match):
            model.network.apply(model.params, x_, t, condition)
    for changes, match in [
        ({"hidden_size": 26}, "hidden_size is 26: it must be a multiple of num_heads, 3"),
        ({"sample_size": 9}, "sample_size is 9: it must be a multiple of patch_size, 2"),
        ({"depth": 0}, "depth is 0: it must be a whole number"),
        ({"sigma": "learned"}, "sigma is 'learned': it must be one of given, dropped, none"),
        ({"positions": "rope"}, "positions is 'rope'"),
        ({"embedders": "two"}, "embedders is 'two'"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio is 0.0"),
        ({"guided_channels": 0}, "guided_channels is 0"),
    ]:
        with subtests.test(match), pytest.raises(ValueError, match=match):
            dataclasses.replace(CONFIGS["facebook"], **changes)


@pytest.mark.slow
def test_sizes_go_by_the_papers_names(subtests):
    # Parameters of DiT-S/2 .. XL/8 at 256 pixels, in millions: the paper's table 1 has those of /2
    # as 33, 130, 458 and 675.
    for size, millions in {"S": 33, "B": 130, "L": 458, "XL": 675}.items():
        with subtests.test(size):
            config = DiTConfig.named(f"DiT-{size}/2", 32)
            assert (config.depth, config.hidden_size, config.num_heads) == SIZES[size]
            assert round(numbers(param_shapes(config)) / 1e6 - 0.4) == millions
    for patch in (4, 8):
        assert DiTConfig.named(f"SiT-B/{patch}", 64, sigma="none").patch_size == patch
    for name in ("XL", "XXL/2", "S/3", "S-2"):
        with pytest.raises(ValueError, match="it must be one of S, B, L, XL and"):
            DiTConfig.named(name, 32)


def keys(shared, name):
    return json.loads((shared / "keys" / "diffusers" / f"{name}.json").read_text())


@pytest.mark.slow
def test_both_layouts_of_the_released_files_are_read_whole(shared, subtests):
    configs = {name: cards.model(cards.named(name)).network for name in RELEASED}
    known = keys(shared, "DiT-XL-2-256x256"), keys(shared, "dit_xl2_256")
    for list_, config in [
        (known[0], configs["DiT-XL-2-256x256"]),
        (known[0], configs["SiT-XL-2-256x256"]),
        (known[1], dit.config_of(known[1]["config"])),
    ]:
        with subtests.test(list_["name"], config.sigma):
            state = {k: np.broadcast_to(np.int8(0), s) for k, s in list_["keys"].items()}
            read = dit.to_params(state, config, lambda path, array: array.shape)
            shapes = param_shapes(config)
            assert jax.tree.map(lambda leaf: leaf.shape, shapes) == read
            assert numbers(shapes) == list_["params"] and len(state) == list_["tensors"]


@pytest.mark.slow
def test_cards_say_what_the_files_hold(subtests):
    for name, side in RELEASED.items():
        with subtests.test(name):
            card = cards.named(name)
            assert cards.of_file(Path("somewhere") / card["file_names"][-1]) == card
            model = cards.model(card)
            sigma = "dropped" if name.startswith("SiT") else "given"
            assert model.network == DiTConfig.named("XL/2", side, sigma=sigma)
            assert model.process == dit.model(model.network, "").process
            assert numbers(param_shapes(model.network)) == card["parameters"]
            assert model.labels.null_label == 1000 and model.labels.number("golden ret") == 207
            assert "0.18215" in card["caution"] and card["licence"].startswith(("CC BY-NC", "MIT"))
            for row in card["sampling"]:
                sampler = skipjax.config.resolve(model, skipjax.config.SampleConfig(**row))
                assert sampler.plan.nfe == int(row["steps"])


def test_a_state_dict_of_either_layout_becomes_the_params(subtests):
    for kind in CONFIGS:
        with subtests.test(kind):
            model, diffusers = pretrained(kind), kind == "diffusers"
            state = state_dict(model.params, diffusers)
            assert any("to_q." in name for name in state) == diffusers
            read = dit.to_params(state, model.network)
            jax.tree.map(np.testing.assert_array_equal, read, model.params)


def test_a_state_dict_that_does_not_fit_is_explained(subtests):
    config, other = CONFIGS["facebook"], CONFIGS["diffusers"]
    state = state_dict(pretrained("facebook").params)
    theirs = state_dict(pretrained("diffusers").params, diffusers=True)
    replace = dataclasses.replace
    for found, wanted, match in [
        (state, other, "of Facebook's layout, whose embedders of time and label are shared"),
        (theirs, config, "of diffusers' layout, whose embedders of time and label are repeated"),
        (state, replace(config, depth=3), "the file has depth 2, the config 3"),
        (state, replace(config, num_classes=7), "the file has num_classes 6, the config 7"),
        (state, replace(config, patch_size=4), "the file has patch_size 2, the config 4"),
        (state, replace(config, sigma="none"), "outputs of the last layer: 8, the config 4"),
        (state, replace(config, sample_size=16), "the file has places: 16, the config 64"),
        (state, replace(config, hidden_size=36), "the file has hidden_size 24, the config 36"),
        ({"a": np.zeros(1)}, config, "missing: "),
        ({k: v for k, v in theirs.items() if "1.attn1.to_k.w" not in k}, other, "missing: .*qkv"),
    ]:
        with subtests.test(match), pytest.raises(ValueError, match=match):
            dit.to_params(found, wanted)


def test_config_json_of_diffusers(shared, subtests):
    wanted = DiTConfig.named("XL/2", 32, **DIFFUSERS)
    assert dit.config_of(CONFIG_JSON) == wanted
    assert dit.config_of(keys(shared, "dit_xl2_256")["config"]) == wanted
    bare = dit.config_of({"_class_name": "DiTTransformer2DModel"})
    assert bare == dataclasses.replace(wanted, sigma="none")
    options = {"norm_eps": 1e-4, "activation_fn": "gelu", "attention_bias": False, "dropout": 0.1}
    found = dit.config_of(CONFIG_JSON | options | {"num_attention_heads": 2})
    assert (found.mlp_norm_eps, found.exact_gelu, found.qkv_bias) == (1e-4, True, False)
    assert (found.dropout, found.hidden_size, found.num_heads) == (0.1, 144, 2)
    with pytest.warns(UserWarning, match="nothing is known of colour, shape"):
        dit.config_of(CONFIG_JSON | {"shape": 1, "colour": 2})
    for changes, match in [
        ({"norm_type": "ada_norm_single"}, "norm_type is 'ada_norm_single'.*PixArt"),
        ({"activation_fn": "geglu"}, "activation_fn is 'geglu', which is not supported"),
        ({"norm_elementwise_affine": True}, "norm_elementwise_affine is True"),
        ({"cross_attention_dim": 768}, "cross_attention_dim is 768"),
        ({"out_channels": 5}, "out_channels is 5: it must be in_channels, 4, or twice"),
        ({"num_embeds_ada_norm": None}, "num_embeds_ada_norm is None"),
        ({"sample_size": None}, "sample_size is None: it must be a whole number"),
        ({"num_layers": "28"}, "num_layers is '28': it must be a whole number"),
        ({"attention_bias": 1}, "attention_bias is 1: it must be true or false"),
        ({"dropout": "0"}, "dropout is '0': it must be a number"),
        ({"norm_eps": True}, "norm_eps is True: it must be a number"),
        ({"patch_size": 3}, "sample_size is 32: it must be a multiple of patch_size, 3"),
    ]:
        with subtests.test(match), pytest.raises(ValueError, match=match):
            dit.config_of(CONFIG_JSON | changes)


def write(path, params):
    """A file as Facebook's train.py writes them."""
    state = {name: torch_writer.tensor(array) for name, array in state_dict(params).items()}
    other = {name: torch_writer.tensor(0 * array) for name, array in state_dict(params).items()}
    training = {"model": other, "ema": state, "opt": {"state": {}, "param_groups": []}}
    return torch_writer.save(path, training)


def test_files_of_train_py_are_loaded_by_card_or_config(tmp_path, monkeypatch):
    model = pretrained("sit")
    card = parts.describe(model) | {"file_names": ["tiny-sit.pt"]}
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / f"{model.name}.json").write_text(json.dumps(card))
    monkeypatch.setattr(cards, "RELEASED", (tmp_path / "cards",))
    path = write(tmp_path / "tiny-sit.pt", model.params)
    with pytest.warns(UserWarning, match="took the weights under 'ema'"):
        loaded = skipjax.load(path)
    assert loaded.process == model.process and loaded.conditioner == model.conditioner
    jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)

    path = path.rename(tmp_path / "0050000.pt")
    known = skipjax.load(path, key="ema", config=model.network)
    assert known.process == model.process and known.labels.null_label == 5
    jax.tree.map(np.testing.assert_array_equal, known.params, model.params)
    with pytest.raises(ValueError, match="the file has depth 2, the config 4"):
        skipjax.load(path, key="ema", config=dataclasses.replace(model.network, depth=4))


def test_a_folder_gives_back_what_was_saved(tmp_path, subtests):
    for kind in CONFIGS:
        with subtests.test(kind):
            model = pretrained(kind)
            folders.save(tmp_path / kind, model.params, parts.describe(model), np.float32, model)
            loaded = skipjax.load(tmp_path / kind)
            assert (loaded.network, loaded.process) == (model.network, model.process)
            assert loaded.conditioner == model.conditioner
            jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)
    card = parts.describe(pretrained("facebook"))
    card["conditioner"] = dict(card["conditioner"]) | {"num_classes": 7}
    with pytest.raises(ValueError, match="conditioner has 7 labels, and the network num_classes"):
        parts.build(card)
    card = parts.describe(pretrained("sit"))
    card["process"] = dict(card["process"]) | {"variance": "learned_range"}
    with pytest.raises(ValueError, match="the network has 4 output channels: it needs 8"):
        parts.build(card)


@pytest.mark.slow
def test_it_is_a_network_like_others():
    config = CONFIGS["facebook"]
    module = models.network(config)
    params = module.init(jax.random.key(0), *models.example(config))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        jnp.shape, config.init(jax.random.key(1))
    )
    assert hash(config) == hash(DiTConfig((8, 8), **TINY))
