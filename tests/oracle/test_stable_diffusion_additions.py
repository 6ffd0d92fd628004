"""LoRA and textual inversion against what diffusers draws with them.

The products of a LoRA are added to their weights by hand: diffusers itself leaves them to peft.
"""

import json
import math

import numpy as np
import pytest
from safetensors.numpy import save_file
from stable_diffusion_oracle import agree, folder, opened, torch

import skipjax

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("compiled_in_a_hurry"),
]
RANK, ALPHA, SCALE = 3, 2.0, 0.8
ASKED = {"guidance_scale": 7.5, "negative_prompt": "blurry"}


# XL's files call the network's layers as its authors did; of the tiny one, those with attention.
SGM = {
    "down_blocks_1_attentions_0": "input_blocks_3_1",
    "mid_block_attentions_0": "middle_block_1",
    "up_blocks_0_attentions_0": "output_blocks_0_1",
    "up_blocks_0_attentions_1": "output_blocks_1_1",
}
KOHYA = {"unet": "unet", "text_encoder": "te", "text_encoder_2": "te2"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("additions")
    return {name: folder(name, root / name) for name in ("sd1", "xl")}


def products(theirs, ends):
    """The two factors of each layer that a LoRA changes, by the part and the layer's name in it:
    down [r, in, ...] and up [out, r, ...].

    Args:
        theirs: A pipeline.
        ends: Of which some must be in a layer's name.
    """
    found, rng = {}, np.random.default_rng(3)
    for part in KOHYA:
        module = getattr(theirs, part, None)
        for name, layer in [] if module is None else module.named_modules():
            wanted = any(end in name for end in ends)
            if not wanted or not isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)):
                continue
            out, *inner = layer.weight.shape
            down = rng.normal(size=(RANK, *inner)) / math.prod(inner) ** 0.5
            up = rng.normal(size=(out, RANK, *(1,) * (len(inner) - 1))) / RANK**0.5
            found[part, name] = down.astype(np.float32), up.astype(np.float32)
    return found


def add(theirs, found, scale):
    """Adds scale * up @ down to each weight."""
    for (part, name), (down, up) in found.items():
        weight = getattr(theirs, part).get_submodule(name).weight
        product = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
        with torch.no_grad():
            weight += scale * torch.from_numpy(product).reshape(weight.shape)


def in_files(part, name):
    """The name of a layer as files have it, from before transformers dropped "text_model."."""
    return name if part == "unet" or name.startswith("text_") else f"text_model.{name}"


def as_kohya(found, file):
    """lora_unet_down_blocks_0_..., each with an alpha of its own."""
    arrays, xl = {}, any(part == "text_encoder_2" for part, _ in found)
    for (part, name), (down, up) in found.items():
        layer, whose = in_files(part, name).replace(".", "_"), KOHYA[part]
        if xl and part == "unet":
            (before,) = [old for old in SGM if layer.startswith(old)]
            layer = layer.replace(before, SGM[before])
        key = f"lora_{'te1' if xl and whose == 'te' else whose}_{layer}"
        arrays |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        arrays[f"{key}.alpha"] = np.array(ALPHA, np.float32)
    save_file(arrays, file)


def as_peft(found, file):
    """unet.down_blocks.0...., with one alpha for a part in the header."""
    arrays, header = {}, {}
    for (part, name), (down, up) in found.items():
        key = f"{part}.{in_files(part, name)}"
        arrays |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
        header |= {f"{part}.lora_alpha": ALPHA, f"{part}.r": RANK}
    save_file(arrays, file, {"format": "pt", "lora_adapter_metadata": json.dumps(header)})


@pytest.mark.parametrize(
    "name, write, ends",
    [
        ("sd1", as_kohya, ("attn", "proj", "ff.net", "mlp.fc", "conv1")),
        ("sd1", as_peft, ("attn", "proj", "ff.net", "mlp.fc", "conv1")),
        ("xl", as_kohya, ("attentions", "self_attn", "mlp.fc")),
        ("xl", as_peft, ("attn", "proj_in", "mlp.fc")),
    ],
)
def test_a_lora_is_merged(name, write, ends, folders, tmp_path):
    theirs, file = opened(folders[name]), tmp_path / "style.safetensors"
    found = products(theirs, ends)
    assert len(found) > 40 and {part for part, _ in found} >= {"unet", "text_encoder"}
    write(found, file)
    add(theirs, found, SCALE * ALPHA / RANK)
    agree(theirs, skipjax.load(folders[name], loras={file: SCALE}), **ASKED)


@pytest.mark.parametrize("vectors", [1, 2])
def test_a_learned_word_is_understood(vectors, folders, tmp_path):
    theirs, file = opened(folders["sd1"]), tmp_path / "learned_embeds.safetensors"
    learned = np.random.default_rng(4).normal(size=(vectors, 32)).astype(np.float32)
    save_file({"<toy>": learned[0] if vectors == 1 else learned}, file)
    theirs.load_textual_inversion(str(file), token="<toy>")
    model = skipjax.load(folders["sd1"], embeddings={"<toy>": file})
    agree(theirs, model, prompt=["a <toy> in the snow", "the <toy>, <toy>"], **ASKED)
