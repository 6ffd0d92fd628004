"""Pipelines of several networks: read from folders, kept as ours, written as diffusers'."""

import json
import shutil

import jax
import numpy as np
import pipelines
import pytest
import tiny_vocabulary
import torch_writer
import toy_diffusers as toy
from safetensors.numpy import load_file, save_file

import skipjax
from skipjax import cli, codecs, conditioners, sharding
from skipjax.codecs import AutoencoderKL, Latents
from skipjax.conditioners import ClipText, EmbeddedGuidance, Given, MicroConditioning, TextEncoder
from skipjax.weights import cards, components, converting, diffusers, loading
from skipjax.weights.diffusers import folder as folders_of_diffusers

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders of pipelines, made once."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = pipelines.write(tmp_path_factory.mktemp("pipelines") / name, name)
        return made[name]

    return folder


@pytest.fixture
def sd1(place, tmp_path):
    """A copy of one, to be changed."""
    return shutil.copytree(place("sd1"), tmp_path / "fox")


def same(one, other):
    """Asserts that two models are equal, weights bit by bit, but for their names."""
    one, other = one.replace(name=""), other.replace(name="")
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def every(*quick):
    """All kinds of pipelines, some of them in the quick tests."""
    return [
        name if name in quick else pytest.param(name, marks=pytest.mark.slow)
        for name in pipelines.PIPELINES
    ]


KINDS = {
    "sd1": [ClipText],
    "sd2": [ClipText],
    "xl": [ClipText, MicroConditioning],
    "refiner": [ClipText, MicroConditioning],
    "lcm": [ClipText, EmbeddedGuidance],
    "inpainting": [ClipText, Given],
}
GUIDANCE = {"xl": 5.0, "refiner": 5.0, "lcm": None}


@pytest.mark.parametrize("name", every("sd1"))
def test_kept_as_ours_and_written_as_diffusers(place, name, tmp_path, capsys):
    folder = place(name)
    model = skipjax.load(folder)
    assert list(map(type, conditioners.parts(model.conditioner))) == KINDS[name]
    assert isinstance(model.codec, AutoencoderKL) and model.process.bounds is None
    assert model.guidance == GUIDANCE.get(name, 7.5)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    cli.main(["convert", str(folder), str(ours)])
    number = sum(components.parameters(model).values())
    assert f"{number:,} parameters, float32" in capsys.readouterr().out
    same(skipjax.load(ours), model)
    card = cards.read(ours / "card.json")
    assert sum("vocab.json" in file for file in card["files"]) == len(
        conditioners.part(model.conditioner, ClipText).networks
    )
    cli.main(["convert", str(ours), str(theirs), "--to", "diffusers"])
    back = skipjax.load(theirs)
    same(back, model)
    index, wanted = (json.loads((f / "model_index.json").read_text()) for f in (theirs, folder))
    assert index["_class_name"] == wanted["_class_name"]
    for component in wanted:
        assert index.get(component) == wanted[component]
    for path in folder.rglob("*.safetensors"):
        before, after = load_file(path), load_file(theirs / path.relative_to(folder))
        before = {key.removeprefix("text_model."): array for key, array in before.items()}
        after = {key.removeprefix("text_model."): array for key, array in after.items()}
        assert before.keys() == after.keys()
        for key, array in before.items():
            np.testing.assert_array_equal(array, after[key])


def test_networks_alone(place):
    folder = place("sd1")
    whole = skipjax.load(folder)
    unet, vae, text = (skipjax.load(folder / n) for n in ("unet", "vae", "text_encoder"))
    assert unet.name == "sd1/unet" and isinstance(unet.conditioner, Given)
    assert unet.scheduler == whole.scheduler and isinstance(unet.codec, Latents)
    assert isinstance(vae, codecs.AutoencoderKL) and isinstance(text, TextEncoder)
    wanted = whole.params, whole.codec.params, whole.conditioner.params[0]
    for part, params in zip((unet, vae, text), wanted, strict=True):
        jax.tree.map(np.testing.assert_array_equal, part.params, params)
    config = vae.network
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    told = skipjax.load(file, config=config)
    jax.tree.map(np.testing.assert_array_equal, told, vae)


