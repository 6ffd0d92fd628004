"""Names of the Hugging Face hub: its cache, offline and not, and what is fetched of it."""

import json
import sys
from types import SimpleNamespace

import fake_hub
import jax
import numpy as np
import pipelines
import pytest
import toy_diffusers as toy
from toy_diffusers import same

import skipjax
from skipjax import cli
from skipjax.plans.schedulers import DDPM, Scheduler
from skipjax.weights import cards, loading
from skipjax.weights.diffusers import hub

KEY = jax.random.key(0)
DDPM_CONFIG = {
    "_class_name": "DDPMScheduler",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": True,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "trained_betas": None,
    "variance_type": "fixed_large",
}
NAME = "google/ddpm-cifar10-32"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own, and no network."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(cards, "RELEASED", ())
    return tmp_path / "home" / "hub"


@pytest.fixture
def flat(tmp_path):
    """The files of a repository, all in one folder, as Google's are."""
    return toy.pipeline(tmp_path / "files", scheduler=DDPM_CONFIG, flat=True)


@pytest.fixture
def online(monkeypatch, flat):
    """A hub to fetch from."""
    pytest.importorskip("huggingface_hub", reason="pip install 'skipjax[hub]'")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with fake_hub.serve(google__toy=flat) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def refused(words, name, **options):
    with pytest.raises(ValueError, match=words) as caught:
        skipjax.load(name, **options)
    said = str(caught.value)
    assert "\n" not in said and said.startswith(name)
    return said


def test_a_name_is_loaded_from_the_cache_offline(cache, flat):
    snapshot = toy.into_cache(cache, NAME, flat)
    loaded = skipjax.load(NAME)
    same(loaded)
    assert loaded.name == NAME and loaded.source == str(snapshot)
    assert loaded.scheduler == Scheduler(DDPM(variance="large"), 1000, 1.0)
    drawn = skipjax.sample(loaded, KEY, num=2, steps=3)
    assert drawn.shape == (2, 4, 4, 3) and np.abs(np.asarray(drawn)).max() <= 1
    assert skipjax.load(str(snapshot)).name == NAME


def test_revisions(cache, flat, tmp_path):
    toy.into_cache(cache, NAME, flat, commit="a" * 40)
    half = toy.component(tmp_path / "half", toy.ToyConfig(width=4))
    toy.into_cache(cache, NAME, half, commit="b" * 40, ref="refs/pr/1")
    assert skipjax.load(NAME).network.width == 8
    assert skipjax.load(NAME, revision="refs/pr/1").network.width == 4
    assert skipjax.load(NAME, revision="b" * 40).network.width == 4
    refused("nor in the hub's cache", NAME, revision="v2")
    for revision in ("../../main", "a b", "/etc"):
        with pytest.raises(ValueError, match="it must be a branch, a tag or a commit"):
            skipjax.load(NAME, revision=revision)
    # What a ref says is no path.
    ref = cache / f"models--{NAME.replace('/', '--')}" / "refs" / "main"
    for said in ("../..", "", "\n", "x" * 300):
        ref.write_text(said)
        refused("nor in the hub's cache", NAME)


def test_the_cache_is_where_the_hubs_variables_say(tmp_path, monkeypatch):
    assert hub.cache() == tmp_path / "home" / "hub"
    monkeypatch.setenv("HUGGINGFACE_HUB_CACHE", str(tmp_path / "old"))
    assert hub.cache() == tmp_path / "old"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "new"))
    assert hub.cache() == tmp_path / "new"
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hub.cache() == tmp_path / "xdg" / "huggingface" / "hub"


def test_what_is_neither_here_nor_in_the_cache_is_said(cache, monkeypatch, tmp_path):
    said = refused("nor in the hub's cache", NAME)
    assert str(cache) in said and said.endswith("nothing is fetched, since HF_HUB_OFFLINE is set")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    said = refused(r"pip install 'skipjax\[hub\]'", NAME)
    for path in ("nowhere/there.pt", "a/b/c", "./a/b", "org/", "/org/name"):
        with pytest.raises(ValueError, match="is not a bundled name, a folder or a file"):
            skipjax.load(path)


