"""Single files of Stable Diffusion: whose they are, what they hold, and the same by folders."""

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import single_files as single
from hostile_pickles import CANARY
from safetensors.numpy import load_file, save_file

import skipjax
from skipjax import codecs, conditioners, schedules
from skipjax.models import UNet2DConditionConfig
from skipjax.weights import components, registry
from skipjax.weights.compvis import names
from skipjax.weights.compvis.single_file import find, of_tensors

pytestmark = pytest.mark.usefixtures("work")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders of pipelines, made once."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = single.folder(tmp_path_factory.mktemp("single") / name, name)
        return made[name]

    return folder


def same(one, other):
    """Asserts that two models are the same but for their names and how they split prompts."""
    assert one.network == other.network and one.process == other.process
    assert one.codec.network == other.codec.network and one.guidance == other.guidance
    assert one.conditioner.gives == other.conditioner.gives
    theirs, ours = components.networks(one), components.networks(other)
    assert theirs.keys() == ours.keys()
    for name in theirs:
        assert theirs[name][0] == ours[name][0]
        jax.tree.map(np.testing.assert_array_equal, theirs[name][1], ours[name][1])


def test_names_are_those_of_released_files(shared):
    """Of every tensor of Stable Diffusion 1, as diffusers' own converter has them."""
    listed = single.read(shared / "keys" / "diffusers" / "single_file_sd1.json")
    told = listed["map_from_diffusers"]
    unet = [name.removeprefix("unet/") for name in told if name.startswith("unet/")]
    layers, attends = names.layers(unet), names.attending(unet)
    for name, theirs in told.items():
        component, _, inner = name.partition("/")
        ours = {
            "unet": lambda n: f"model.diffusion_model.{names.unet(n, layers, attends)}",
            "vae": lambda n: f"first_stage_model.{names.autoencoder(n, 4)}",
            "text_encoder": lambda n: f"cond_stage_model.transformer.{n}",
        }[component](inner)
        assert ours == theirs


@pytest.mark.slow
def test_nothing_is_missing_or_left_over_of_released_files(shared):
    """Of Stable Diffusion 1 and XL base: by shapes, the configs and names of their folders."""
    keys = {
        path.stem: single.read(path) for path in (shared / "keys" / "diffusers").glob("*.json")
    }
    arrays = single.shapes(keys["single_file_sd1"]["keys"])
    found = of_tensors(Path("sd1.ckpt"), arrays, {})
    config = found.components["unet"].config
    assert config == UNet2DConditionConfig(64, cross_attention_dim=768)
    number = sum(exactly(component) for component in found.components.values())
    assert number == 1130
    unet, vae = keys["sdxl_unet"], keys["sdxl_vae"]
    encoders = keys["clip_l_text"], keys["clip_bigg_text_proj"]
    every = single.named(single.shapes(unet["keys"]))
    for name, tensor in single.shapes(vae["keys"]).items():
        every[f"first_stage_model.{names.autoencoder(name, 4)}"] = tensor
    text, big = (single.shapes(encoder["keys"]) for encoder in encoders)
    prefixes = single.PREFIXES["xl"]
    every |= {prefixes[0] + name: tensor for name, tensor in text.items()}
    big = {name.removeprefix("text_model."): tensor for name, tensor in big.items()}
    every |= {prefixes[1] + name: tensor for name, tensor in single.openclip(big, 0).items()}
    found = of_tensors(Path("xl.safetensors"), every, {})
    for name, listed in zip(found.components, (unet, vae, *encoders), strict=True):
        component = found.components[name]
        cls = listed["cls"].split(".")[-1]
        wanted = registry.config_of(cls)({"_class_name": cls} | listed["config"])
        assert exactly(component) == listed["tensors"]
        # What shapes do not tell: the end of a text, the size of an autoencoder's pictures.
        field = "sample_size" if name == "vae" else "eos_token_id"
        told = {field: getattr(wanted, field)} if name != "unet" else {}
        assert replace(component.config, **told) == wanted
    assert found.model.codec.network.scaling_factor == 0.13025
    assert found.model.guidance == 5.0 and found.model.conditioner.gives == (
        "text",
        "pooled",
        "time_ids",
    )


def exactly(component):
    """How many tensors a component has, none of them missing and none left over."""
    wanted, found = registry.tensor_names(component.config), component.tensors()
    left = {name for name in found if not name.endswith(("position_ids", "logit_scale"))}
    assert left == wanted.keys()
    return len(wanted)


