"""Folders that diffusers wrote: what is found in them, what is read, and what is refused."""

import json
import random
import shutil
import tracemalloc
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_diffusers as toy
from toy_diffusers import ToyConfig

import skipjax
from skipjax import cli, sharding
from skipjax.plans.schedulers import DDIM, Scheduler
from skipjax.weights import folders, loading, registry, state_dict

KEY = jax.random.key(0)
CLASSES = ToyConfig(num_class_embeds=5)


def same(loaded, config=None, dtype=np.float32):
    wanted = jax.tree.map(lambda leaf: leaf.astype(dtype), toy.params(config))
    assert jax.tree.structure(loaded.params) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, wanted)


def refused(words, folder, **options):
    with pytest.raises(ValueError, match=words) as caught:
        skipjax.load(folder, **options)
    said = str(caught.value)
    assert "\n" not in said
    return said


def edit(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


@pytest.mark.parametrize("flat", [False, True])
def test_a_pipeline(tmp_path, flat):
    folder = toy.pipeline(tmp_path / "cats", CLASSES, flat=flat)
    loaded = skipjax.load(folder)
    same(loaded, CLASSES)
    assert loaded.name == "cats" and loaded.source == str(folder)
    assert loaded.network == CLASSES and loaded.labels.classes == 5
    assert loaded.scheduler == Scheduler(DDIM(), 50, 1.0)
    assert loaded.process.bounds == (-1, 1) and loaded.process.parameterization == "eps"
    drawn = skipjax.sample(loaded, KEY, num=2, label=3, steps=4)
    assert drawn.shape == (2, 4, 4, 3) and np.isfinite(drawn).all()


def test_a_component_alone_and_what_lies_beside_it(tmp_path):
    alone = skipjax.load(toy.component(tmp_path / "mine", CLASSES))
    same(alone, CLASSES)
    assert alone.name == "mine" and alone.scheduler is None and alone.labels.classes == 5
    beside = skipjax.load(toy.pipeline(tmp_path / "cats") / "unet")
    assert beside.name == "cats/unet" and beside.scheduler == Scheduler(DDIM(), 50, 1.0)
    transformer = toy.pipeline(tmp_path / "latents", network="transformer")
    same(skipjax.load(transformer))
    # Some keep a component's scheduler in the same folder.
    toy.write(tmp_path / "mine" / "scheduler_config.json", toy.SCHEDULER | {"clip_sample": False})
    assert skipjax.load(tmp_path / "mine").scheduler == Scheduler(DDIM(clipped_eps=True), 50)


def test_a_folder_of_training_has_an_average_which_is_taken(tmp_path):
    run = toy.pipeline(tmp_path / "run")
    step = run / "checkpoint-500"
    toy.component(step / "unet", ToyConfig(width=4))
    ema = {"decay": 0.9999, "inv_gamma": 1.0, "min_decay": 0.0, "optimization_step": 500}
    ema |= {"power": 0.75, "update_after_step": 0, "use_ema_warmup": True}
    toy.component(step / "unet_ema", **ema)
    with pytest.warns(UserWarning, match="took unet_ema, the average"):
        loaded = skipjax.load(step)
    same(loaded)
    assert loaded.scheduler == Scheduler(DDIM(), 50, 1.0)
    last = skipjax.load(step / "unet")
    assert last.network == ToyConfig(width=4) and last.scheduler is not None
    same(skipjax.load(step / "unet_ema"))
    same(skipjax.load(run))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_formats_and_shards(tmp_path, suffix, subtests):
    with subtests.test("one file"):
        folder = toy.component(tmp_path / "one", file=f"diffusion_pytorch_model.{suffix}")
        same(skipjax.load(folder))
        for kept in ("bfloat16", "float16"):
            same(skipjax.load(folder, dtype=kept), dtype=jnp.dtype(kept))
    with subtests.test("shards"):
        folder = toy.sharded(toy.component(tmp_path / "two", file=None), suffix=suffix)
        same(skipjax.load(folder))
    with subtests.test("shards of a pipeline"):
        folder = toy.pipeline(tmp_path / "three")
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        toy.sharded(folder / "unet", suffix=suffix)
        same(skipjax.load(folder))
    with subtests.test("shards of a variant"):
        folder = toy.sharded(toy.component(tmp_path / "four", file=None), None, suffix, "fp16")
        same(skipjax.load(folder, variant="fp16"))


def test_safetensors_come_before_torchs_files(tmp_path):
    folder = toy.component(tmp_path / "both")
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"no weights")
    same(skipjax.load(folder))


def test_variants(tmp_path):
    folder = toy.component(tmp_path / "toy")
    with pytest.warns(UserWarning, match="has no variant 'fp16': took diffusion_pytorch_model.s"):
        same(skipjax.load(folder, variant="fp16"))
    half = folder / "diffusion_pytorch_model.fp16.safetensors"
    toy.weights(half, ToyConfig(), np.float16)
    same(skipjax.load(folder, variant="fp16"))
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    refused(r"there is a variant: load\(..., variant='fp16'\) or --variant fp16", folder)
    half.rename(folder / "diffusion_pytorch_model.non_ema.bin")
    refused("variant='non_ema'", folder)


