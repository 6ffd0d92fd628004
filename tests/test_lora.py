"""LoRAs of every kind of file, merged on loading; and what is refused."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pipelines
import pytest
import torch_writer
from safetensors.numpy import save_file

import skipjax
from skipjax.weights import components, converting, diffusers, lora
from skipjax.weights.compvis import names

RANK, RNG = 2, np.random.default_rng(0)
# Of each component some modules, with the shapes of their weights.
Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0"
CONV = "down_blocks.0.resnets.0.conv1"
HALVED = "down_blocks.0.downsamplers.0.conv"
TEXT = "text_model.encoder.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pipelines.write(tmp_path_factory.mktemp("lora") / "sd1")


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    return pipelines.write(tmp_path_factory.mktemp("lora") / "xl", "xl")


def tensors(model):
    """The weights by diffusers' names, with the component before them."""
    return {
        f"{component}.{name}": tensor
        for component, (config, params) in components.networks(model).items()
        for name, tensor in diffusers.tensors(config, params).items()
    }


@pytest.fixture(scope="module")
def plain(folder):
    return tensors(skipjax.load(folder))


def pair(shape, rank=RANK):
    """down and up for a weight of a shape."""
    out, *inner = shape
    up = RNG.normal(size=(out, rank, *[1 for _ in inner[1:]]))
    return RNG.normal(size=(rank, *inner)).astype(np.float32), up.astype(np.float32)


def written(path, pairs, name, ends=("lora_down.weight", "lora_up.weight"), alpha=None, **about):
    """A file of pairs by the names that `name` gives to modules."""
    found = {}
    for module, (down, up) in pairs.items():
        found |= {f"{name(module)}{ends[0]}": down, f"{name(module)}{ends[1]}": up}
        if alpha is not None:
            found[f"{name(module)}.alpha"] = np.array(alpha, np.float32)
    save_file({k: np.ascontiguousarray(v) for k, v in found.items()}, path, metadata=about or None)
    return path


def check(model, plain, pairs, scale):
    """Asserts that the modules of pairs have changed as they say, and nothing else has."""
    changed = tensors(model)
    for key, before in plain.items():
        module = key.removesuffix(".weight")
        wanted = before
        if module in pairs:
            down, up = pairs[module]
            product = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
            wanted = before + scale * product.reshape(before.shape)
            assert np.abs(wanted - before).max() > 0.01
        np.testing.assert_allclose(changed[key], wanted, atol=1e-5, err_msg=key)


def pairs_for(plain, modules):
    return {module: pair(plain[f"{module}.weight"].shape) for module in modules}


def kohya(module):
    component, _, path = module.partition(".")
    before = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}
    return f"{before[component]}_{path.replace('.', '_')}"


def processor(module):
    head, _, tail = module.rpartition("attn1.to_q")
    return f"{head}attn1.processor.to_q_lora{tail}"