def test_what_is_missing_is_said(sd1, subtests, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(sd1.parent / "none"))

    def gone(name):
        shutil.rmtree(sd1 / name)

    with subtests.test("a tokenizer"):
        gone("tokenizer")
        with pytest.warns(UserWarning) as said:
            model = skipjax.load(sd1)
        assert len(said) == 1 and "prompts need load(..., tokenizer" in str(said[0].message)
        assert model.conditioner.tokenizers == ()
        vocabulary = tiny_vocabulary.write(sd1.parent / "words")
        assert skipjax.load(sd1, tokenizer=vocabulary).conditioner.tokenizers
        shutil.copytree(vocabulary, sd1 / "tokenizer")
    with subtests.test("weights of a text encoder"):
        weights = sd1 / "text_encoder" / "model.safetensors"
        half = weights.with_name("model.fp16.safetensors")
        weights.rename(half)
        words = (
            r"text_encoder/model.safetensors or .*pytorch_model.bin; there is a variant: .*fp16"
        )
        with pytest.raises(ValueError, match=words):
            skipjax.load(sd1)
        tensors = {n: torch_writer.tensor(t) for n, t in load_file(half).items()}
        torch_writer.save(half.with_name("pytorch_model.bin"), tensors)
        skipjax.load(sd1)
        with pytest.warns(UserWarning, match="no variant 'fp16': took unet/.*, vae/"):
            skipjax.load(sd1, variant="fp16")
    with subtests.test("a text encoder and an autoencoder"):
        gone("text_encoder")
        gone("vae")
        with pytest.warns(UserWarning) as said:
            model = skipjax.load(sd1)
        assert [str(one.message).split(": ", 1)[1] for one in said] == [
            "vae is missing: samples are latents",
            "text_encoder is missing: text is given as arrays, text=",
        ]
        assert isinstance(model.conditioner, Given) and isinstance(model.codec, Latents)
    with subtests.test("parts of other kinds"):
        index = json.loads((sd1 / "model_index.json").read_text())
        index["text_encoder"] = ["transformers", "T5EncoderModel"]
        pipelines.put(sd1 / "model_index.json", index)
        pipelines.put(sd1 / "text_encoder" / "config.json", {"architectures": ["T5EncoderModel"]})
        with pytest.warns(UserWarning) as said:
            model = skipjax.load(sd1)
        assert any("is a T5EncoderModel, which is not read" in str(one.message) for one in said)
        assert isinstance(model.conditioner, Given)


def test_damage_is_named_by_its_part(sd1):
    file = sd1 / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors.pop("decoder.conv_in.bias")
    save_file(tensors, file)
    with pytest.raises(ValueError, match="fox/vae: the state dict does not fit") as caught:
        skipjax.load(sd1)
    assert "missing: decoder.conv_in.bias" in str(caught.value)


def test_all_parts_go_where_they_are_told(place):
    mesh = sharding.mesh(data=4, model=2)
    model = skipjax.load(place("sd1"), sharding=mesh, dtype="bfloat16")
    for leaf in jax.tree.leaves(model):
        assert leaf.sharding == sharding.split(mesh, leaf.shape) and leaf.dtype == "bfloat16"


def test_info_lists_the_parts(place, capsys, tmp_path):
    folder = place("xl")
    cli.main(["info", str(folder)])
    said = capsys.readouterr().out
    rows = {line.split("  ")[0]: line for line in said.splitlines()}
    assert "unet2d_condition of 8 x 8 x 4, 1,376,100 parameters" in rows["network"]
    assert "autoencoder_kl, 2 pixels along a side of a latent" in rows["vae"]
    assert "parameters" in rows["text_encoder"] and "parameters" in rows["text_encoder_2"]
    assert "prompt, original_size" in rows["told"] and "euler, 50 steps" in rows["sampler"]
    assert "classes" not in rows
    cli.main(["info", str(folder), "--json"])
    card = json.loads(capsys.readouterr().out)
    assert card["networks"]["text_encoder_2"] > 0 and card["guidance"] == 5.0
    for part, words in (("vae", "autoencoder_kl"), ("text_encoder", "text_encoder")):
        cli.main(["info", str(folder / part)])
        assert f"{words}, " in capsys.readouterr().out


