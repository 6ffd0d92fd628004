"""Folders that diffusers wrote: what is found in them, what is read, and what is refused."""

import json
import shutil
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_diffusers as toy
from toy_diffusers import ToyConfig, refused, same

import skipjax
from skipjax import cli, sharding
from skipjax.plans.schedulers import DDIM, Scheduler
from skipjax.weights import folders, loading, registry

KEY = jax.random.key(0)
CLASSES = ToyConfig(num_class_embeds=5)


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
    with pytest.warns(UserWarning, match="vae is missing: samples are latents"):
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


def test_a_folder_with_a_card_is_a_checkpoint_before_it_is_diffusers(tmp_path):
    folder = toy.component(tmp_path / "toy")
    cli.main(["convert", str(folder), str(tmp_path / "ours")])
    shutil.copytree(folder, tmp_path / "ours", dirs_exist_ok=True)
    assert skipjax.load(tmp_path / "ours").source == str(tmp_path / "ours")


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
        (
            ["convert", "ours", "new"],
            "is not a file: give a .pt, .safetensors or .pkl, a folder that",
        ),
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