def test_a_cache_that_is_not_whole_says_what_is_missing(cache, flat, tmp_path):
    snapshot = toy.into_cache(cache, NAME, flat)
    (weights,) = snapshot.glob("*.safetensors")
    blob = weights.resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(ValueError, match="the download is damaged: delete .* and fetch it again"):
        skipjax.load(NAME)
    blob.unlink()  # as a download that was interrupted leaves it
    refused(f"^{NAME}: its weights are missing, .*; nothing is fetched", NAME)
    shards = toy.sharded(toy.component(tmp_path / "shards", file=None))
    snapshot = toy.into_cache(cache, "org/shards", shards)
    next(snapshot.glob("*-00002-of-*")).unlink()
    refused("names diffusion_pytorch_model-00002-of-00002.safetensors, missing", "org/shards")


def test_names_that_have_moved(cache, flat, monkeypatch):
    monkeypatch.setitem(hub.MOVED, "old/toy", "new/toy")
    toy.into_cache(cache, "new/toy", flat)
    assert skipjax.load("old/toy").name == "old/toy"
    assert hub.MOVED["runwayml/stable-diffusion-v1-5"].startswith("stable-diffusion-v1-5/")


def test_what_there_is_at_a_path_comes_first(cache, flat, tmp_path, monkeypatch):
    toy.into_cache(cache, "org/toy", flat)
    monkeypatch.chdir(tmp_path)
    toy.component(tmp_path / "org" / "toy", toy.ToyConfig(width=4))
    assert skipjax.load("org/toy").network.width == 4
    monkeypatch.chdir(flat)
    assert skipjax.load("org/toy").network.width == 8