@pytest.mark.parametrize(
    "name", ["sd1", *(pytest.param(n, marks=pytest.mark.slow) for n in list(single.PIPELINES)[1:])]
)
def test_a_file_is_read_as_the_folder_is(place, name, tmp_path):
    folder = place(name)
    file = single.write(tmp_path / f"{name}.safetensors", single.tensors(folder, name))
    told = {"prediction": "v"} if name == "sd2" else {}
    loaded, wanted = skipjax.load(file, tokenizer=folder, **told), skipjax.load(folder)
    if name == "sd2":  # of the size that those of full size have
        assert loaded.network.sample_size == 96
        loaded = loaded.replace(network=wanted.network)
    same(loaded, wanted)
    assert loaded.name == name and loaded.source == str(file)
    assert loaded.scheduler.method == wanted.scheduler.method
    text = conditioners.part(loaded.conditioner, conditioners.ClipText)
    theirs = conditioners.part(wanted.conditioner, conditioners.ClipText)
    assert [t.pad for t in text.tokenizers] == [t.pad for t in theirs.tokenizers]


class Hostile:
    """Makes a folder when Python unpickles it."""

    def __reduce__(self):
        return os.mkdir, (CANARY,)


def test_a_ckpt_of_training_gives_the_average_and_runs_nothing(place, tmp_path):
    folder = place("sd1")
    every = single.tensors(folder, "sd1", ema=True)
    more = {
        "global_step": 840000,
        "callbacks": {"hostile": Hostile()},
        "optimizer_states": [{"state": {}}],
    }
    file = single.write(tmp_path / "training.ckpt", every, **more)
    with pytest.warns(UserWarning) as said:
        loaded = skipjax.load(file, tokenizer=folder / "tokenizer")
    assert any("took model_ema, the average" in str(one.message) for one in said)
    assert not Path(CANARY).exists()
    same(loaded, skipjax.load(folder))