def test_the_classes_have_the_names_of_the_pipeline(tmp_path):
    names = {str(i): f"animal {i}, beast {i}" for i in range(5)}
    loaded = skipjax.load(toy.pipeline(tmp_path / "named", CLASSES, id2label=names))
    assert loaded.labels.class_names == tuple(f"animal {i}" for i in range(5))
    assert loaded.labels.number("animal 3") == 3
    few = skipjax.load(toy.pipeline(tmp_path / "few", CLASSES, id2label={"0": "cat"}))
    assert few.labels.class_names == ()


def test_samples_of_a_pipeline_with_a_decoder_are_latents(tmp_path):
    folder = toy.pipeline(tmp_path / "latent", vae=["diffusers", "AutoencoderKL"])
    with pytest.warns(UserWarning, match="vae is not read: samples are latents"):
        loaded = skipjax.load(folder)
    assert loaded.process.bounds is None and loaded.scheduler.clip == 1.0


def test_each_array_goes_straight_to_its_place(tmp_path):
    mesh = sharding.mesh(data=2, model=4)
    folder = toy.sharded(toy.component(tmp_path / "toy", file=None))
    loaded = skipjax.load(folder, sharding=mesh)
    for leaf in jax.tree.leaves(loaded.params):
        assert leaf.sharding == sharding.split(mesh, leaf.shape)


def test_loading_takes_little_more_memory_than_the_weights(tmp_path):
    wide = ToyConfig(in_channels=3, width=300_000)
    folder = toy.sharded(toy.component(tmp_path / "wide", wide, file=None), wide)
    skipjax.load(toy.component(tmp_path / "warm"))
    tracemalloc.start()
    try:
        loaded = skipjax.load(folder, dtype="bfloat16")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded))
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(loaded))
    assert weights > 5e6 and peak < weights + 4 * largest


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


def test_classes_of_flax_and_unknown_fields(tmp_path):
    folder = toy.component(tmp_path / "toy", _class_name=f"Flax{toy.CLASS}", _name="x", extra=3)
    with pytest.warns(UserWarning, match="nothing is known of extra"):
        same(skipjax.load(folder))


def test_a_family_of_another_package_is_imported_by_the_name_of_its_class(tmp_path, monkeypatch):
    class Entry:
        def load(self):
            registry.CLASSES["FarModel"] = toy.config_of

    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry()])
    monkeypatch.setattr(registry, "CLASSES", dict(registry.CLASSES))
    same(skipjax.load(toy.component(tmp_path / "far", _class_name="FarModel")))


def test_arguments_that_do_not_go_with_a_folder(tmp_path):
    folder = toy.component(tmp_path / "toy")
    refused("card, config and key say what a .pt", folder, key="ema")
    refused("revision is given, and .* is no name of the hub", folder, revision="main")
    refused("variant is given, and emoji32 is no folder of diffusers'", "emoji32", variant="fp16")


def test_a_folder_with_a_card_is_a_checkpoint_before_it_is_diffusers(tmp_path):
    folder = toy.component(tmp_path / "toy")
    cli.main(["convert", str(folder), str(tmp_path / "ours")])
    shutil.copytree(folder, tmp_path / "ours", dirs_exist_ok=True)
    assert skipjax.load(tmp_path / "ours").source == str(tmp_path / "ours")


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


def test_the_command_line_takes_folders(work, capsys):
    folder = toy.pipeline(work / "toy", CLASSES)
    cli.main(["sample", "--checkpoint", "toy", "--steps", "3", "--num", "2", "--out", "out.npz"])
    assert "2 pictures, 3 NFE each" in capsys.readouterr().out
    assert np.load("out.npz")["arr_0"].shape == (2, 4, 4, 3)
    cli.main(["info", "toy"])
    said = capsys.readouterr().out
    assert "ddim, 50 steps, x_0 within 1" in said and "toy_diffusers of 4 x 4 x 3" in said
    cli.main(["info", "toy", "--json"])
    card = json.loads(capsys.readouterr().out)
    assert card["scheduler"]["method"]["kind"] == "ddim" and card["parameters"] == 123
    cli.main(["convert", "toy", "ours"])
    assert "toy: 123 parameters" in capsys.readouterr().out
    ours, theirs = skipjax.load("ours"), skipjax.load(folder)
    assert ours.replace(params=None, source=None) == theirs.replace(params=None, source=None)
    same(ours, CLASSES)
    assert json.loads((work / "ours" / "card.json").read_text())["converted_from"]["sha256"]
    for line, words in (
        (["sample", "--checkpoint", "lost"], "is not a bundled name, a folder or a file"),
        (["convert", "toy", "ours"], "ours is there already"),
        (["convert", "toy", "new", "--key", "ema"], "card and key say what a file holds"),
        (["convert", "ours", "new"], "is not a file: give a .pt or .safetensors, a folder that"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(line)
        said = capsys.readouterr().err
        assert ended.value.code == 2 and words in said and said.count("\n") == 1


def test_a_job_is_of_its_weights(tmp_path):
    folder = toy.sharded(toy.component(tmp_path / "toy", file=None))
    one = loading.sha256(folder)
    path = next(folder.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert one != loading.sha256(folder) and len(one) == 64
    single = toy.component(tmp_path / "single")
    (only,) = single.glob("*.safetensors")
    assert loading.sha256(single) == folders.checksums.sha256(only)
