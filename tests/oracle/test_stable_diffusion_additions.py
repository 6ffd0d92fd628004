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

pytestmark = pytest.mark.filterwarnings("ignore")
RANK, ALPHA, SCALE = 3, 2.0, 0.8
ASKED = {"guidance_scale": 7.5, "negative_prompt": "blurry"}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return folder("sd1", tmp_path_factory.mktemp("additions") / "sd1")


def products(pipeline, rng):
    """Of each layer of the network and of the text encoder that a LoRA changes, its two factors
    by (part, name of the module): down [r, in, ...] and up [out, r, ...].
    """
    found = {}
    for part in ("unet", "text_encoder"):
        for name, module in getattr(pipeline, part).named_modules():
            wanted = any(end in name for end in ("attn", "proj", "ff.net", "mlp.fc", "conv1"))
            if not wanted or not isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                continue
            out, *inner = module.weight.shape
            ends = (1,) * (len(inner) - 1)
            down = rng.normal(size=(RANK, *inner)) / math.prod(inner) ** 0.5
            up = rng.normal(size=(out, RANK, *ends)) / RANK**0.5
            found[part, name] = down.astype(np.float32), up.astype(np.float32)
    return found


def add(pipeline, found, scale):
    """Adds scale * up @ down to each weight."""
    for (part, name), (down, up) in found.items():
        weight = getattr(pipeline, part).get_submodule(name).weight
        product = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
        with torch.no_grad():
            weight += scale * torch.from_numpy(product).reshape(weight.shape)


def as_kohya(found, file):
    """lora_unet_down_blocks_0_..., each with an alpha of its own."""
    arrays = {}
    for (part, name), (down, up) in found.items():
        # The names in files are those from before transformers dropped "text_model.".
        full = name if part == "unet" else f"text_model.{name}"
        key = f"lora_{'unet' if part == 'unet' else 'te'}_{full.replace('.', '_')}"
        arrays |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        arrays[f"{key}.alpha"] = np.array(ALPHA, np.float32)
    save_file(arrays, file)


def as_peft(found, file):
    """unet.down_blocks.0...., with one alpha for a part in the header."""
    arrays = {}
    for (part, name), (down, up) in found.items():
        full = name if part == "unet" else f"text_model.{name}"
        arrays[f"{part}.{full}.lora_A.weight"] = down
        arrays[f"{part}.{full}.lora_B.weight"] = up
    alphas = {f"{part}.lora_alpha": ALPHA for part in ("unet", "text_encoder")}
    ranks = {f"{part}.r": RANK for part in ("unet", "text_encoder")}
    save_file(arrays, file, {"format": "pt", "lora_adapter_metadata": json.dumps(alphas | ranks)})


@pytest.mark.parametrize("write", [as_kohya, as_peft])
def test_a_lora_is_merged(write, path, tmp_path):
    theirs, rng = opened(path), np.random.default_rng(3)
    found, file = products(theirs, rng), tmp_path / "style.safetensors"
    assert len(found) > 40
    write(found, file)
    add(theirs, found, SCALE * ALPHA / RANK)
    agree(theirs, skipjax.load(path, loras={file: SCALE}), **ASKED)


@pytest.mark.parametrize("vectors", [1, 2])
def test_a_learned_word_is_understood(vectors, path, tmp_path):
    theirs, file = opened(path), tmp_path / "learned_embeds.safetensors"
    learned = np.random.default_rng(4).normal(size=(vectors, 32)).astype(np.float32)
    save_file({"<toy>": learned[0] if vectors == 1 else learned}, file)
    theirs.load_textual_inversion(str(file), token="<toy>")
    model = skipjax.load(path, embeddings={"<toy>": file})
    agree(theirs, model, prompt=["a <toy> in the snow", "the <toy>, <toy>"], **ASKED)