def test_a_vocabulary_is_looked_for(place, tmp_path, monkeypatch):
    folder = place("sd1")
    file = single.write(tmp_path / "sd1.safetensors", single.tensors(folder, "sd1"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    with pytest.warns(UserWarning, match=r"prompts need load\(..., tokenizer=FOLDER\)"):
        model = skipjax.load(file)
    with pytest.raises(ValueError, match="tokenizer=, the folder of one"):
        model.conditioner.encode({"prompt": "a fox"}, None, np.arange(1))
    with pytest.raises(ValueError, match="which holds no vocabulary: it must be a folder"):
        skipjax.load(file, tokenizer=tmp_path)
    with pytest.raises(ValueError, match="prediction is 'x_0': it must be one of eps, v"):
        skipjax.load(file, prediction="x_0")
    with pytest.raises(ValueError, match="prediction says what a single file"):
        skipjax.load(folder, prediction="eps")
    snapshot = tmp_path / "hub" / "models--openai--clip-vit-large-patch14" / "snapshots" / "a1"
    single.vocabulary(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("a1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert len(find(file).components) == 3
    assert skipjax.load(file).conditioner.tokenizers


def test_networks_alone(place, tmp_path, subtests):
    folder = place("sd1")
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(folder / "text_encoder" / "model.safetensors")
    whole = skipjax.load(folder)
    cases = {"diffusers": unet, "compvis": single.named(unet)}
    cases["bare"] = {
        n.removeprefix("model.diffusion_model."): t for n, t in cases["compvis"].items()
    }
    for name, tensors in cases.items():
        with subtests.test(name):
            file = single.write(tmp_path / f"{name}.safetensors", tensors)
            with pytest.warns(UserWarning) as said:
                loaded = skipjax.load(file)
            assert {str(one.message).split(": ", 1)[1] for one in said} == {
                "text is given as arrays, text=",
                "samples are latents",
            }
            assert loaded.network == whole.network and loaded.conditioner.takes == ("text",)
            jax.tree.map(np.testing.assert_array_equal, loaded.params, whole.params)
    prefix = "first_stage_model."
    cases = {"vae": vae, "theirs": {names.autoencoder(n, 2): t for n, t in vae.items()}}
    cases["prefixed"] = {prefix + n: t for n, t in cases["theirs"].items()}
    for name, tensors in cases.items():
        with subtests.test(name):
            file = single.write(tmp_path / f"{name}.safetensors", tensors)
            with pytest.warns(UserWarning, match="does not say how its latents are scaled"):
                codec = skipjax.load(file)
            assert isinstance(codec, codecs.AutoencoderKL)
            jax.tree.map(np.testing.assert_array_equal, codec.params, whole.codec.params)
    with subtests.test("text encoder"):
        file = single.write(tmp_path / "text.safetensors", text)
        encoder = skipjax.load(file)
        assert isinstance(encoder, conditioners.TextEncoder)
        jax.tree.map(np.testing.assert_array_equal, encoder.params, whole.conditioner.params[0])


def test_what_is_not_read_is_refused_by_name(tmp_path, subtests):
    zeros = np.zeros((2, 2), np.float32)
    for name, words in {
        "model.diffusion_model.double_blocks.0.img_attn.qkv.weight": "Flux",
        "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": "Stable Diffusion 3",
        "control_model.input_blocks.0.0.weight": "ControlNet",
        "down_blocks.0.motion_modules.0.norm.weight": "AnimateDiff",
        "edm_mean": "Playground",
        "clip_txt_mapper.weight": "Stable Cascade",
        "model.diffusion_model.out.2.weight.absmax": "quantised",
        "lora_unet_mid_block.lora_down.weight": r"loras=\{path: 1.0\}",
    }.items():
        with subtests.test(name):
            file = tmp_path / "mine.safetensors"
            save_file({name: zeros}, file)
            with pytest.raises(ValueError, match=words) as caught:
                skipjax.load(file)
            assert "\n" not in str(caught.value) and str(caught.value).startswith(str(file))
    with subtests.test("GGUF"):
        (tmp_path / "mine.gguf").write_bytes(b"GGUF" + bytes(40))
        with pytest.raises(ValueError, match="is a GGUF, of quantised weights"):
            skipjax.load(tmp_path / "mine.gguf")


def test_more_than_is_known_of_is_refused(place, tmp_path):
    every = single.tensors(place("sd1"), "sd1") | {"adapter.weight": np.zeros(3, np.float32)}
    file = single.write(tmp_path / "more.safetensors", every)
    with pytest.raises(ValueError, match="it holds what is of no network: adapter.weight"):
        skipjax.load(file)


@pytest.mark.slow
def test_what_the_network_predicts(place, tmp_path, subtests, monkeypatch):
    monkeypatch.setattr("skipjax.weights.vocabularies.hub.cached", lambda *_: None)
    sd1, sd2, xl = (single.tensors(place(name), name) for name in ("sd1", "sd2", "xl"))
    one = np.zeros((), np.float32)
    key = "model.diffusion_model.output_blocks.3.1.transformer_blocks.0.norm1.bias"
    wide = {key: np.linspace(-1, 1, len(sd2[key]), dtype=np.float32)}
    monkeypatch.setattr(
        "skipjax.weights.compvis.prediction.TELLING",
        "up_blocks.1.attentions.1.transformer_blocks.0.norm1.bias",
    )
    flat = {key: np.zeros_like(wide[key])}
    for case, every, about, wanted, guessed in (
        ("sd1", sd1, {}, "eps", False),
        ("modelspec", sd1, {"modelspec.prediction_type": "v"}, "v", False),
        ("sd2 of v", sd2 | wide, {}, "v", True),
        ("sd2 of eps", sd2 | flat, {}, "eps", True),
        ("said", sd2 | wide, {"modelspec.prediction_type": "epsilon"}, "eps", False),
        ("xl", xl, {}, "eps", False),
        ("xl of v", xl | {"v_pred": one}, {}, "v", False),
        ("xl of zero SNR", xl | {"v_pred": one, "ztsnr": one}, {}, "v", False),
    ):
        with subtests.test(case):
            file = single.write(tmp_path / "mine.safetensors", every, **about)
            with pytest.warns(UserWarning) if guessed else nullcontext():
                found = find(file).model
            assert found.process.parameterization == wanted
            zero = schedules.zero_terminal_snr(schedules.scaled_linear())
            assert (found.process.schedule.alpha[-1] < 1e-3) == ("ztsnr" in every)
            if "ztsnr" in every:
                assert np.allclose(found.process.schedule.alpha[:-1], zero.alpha[:-1])
    with subtests.test("global step"):
        file = single.write(tmp_path / "mine.ckpt", sd2 | wide, global_step=875000)
        with pytest.warns(UserWarning, match="took the weights under 'state_dict'"):
            assert find(file).model.process.parameterization == "eps"