@pytest.mark.slow
def test_the_command_line_takes_names(cache, flat, work, capsys, monkeypatch):
    toy.into_cache(cache, NAME, flat)
    cli.main(f"sample --checkpoint {NAME} --steps 2 --num 1 --out out.npz".split())
    cli.main(["info", NAME])
    said = capsys.readouterr().out
    assert NAME in said and "ddpm, 1000 steps, x_0 within 1" in said
    cli.main(["convert", NAME, "ours"])
    same(skipjax.load("ours"))
    line = f"generate --checkpoint {NAME} --num 2 --steps 2 --out job".split()
    cli.main(line)
    job = json.loads((work / "job" / "job.json").read_text())
    assert job["identity"]["model"]["scheduler"]["method"]["kind"] == "ddpm"
    capsys.readouterr()
    for line in (["info", "org/lost"], ["sample", "--checkpoint", "org/lost"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(line)
        said = capsys.readouterr().err
        assert ended.value.code == 2 and said.count("\n") == 1 and "nor in the hub's cache" in said


def test_info_of_a_released_name_needs_no_file(flat, tmp_path, monkeypatch, capsys):
    loaded = skipjax.load(flat)
    card = toy_card(loaded)
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "toy.json").write_text(json.dumps(card))
    monkeypatch.setattr(cards, "RELEASED", (tmp_path / "cards",))
    cli.main(["info", "google/toy"])
    assert "its own licence" in capsys.readouterr().out
    refused("nor in the hub's cache", "google/toy")
    toy.into_cache(hub.cache(), "google/toy", flat)
    cli.main(["info", "google/toy", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["licence"] == "its own licence" and said["scheduler"]["steps"] == 1000


def toy_card(model):
    from skipjax.weights import parts

    known = parts.describe(model.replace(scheduler=None, name="toy"))
    return known | {"hub": "google/toy", "file_names": [], "licence": "its own licence"}


def test_only_what_is_needed_is_fetched_and_said_before(online, cache, flat):
    flat.joinpath("diffusion_pytorch_model.bin").write_bytes(b"0" * 5000)
    flat.joinpath("model.onnx").write_bytes(b"0" * 5000)
    size = (flat / "diffusion_pytorch_model.safetensors").stat().st_size
    words = (
        rf"fetching google/toy \(licence apache-2.0\): {size / 1e6:.1f} MB in 1 file to .*hub; "
    )
    with pytest.warns(UserWarning, match=words + "its weights take 0.0 MB of memory as float32"):
        loaded = skipjax.load("google/toy")
    same(loaded)
    wanted = ["config.json", "diffusion_pytorch_model.safetensors", "model_index.json"]
    assert online.fetched() == [*wanted, "scheduler_config.json"]
    online.asked.clear()
    same(skipjax.load("google/toy"))  # from the cache
    assert not online.asked and hub.cached("google/toy") is not None


def test_what_has_moved_is_fetched_from_where_it_is_now(online, monkeypatch):
    monkeypatch.setitem(hub.MOVED, "old/toy", "google/toy")
    with pytest.warns(UserWarning, match="^old/toy has moved: fetching google/toy"):
        loaded = skipjax.load("old/toy")
    same(loaded)
    assert loaded.name == "old/toy"
    online.asked.clear()
    same(skipjax.load("old/toy"))
    assert not online.asked


def test_shards_and_variants_are_fetched(online, tmp_path):
    folder = toy.pipeline(tmp_path / "large", network="transformer")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    toy.sharded(folder / "transformer")
    toy.sharded(folder / "transformer", variant="fp16")
    online.repositories["org/large"] = folder
    with pytest.warns(UserWarning, match="in 3 files"):
        same(skipjax.load("org/large"))
    assert not any("fp16" in file for file in online.fetched())
    with pytest.warns(UserWarning, match="in 3 files"):
        same(skipjax.load("org/large", variant="fp16"))
    with pytest.warns(UserWarning) as said:
        same(skipjax.load("org/large", variant="bf16"))
    assert any("has no variant 'bf16'" in str(one.message) for one in said)


def test_info_fetches_no_weights(online, capsys):
    cli.main(["info", "google/toy"])
    assert "83 parameters" in capsys.readouterr().out
    assert online.fetched() == ["config.json", "model_index.json", "scheduler_config.json"]
    with pytest.warns(
        UserWarning, match="fetching google/toy"
    ):  # configs alone are no cache of it
        same(skipjax.load("google/toy"))


def test_refusals_of_the_hub_are_said(online, monkeypatch, flat):
    refused(
        "the hub has no org/lost, or it is private: check the name, or set HF_TOKEN", "org/lost"
    )
    refused("google/toy has no revision 'v9'", "google/toy", revision="v9")
    online.gated.add("google/toy")
    refused("google/toy is gated: accept its licence at https://.*, then set HF_T", "google/toy")
    monkeypatch.setenv("HF_TOKEN", "mine")
    with pytest.warns(UserWarning, match=r"\(gated, licence apache-2.0\)"):
        same(skipjax.load("google/toy"))
    assert "Bearer mine" in online.tokens


def test_what_is_not_read_is_refused_before_weights_are_fetched(online, flat):
    content = json.loads((flat / "config.json").read_text())
    (flat / "config.json").write_text(
        json.dumps(content | {"_class_name": "SD3Transformer2DModel"})
    )
    refused("is a SD3Transformer2DModel, of Stable Diffusion 3, which is not read", "google/toy")
    assert not any("safetensors" in file for file in online.fetched())


def test_no_room_is_said_before_anything_large_is_fetched(online, flat, monkeypatch):
    size = (flat / "diffusion_pytorch_model.safetensors").stat().st_size
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: SimpleNamespace(free=size - 1))
    refused("its files take .* has room for .*: make some, or set HF_HUB_CACHE", "google/toy")
    assert not any("safetensors" in file for file in online.fetched())


def test_no_network_and_no_cache(online, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    refused("nor in the hub's cache .*; it cannot be fetched", "google/other")


def test_of_a_pipeline_each_part_is_fetched_once_and_nothing_else(
    cache, online, tmp_path, recwarn
):
    folder = pipelines.write(tmp_path / "fox")
    for junk in (
        "sd1.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/model.onnx",
        "text_encoder/flax_model.msgpack",
        "safety_checker/model.safetensors",
        "safety_checker/config.json",
        "feature_extractor/preprocessor_config.json",
    ):
        (folder / junk).parent.mkdir(exist_ok=True)
        (folder / junk).write_bytes(b"{}")
    online.repositories["org/fox"] = folder
    described = loading.describe("org/fox")
    assert described["conditioner"]["kind"] == "clip_text"
    assert all(file.endswith("config.json") for file in online.fetched() if "index" not in file)
    loaded = skipjax.load("org/fox")
    weights = "diffusion_pytorch_model.safetensors"
    assert online.fetched() == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        f"unet/{weights}",
        "vae/config.json",
        f"vae/{weights}",
    ]
    (said,) = [str(one.message) for one in recwarn if "fetching" in str(one.message)]
    number = sum(leaf.size for leaf in jax.tree.leaves(loaded))
    assert f"its weights take {4 * number / 1e6:.1f} MB of memory as float32" in said
    online.asked.clear()
    assert skipjax.load("org/fox").name == "org/fox" and not online.asked
    (cache / "models--org--fox" / "snapshots").glob("*/tokenizer/vocab.json").__next__().unlink()
    assert skipjax.load("org/fox").conditioner.tokenizers
    assert online.asked
