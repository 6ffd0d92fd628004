"""The files of openai/consistency_models: cards, tensors, and tiny ones drawn from."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import released_files
import tiny
from adm_cards import CHECKPOINTS
from adm_shapes import shapes_of

import skipjax
from skipjax import cli, grids, plans
from skipjax.config import resolve
from skipjax.models import param_shapes
from skipjax.process import Edm, Point, Process
from skipjax.weights import adm, cards

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
KEY = jax.random.key(2)
FOLDER = CHECKPOINTS / "consistency_models"
CARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
DATA_SETS = {
    "imagenet64": ("ImageNet 64", 541, 295_899_267),
    "bedroom256": ("LSUN bedroom", 566, 526_304_771),
    "cat256": ("LSUN cat", 566, 526_304_771),
}


def of_two_dimensions(shapes):
    """Shapes with attention as it is in these files."""
    last = (".qkv.weight", ".proj_out.weight")
    return {name: (*s, 1) if name.endswith(last) else s for name, s in shapes.items()}


def test_there_is_a_card_for_every_released_file():
    kinds = ("edm_{}_ema", "cd_{}_l2", "cd_{}_lpips", "ct_{}")
    assert set(CARDS) == {kind.format(data) for kind in kinds for data in DATA_SETS}


@pytest.mark.slow
def test_cards_say_what_the_files_are(subtests):
    for name, card in CARDS.items():
        kind, data = name.split("_")[:2]
        model = cards.model(cards.named(name))
        with subtests.test(name):
            assert card["name"] == name and card["file_names"] == [f"{name}.pt"]
            assert card["source"][0].endswith(f"/consistency/{name}.pt") and not card["sha256"]
            wanted, tensors, parameters = DATA_SETS[data]
            shapes = param_shapes(replace(model.network, dropout=0.0))  # traced once a data set
            assert card["tensors"] == tensors == len(jax.tree.leaves(shapes))
            sizes = [leaf.size for leaf in jax.tree.leaves(shapes)]
            assert card["parameters"] == parameters == sum(sizes)
            means = "edm" if kind == "edm" else "consistency"
            assert model.process == Process("variance_exploding", means, Edm(0.5, 250.0))
            assert model.network.use_new_attention_order
            assert (model.labels is None) == (data != "imagenet64")
            assert all(row["data"] == wanted for row in card["published"])
            calls = {"edm": [79], "cd": [1, 2], "ct": [1, 2]}[kind]
            assert [row["nfe"] for row in card["published"]] == calls * ("l2" not in name)
            assert card["training"].get("teacher", "edm_cat256_ema") in CARDS


def test_settings_of_the_cards_are_taken(subtests):
    schedule = cards.model(CARDS["ct_cat256"]).schedule
    for name, card in CARDS.items():
        for row in card["sampling"]:
            with subtests.test(name, **row):
                if "times" not in row:
                    grid = row.get("grid", "trailing")
                    plan = plans.write(
                        row["plan"], schedule, grids.named(grid, schedule, row["steps"])
                    )
                    assert plan.nfe == (79 if row["plan"] == "heun" else 1)
                    continue
                grid, of, *at = row["times"].replace(":", "").replace(",", "").split()
                times = grids.named(grid, schedule, int(of))[[int(i) for i in at]]
                assert plans.write(row["plan"], schedule, times).nfe == 2


def test_every_tensor_of_imagenet64_has_its_place(shared):
    known = json.loads((shared / "keys" / "diffusers" / "cm_imagenet64.json").read_text())
    theirs = {name: tuple(shape) for name, shape in known["keys"].items()}
    config = cards.model(CARDS["cd_imagenet64_l2"]).network
    assert of_two_dimensions(shapes_of(config)) == theirs
    assert len(theirs) == known["tensors"] and known["params"] == 295_899_267
    for name, value in known["config"].items():
        ours = getattr(config, name, value)
        assert (list(ours) if isinstance(ours, tuple) else ours) == value, name
    zero = np.float32(0)
    params = adm.to_params({n: np.broadcast_to(zero, s) for n, s in theirs.items()}, config)
    wanted = jax.tree.map(lambda leaf: leaf.shape, param_shapes(config))
    assert jax.tree.map(lambda leaf: leaf.shape, params) == wanted


@pytest.fixture(scope="module")
def net():
    """A consistency model of 8 x 8 pixels, with two heads in its attention."""
    unet = tiny.config(out_channels=3, num_head_channels=16, use_new_attention_order=True)
    model = tiny.model(unet, "cd_imagenet64_l2")
    process = Process("variance_exploding", "consistency", Edm(0.5, 250.0))
    return model.replace(process=process)


def arrays(net):
    """Its tensors, as in a released file."""
    flat = released_files.arrays(net)
    return {n: a.reshape(of_two_dimensions({n: a.shape})[n]) for n, a in flat.items()}


@pytest.fixture
def file(net, tmp_path, monkeypatch):
    shelf = released_files.shelve(tmp_path / "cards", released_files.card(net))
    monkeypatch.setattr(cards, "RELEASED", (shelf,))
    return released_files.write_arrays(tmp_path / "cd_imagenet64_l2.pt", arrays(net))


def test_a_file_is_read_by_its_name(net, file):
    loaded = skipjax.load(file)
    assert loaded.process == net.process and loaded.network == net.network
    jax.tree.map(np.testing.assert_array_equal, loaded.params, net.params)


def test_the_old_order_of_attention_is_refused(net):
    old = replace(net.network, use_new_attention_order=False)
    with pytest.raises(ValueError, match="2-D convolutions.*use_new_attention_order = True"):
        adm.to_params(arrays(net), old)
    flat = released_files.arrays(net)  # as ADM's own file in the new order
    jax.tree.map(np.testing.assert_array_equal, adm.to_params(flat, net.network), net.params)


def test_the_network_is_told_as_it_was_trained(net):
    x, label = jax.random.normal(KEY, (2, 8, 8, 3)), {"label": jnp.array([1, 2])}
    sigma = 3.0
    point = Point(jnp.float32(700), jnp.float32(1), jnp.float32(sigma))
    c_in, t = 1 / np.sqrt(sigma**2 + 0.25), jnp.full(2, 250 * np.log(sigma), jnp.float32)
    F, said = jax.jit(
        lambda: (
            net.network.apply(net.params, c_in * x, t, label),
            skipjax.denoiser(net, label)(x, point),
        )
    )()
    above = sigma - 0.002
    x_0 = 0.25 / (above**2 + 0.25) * x + above * 0.5 / np.sqrt(sigma**2 + 0.25) * F
    np.testing.assert_allclose(said.x_0, np.clip(x_0, -1, 1), atol=2e-5)


def test_one_call_is_the_default_and_starts_from_all_the_noise(net):
    plan = resolve(net, skipjax.SampleConfig()).plan
    assert plan.nfe == 1 and plan.origin.method == "consistency"
    told = {}

    def keep(i, x, said):
        told[int(i)] = np.asarray(x)

    one = jax.local_devices()[:1]
    drawn = skipjax.sample(net, KEY, num=2, label=0, callback=keep, devices=one)
    jax.effects_barrier()
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(2))
    noise = skipjax.sampling.starting_noise(keys, (8, 8, 3))
    assert list(told) == [0] and np.abs(drawn).max() <= 1
    np.testing.assert_allclose(told[0], 80 * noise, rtol=1e-6)


def test_a_number_of_calls_is_enough(net):
    for nfe in (1, 2, 3):
        plan = resolve(net, skipjax.SampleConfig(nfe=nfe)).plan
        times = grids.karras(net.schedule, nfe + 1)[:-1]
        assert plan.nfe == nfe and (plan.t == times).all() and plan.origin.method == "consistency"
    asked = resolve(net, skipjax.SampleConfig(skip=100)).plan  # all else is there when asked for
    assert asked.nfe == 10 and asked.origin.method == "skipped"


def test_the_command_draws_from_a_file(file, work, capsys):
    for more in ((), ("--plan", "consistency", "--steps", "2")):
        cli.main(["sample", "--checkpoint", str(file), "--num", "2", "--out", "out.npz", *more])
        with np.load("out.npz") as drawn:
            assert drawn["arr_0"].shape == (2, 8, 8, 3)
    said = capsys.readouterr().out
    assert "2 pictures, 1 NFE each" in said and "2 pictures, 2 NFE each" in said
