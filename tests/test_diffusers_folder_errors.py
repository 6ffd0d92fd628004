"""Folders of diffusers' that are not whole, or hold what is not read: refused in one line."""

import json
import random
import shutil
import warnings

import pytest
import toy_diffusers as toy
from toy_diffusers import edit, refused, same

import skipjax
from skipjax.weights.readers import state_dict


def test_nothing_is_read_before_all_fits(tmp_path, monkeypatch):
    folder = toy.component(tmp_path / "toy")
    edit(folder / "config.json", width=9)
    with pytest.raises(ValueError, match="toy: the state dict does not fit") as caught:
        skipjax.load(folder)
    assert "conv_in.weight: (8, 3), expected (9, 3)" in str(caught.value)

    def never(*_):
        raise AssertionError("weights were read")

    monkeypatch.setattr(state_dict, "read", never)
    edit(folder / "config.json", _class_name="OtherModel")
    refused("OtherModel", folder)


def test_what_is_missing_is_said(tmp_path, subtests):
    def lacking(*names, network="unet", make=toy.pipeline):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        make(folder)
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return folder

    weights = "diffusion_pytorch_model.safetensors"
    for folder, words in (
        (lacking(f"unet/{weights}"), f"its weights are missing, unet/{weights} or unet/.*bin"),
        (lacking(weights, make=toy.component), f"its weights are missing, {weights} or"),
        (lacking("unet/config.json"), "unet/config.json is missing"),
        (lacking("unet"), "unet/config.json is missing"),
        (lacking("scheduler"), "scheduler/scheduler_config.json is missing"),
        (lacking("config.json", make=toy.component), "has no card.json; bundled are"),
    ):
        with subtests.test(words):
            assert str(folder) in refused(words, folder)


def test_shards_that_do_not_go_together(tmp_path, subtests):
    def folder(name):
        return toy.sharded(toy.component(tmp_path / name, file=None))

    index = "diffusion_pytorch_model.safetensors.index.json"
    shard = "diffusion_pytorch_model-00002-of-00002.safetensors"
    with subtests.test("a shard is missing"):
        (place := folder("a")).joinpath(shard).unlink()
        assert f"{index} names {shard}, missing beside it" in refused("names", place)
    with subtests.test("the index is missing"):
        (place := folder("b")).joinpath(index).unlink()
        refused("one of several files, and their index is missing", place)
    with subtests.test("a tensor is in another shard"):
        place = folder("c")
        where = json.loads((place / index).read_text())["weight_map"]
        edit(place / index, weight_map={name: shard for name in where})
        refused("lacks .* which its index promises", place)
    with subtests.test("a shard is damaged"):
        (place := folder("d")).joinpath(shard).write_bytes(b"{}")
        refused(f"{shard}: ", place)
    for name, said, words in (
        ("e", {"a": "../secret"}, "it must be a file beside it"),
        ("f", {"a": 3}, "it must be a file beside it"),
        ("g", {}, "has no weight_map"),
        ("h", [], "has no weight_map"),
        ("i", {"a": "."}, "it must be a file beside it"),
    ):
        with subtests.test(weight_map=said):
            edit((place := folder(name)) / index, weight_map=said)
            refused(words, place)


def test_networks_that_are_not_read_are_refused_by_name(tmp_path, subtests):
    flux = toy.pipeline(tmp_path / "flux", network="transformer")
    edit(flux / "transformer" / "config.json", _class_name="FluxTransformer2DModel")
    for folder, words in (
        (flux, "is a FluxTransformer2DModel, of Flux, which is not read; known are .*ToyModel"),
        (toy.component(tmp_path / "a", _class_name="Mine"), "is a Mine, which is not read; known"),
        (toy.component(tmp_path / "c", quantization_config={"bits": 4}), "weights are quantised"),
        (toy.component(tmp_path / "d", width="wide"), "config.json: width is 'wide', a str"),
        (toy.component(tmp_path / "f", _class_name=3), "has no _class_name"),
    ):
        with subtests.test(words):
            assert str(folder) in refused(words, folder)
    prior = toy.pipeline(tmp_path / "prior", unet=None, prior=["diffusers", "Prior"])
    refused("it is a ToyPipeline of scheduler, prior: a pipeline with a unet or a trans", prior)
    other = toy.pipeline(tmp_path / "other", scheduler={"_class_name": "FlowMatchEulerX"})
    refused("its scheduler is a FlowMatchEulerX, which is not read; known are DDPM", other)


def test_arguments_that_do_not_go_with_a_folder(tmp_path):
    folder = toy.component(tmp_path / "toy")
    refused("card, config and key say what a .pt", folder, key="ema")
    refused("revision is given, and .* is no name of the hub", folder, revision="main")
    refused("variant is given, and emoji32 is no folder of diffusers'", "emoji32", variant="fp16")


NOISE = [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": 1e999999}']


def mutated(rng, content):
    """JSON as people and disks break it."""
    if rng.random() < 0.2:
        return rng.choice(NOISE)
    if rng.random() < 0.4:
        at = rng.randrange(len(content))
        return content[:at] + rng.randbytes(rng.randrange(4)) + content[at + rng.randrange(4) :]
    said, values = json.loads(content), [None, 3, -1, "x", [], {}, [["diffusers"]], True, 1e308]
    place = said.get("weight_map", said)
    for _ in range(rng.randrange(1, 4)):
        place[rng.choice([*place, "more"])] = rng.choice(values)
    return json.dumps(said).encode()


@pytest.mark.parametrize("folders", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_broken_configs_and_indices_are_refused_in_one_line(tmp_path, folders):
    whole = toy.pipeline(tmp_path / "toy", id2label={"0": "cat"})
    (whole / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    toy.sharded(whole / "unet")
    files = [path for path in whole.rglob("*.json")]
    assert len(files) == 4
    rng, outcomes = random.Random(0), {"read": 0, "refused": 0}
    for _ in range(folders):
        path = rng.choice(files)
        content = path.read_bytes()
        path.write_bytes(mutated(rng, content))
        with warnings.catch_warnings(action="ignore"):
            try:
                skipjax.load(whole)
                outcomes["read"] += 1
            except ValueError as error:
                said = str(error)
                # A network that does not fit says where, a line each.
                assert "\n" not in said or "does not fit the architecture" in said
                assert said.startswith(str(whole))
                outcomes["refused"] += 1
        path.write_bytes(content)
    assert min(outcomes.values()) > folders / 20
    same(skipjax.load(whole))