def test_every_kind_of_file(folder, plain, tmp_path, subtests):
    modules = [f"unet.{m}" for m in (Q, OUT, CONV, HALVED)] + [f"text_encoder.{TEXT}"]
    pairs = pairs_for(plain, modules)
    peft = json.dumps({"unet.lora_alpha": 6, "text_encoder.lora_alpha": 6, "unet.r": RANK})
    ab = (".lora_A.weight", ".lora_B.weight")
    file = tmp_path / "mine.safetensors"
    down_up = (".lora_down.weight", ".lora_up.weight")
    with subtests.test("kohya"):
        written(file, pairs, kohya, down_up, alpha=1.0)
        check(skipjax.load(folder, loras={file: 0.8}), plain, pairs, 0.8 / RANK)
    with subtests.test("kohya without alpha, as a list"):
        written(file, pairs, kohya, down_up)
        check(skipjax.load(folder, loras=[file]), plain, pairs, 1.0)
    with subtests.test("diffusers with peft, alpha in the header"):
        written(file, pairs, str, ab, lora_adapter_metadata=peft)
        check(skipjax.load(folder, loras={str(file): 0.5}), plain, pairs, 0.5 * 6 / RANK)
    with subtests.test("diffusers before it"):
        written(file, pairs, str, (".lora.down.weight", ".lora.up.weight"))
        check(skipjax.load(folder, loras=[file]), plain, pairs, 1.0)
    with subtests.test("two at once"):
        other = written(tmp_path / "other.safetensors", pairs, kohya, down_up, alpha=RANK)
        check(skipjax.load(folder, loras={file: 0.5, other: -0.25}), plain, pairs, 0.25)
    some = {module: pairs[module] for module in modules[:1]}
    with subtests.test("processors"):
        written(file, some, processor, (".down.weight", ".up.weight"))
        check(skipjax.load(folder, loras=[file]), plain, some, 1.0)
    with subtests.test("a folder of peft's"):
        place = tmp_path / "peft"
        place.mkdir()
        bare = {module.removeprefix("unet."): two for module, two in some.items()}
        written(place / "adapter_model.safetensors", bare, lambda m: f"base_model.model.{m}", ab)
        config = {"lora_alpha": 8, "r": RANK, "use_rslora": True}
        (place / "adapter_config.json").write_text(json.dumps(config))
        check(skipjax.load(folder, loras=[place]), plain, some, 8 / RANK**0.5)
    with subtests.test("a .pt"):
        down, up = some[modules[0]]
        key = kohya(modules[0])
        content = {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        path = tmp_path / "mine.pt"
        torch_writer.save(path, {k: torch_writer.tensor(v) for k, v in content.items()})
        check(skipjax.load(folder, loras=[path]), plain, some, 1.0)


@pytest.mark.slow
def test_xl_by_its_authors_names(xl, tmp_path):
    plain = tensors(skipjax.load(xl))
    unet = [key.removeprefix("unet.") for key in plain if key.startswith("unet.")]
    layers, attends = names.layers(unet), names.attending(unet)

    def name(module):
        component, _, path = module.partition(".")
        if component == "unet":
            return f"lora_unet_{names.unet(path, layers, attends).replace('.', '_')}"
        before = "lora_te1" if component == "text_encoder" else "lora_te2"
        return f"{before}_{path.replace('.', '_')}"

    deep = "mid_block.attentions.0.transformer_blocks.1.ff.net.0.proj"
    up = "up_blocks.0.upsamplers.0.conv"
    modules = [f"unet.{deep}", f"unet.{up}", f"unet.{CONV}"]
    modules += [f"text_encoder.{TEXT}", f"text_encoder_2.{TEXT}"]
    pairs = pairs_for(plain, modules)
    ends = (".lora_down.weight", ".lora_up.weight")
    file = written(tmp_path / "xl.safetensors", pairs, name, ends, alpha=1)
    check(skipjax.load(xl, loras={file: 1.5}), plain, pairs, 1.5 / RANK)


@pytest.mark.slow
def test_merged_before_weights_are_rounded_and_into_our_own_folders(folder, plain, tmp_path):
    pairs = {f"unet.{Q}": pair(plain[f"unet.{Q}.weight"].shape)}
    ends = (".lora_down.weight", ".lora_up.weight")
    file = written(tmp_path / "mine.safetensors", pairs, kohya, ends)
    half = tensors(skipjax.load(folder, loras=[file], dtype="bfloat16"))
    whole = tensors(skipjax.load(folder, loras=[file]))
    for key, tensor in whole.items():
        np.testing.assert_array_equal(half[key], tensor.astype(jnp.bfloat16))
    converting.convert(str(folder), tmp_path / "ours")
    ours = tensors(skipjax.load(tmp_path / "ours", loras=[file]))
    for key, tensor in whole.items():
        np.testing.assert_array_equal(ours[key], tensor)


def test_what_is_refused(folder, plain, tmp_path, subtests):
    shape = plain[f"unet.{Q}.weight"].shape
    down, up = pair(shape)
    key, file = kohya(f"unet.{Q}"), tmp_path / "mine.safetensors"
    good = {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
    lost = f"{kohya('unet.lost')}.lora_down.weight"
    wide, _ = pair((shape[0], 2 * shape[1]))
    for case, (content, words) in {
        "another network": (
            good | {lost: down, lost.replace("down", "up"): up},
            "1 of its 2 modules are not in unet, vae, text_encoder: lora_unet_lost. It is made",
        ),
        "another width": (
            good | {f"{key}.lora_down.weight": wide},
            r"is \(2, 64\), for .*attn1.to_q.weight of \(32, 32\): it is made for another network",
        ),
        "half": ({f"{key}.lora_down.weight": down}, r"without its other matrix \(up\)"),
        "LoHa": ({f"{key}.hada_w1_a": down}, "it is of LoHa, which is not merged"),
        "LoKr": ({f"{key}.lokr_w1": down}, "it is of LoKr"),
        "DoRA": (good | {f"{key}.dora_scale": up}, "it is of DoRA"),
        "Tucker": (good | {f"{key}.lora_mid.weight": up}, "Tucker"),
        "no LoRA": ({"conv_in.weight": down}, "it holds conv_in.weight, which is of no LoRA"),
        "ranks": (
            good | {f"{key}.lora_up.weight": up[:, :1]},
            r"must be \[r, in\] and \[out, r\]",
        ),
    }.items():
        with subtests.test(case):
            save_file({k: np.ascontiguousarray(v) for k, v in content.items()}, file)
            with pytest.raises(ValueError, match=words) as caught:
                skipjax.load(folder, loras=[file])
            assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)
    with subtests.test("what is no file"):
        with pytest.raises(ValueError, match="nowhere.safetensors is no file of a LoRA"):
            skipjax.load(folder, loras=["nowhere.safetensors"])
        with pytest.raises(ValueError, match=r"it must be a list of files, or \{file: 0.8\}"):
            skipjax.load(folder, loras="mine.safetensors")
        with pytest.raises(ValueError, match="the scale of mine is nan: it must be a finite"):
            skipjax.load(folder, loras={"mine": float("nan")})
    with subtests.test("of a network that has no names in diffusers"):
        save_file(good, file)
        with pytest.raises(ValueError, match="names of UNetConfig in diffusers are not known"):
            skipjax.load("emoji32", loras=[file])


def test_what_commands_say(tmp_path):
    assert lora.parse("a.safetensors") == ("a.safetensors", 1.0)
    assert lora.parse("C:/a.safetensors:0.8") == ("C:/a.safetensors", 0.8)
    odd = tmp_path / "a:b"
    Path(odd).touch()
    assert lora.parse(str(odd)) == (str(odd), 1.0)
    with pytest.raises(ValueError, match="after the colon there must be a scale, such as a:0.8"):
        lora.parse("a:b")
