"""Prompts to conditions against diffusers' pipelines, with small encoders."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_vocabulary
from clip_oracle import ours_of, their_encoder, torch, transformers
from text_models import BIG_G, CLIP_H, CLIP_L

from skipjax.conditioners import ClipText, Tokenizer

diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is not installed: pip install -e .[oracle]"
)
pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
PROMPTS = ["a photo of a Cat, very detailed", "wow! a red fox in the snow"]
NEGATIVE = ["blurry!", ""]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Pipelines without networks, and our conditioners with the same encoders."""
    root = tmp_path_factory.mktemp("pipelines")
    tiny_vocabulary.write(root / "end", tiny_vocabulary.END)
    tiny_vocabulary.write(root / "!", "!")
    theirs = {
        pad: transformers.CLIPTokenizer.from_pretrained(str(root / pad)) for pad in ("end", "!")
    }
    ours = {pad: Tokenizer.read(root / pad) for pad in theirs}
    xl = {"zeros_for_empty": True}
    found = {}
    for name, fields, pads, options in (
        ("sd1", [CLIP_L], ["end"], {}),
        ("sd2", [CLIP_H], ["!"], {}),
        ("xl", [CLIP_L, BIG_G], ["end", "!"], xl),
        ("refiner", [BIG_G], ["!"], {}),
    ):
        encoders = [their_encoder(one) for one in fields]
        parts = [ours_of(encoder) for encoder in encoders]
        conditioner = ClipText(
            tuple(part.params for part in parts),
            tuple(part.network for part in parts),
            tuple(ours[pad] for pad in pads),
            **options,
        )
        found[name] = pipeline(encoders, [theirs[pad] for pad in pads], options), conditioner
    return found


def pipeline(encoders, tokenizers, options):
    """What diffusers encodes prompts with."""
    if isinstance(encoders[-1], transformers.CLIPTextModelWithProjection):
        first = (encoders[0], tokenizers[0]) if len(encoders) > 1 else (None, None)
        return diffusers.StableDiffusionXLPipeline(
            None, first[0], encoders[-1], first[1], tokenizers[-1], None, None,
            force_zeros_for_empty_prompt=bool(options), add_watermarker=False,
        )  # fmt: skip
    return diffusers.StableDiffusionPipeline(
        None, encoders[0], tokenizers[0], None, scheduler(), None, None,
        requires_safety_checker=False,
    )  # fmt: skip


def scheduler():
    return diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)


def encoded(pipe, prompts, negative, clip_skip=None):
    """Their conditions: of the prompts, of what is to be kept away from."""
    known = {
        "negative_prompt": negative,
        "clip_skip": clip_skip,
        "do_classifier_free_guidance": True,
    }
    with torch.inference_mode():
        if isinstance(pipe, diffusers.StableDiffusionXLPipeline):
            text, null, pooled, null_pooled = pipe.encode_prompt(prompts, device="cpu", **known)
            return {"text": text, "pooled": pooled}, {"text": null, "pooled": null_pooled}
        text, null = pipe.encode_prompt(prompts, "cpu", 1, **known)
        return {"text": text}, {"text": null}


def compare(pipe, conditioner, prompts=PROMPTS, negative=None, clip_skip=None):
    theirs = encoded(pipe, prompts, negative, clip_skip)
    conditioner = replace(conditioner, clip_skip=clip_skip)
    condition = conditioner.encode({"prompt": prompts}, None, np.arange(len(prompts)))
    for told, expected in zip(
        (condition, conditioner.null(condition, negative)), theirs, strict=True
    ):
        assert told.keys() == expected.keys()
        for key, value in expected.items():
            value = value.numpy()
            assert told[key].shape == value.shape
            assert np.abs(told[key] - value).max() <= 5e-5 * (np.abs(value).max() or 1), key


@pytest.mark.parametrize("negative", [None, NEGATIVE], ids=["without", "with_negative"])
@pytest.mark.parametrize("name", ["sd1", "sd2", "xl", "refiner"])
def test_conditions_are_diffusers(kinds, name, negative):
    compare(*kinds[name], negative=negative)


@pytest.mark.parametrize("name", ["sd1", "xl"])
def test_clip_skip(kinds, name):
    pipe, conditioner = kinds[name]
    if name == "sd1" and not hasattr(pipe.text_encoder, "text_model"):
        norm = pipe.text_encoder.final_layer_norm  # where it was before transformers 5.6
        pipe.text_encoder.__dict__["text_model"] = SimpleNamespace(final_layer_norm=norm)
    compare(pipe, conditioner, negative=NEGATIVE, clip_skip=1)


@pytest.mark.parametrize("vectors", [1, 3])
def test_textual_inversion(kinds, vectors):
    pipe, conditioner = kinds["sd1"]
    token, table = f"<toy{vectors}>", np.random.default_rng(0).normal(size=(vectors, 32))
    pipe.load_textual_inversion({token: torch.tensor(table, dtype=torch.float32)})
    prompts = [f"a photo of a {token}", f"{token}{token} a fox, {token}"]
    # A pipeline's tokenizer knows every word that was taught to it.
    for taught in dict.fromkeys((1, vectors)):
        known = np.random.default_rng(0).normal(size=(taught, 32))
        conditioner = conditioner.with_embedding(f"<toy{taught}>", [known])
    compare(pipe, conditioner, prompts, negative=[token, ""])