@pytest.mark.slow
def test_descriptions_need_no_weights(place, tmp_path):
    folder = place("xl")
    for path in folder.rglob("*"):
        if path.suffix == ".json" and "tokenizer" not in str(path.parent):
            copy = tmp_path / "xl" / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    described = folders_of_diffusers.describe(tmp_path / "xl")
    assert components.parameters(described) == components.parameters(skipjax.load(folder))
    card = loading.describe(folder)
    model = cards.model(card)
    assert model.conditioner.gives == ("text", "pooled", "time_ids")
    assert loading.card_of(model) == card
    assert loading.sha256(str(folder)) == loading.sha256(str(folder))


@pytest.mark.slow
def test_fields_of_configs_that_are_wrong_or_unknown(sd1, subtests):
    for component, field, value, words in (
        ("vae", "latent_channels", "4", "vae.*latent_channels is '4'|latent_channels is '4'"),
        ("text_encoder", "hidden_act", "swish", "hidden_act"),
        ("unet", "cross_attention_dim", -1, "cross_attention_dim|UNet2DConditionModel"),
        ("vae", "block_out_channels", [], "AutoencoderKL"),
    ):
        with subtests.test(component, field):
            path = sd1 / component / "config.json"
            before = path.read_text()
            pipelines.put(path, json.loads(before) | {field: value})
            with pytest.raises(ValueError, match=words) as caught:
                skipjax.load(sd1)
            assert "\n" not in str(caught.value)
            path.write_text(before)
    for component in ("unet", "vae"):  # transformers writes all that any network may have
        with subtests.test(component):
            path = sd1 / component / "config.json"
            pipelines.put(path, json.loads(path.read_text()) | {"fresh_option": 3})
            with pytest.warns(UserWarning, match="fresh_option"):
                skipjax.load(sd1)
            said = json.loads(path.read_text())
            said.pop("fresh_option")
            pipelines.put(path, said)


def test_a_network_with_the_sampler_of_distilled_ones_is_taken_for_one(sd1):
    file = sd1 / "scheduler" / "scheduler_config.json"
    euler = json.loads(file.read_text()) | {"_class_name": "EulerDiscreteScheduler"}
    pipelines.put(file, euler | {"timestep_spacing": "trailing"})
    with pytest.warns(UserWarning, match="fox is taken for one that was distilled.* 4 steps"):
        turbo = diffusers.describe(sd1)
    assert (turbo.guidance, turbo.scheduler.steps) == (1.0, 4)
    # One of zero terminal SNR has trailing times, too.
    zero = {"timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    pipelines.put(file, euler | zero | {"rescale_betas_zero_snr": True})
    plain = diffusers.describe(sd1)
    assert (plain.guidance, plain.scheduler.steps) == (7.5, 50)


@pytest.mark.slow
def test_what_cannot_be_written_as_diffusers_is_refused(place, tmp_path):
    model = skipjax.load(place("sd1"))
    with pytest.raises(ValueError, match="names of UNetConfig in diffusers are not known"):
        converting.convert("emoji32", tmp_path / "out", to="diffusers")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="the unet has no weights: load them first"):
        diffusers.save(model.replace(params=None), tmp_path / "out")
    with pytest.raises(ValueError, match="is no pipeline: give what has a network"):
        diffusers.save(model.codec, tmp_path / "other")


def test_the_autoencoder_of_networks_of_classes_is_read_too(tmp_path):
    folder = toy.pipeline(
        tmp_path / "cats",
        toy.ToyConfig(in_channels=4, num_class_embeds=3),
        network="transformer",
        vae=["diffusers", "AutoencoderKL"],
    )
    pipelines.component(folder / "vae", "AutoencoderKL", pipelines.VAE)
    model = skipjax.load(folder)
    assert isinstance(model.codec, AutoencoderKL) and model.codec.factor == 2
    assert model.process.bounds is None and model.labels.classes == 3
    assert skipjax.sample(model, KEY, num=1, label=1, steps=2).shape == (1, 8, 8, 3)
