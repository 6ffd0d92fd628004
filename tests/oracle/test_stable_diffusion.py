"""Whole pipelines of Stable Diffusion against diffusers' own, from the same noise."""

import json
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from pipelines import PIPELINES, SIDE, SIZE
from stable_diffusion_oracle import PROMPTS, agree, folder, opened, to_torch, torch

import skipjax

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("compiled_in_a_hurry"),
]
NEGATIVE = "blurry (snow)"
SAMPLERS = {
    "ddim": {"_class_name": "DDIMScheduler"},
    "pndm": {},
    "euler": {"_class_name": "EulerDiscreteScheduler"},
    "euler_trailing": {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
    "euler_ancestral": {"_class_name": "EulerAncestralDiscreteScheduler"},
    "dpmpp_2m": {"_class_name": "DPMSolverMultistepScheduler"},
    "dpmpp_2m_karras": {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True},
    "unipc": {"_class_name": "UniPCMultistepScheduler"},
}
ZERO_SNR = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}


class Case(NamedTuple):
    """What a pipeline is asked, in diffusers' words; and what is changed in its scheduler's
    config."""

    pipeline: str
    asked: dict[str, Any]
    scheduler: dict[str, Any] = {}


USUAL = {"guidance_scale": 7.5, "negative_prompt": NEGATIVE}
CASES = {f"sd1, {name}": Case("sd1", USUAL, of) for name, of in SAMPLERS.items()}
CASES |= {
    "sd1, a negative for each": Case("sd1", USUAL | {"negative_prompt": ["cat", ""]}),
    "sd1, no negative": Case("sd1", {"guidance_scale": 3.0}),
    "sd1, no guidance": Case("sd1", {"guidance_scale": 1.0}),
    "sd1, clip skip": Case("sd1", USUAL | {"clip_skip": 1}),
    "sd1, another size": Case("sd1", USUAL | {"height": SIZE, "width": 2 * SIZE}),
    "sd2": Case("sd2", USUAL),
    "sd2, zero SNR": Case("sd2", USUAL | {"guidance_rescale": 0.7}, ZERO_SNR),
    "xl": Case("xl", USUAL),
    "xl, zeros": Case("xl", {"guidance_scale": 5.0}),
    "xl, clip skip": Case("xl", USUAL | {"clip_skip": 1}),
    "xl, sizes": Case(
        "xl",
        USUAL
        | {"original_size": (24, 40), "crops_coords_top_left": (3, 5)}
        | {"target_size": (16, 32)},
    ),
    "refiner": Case("refiner", USUAL | {"aesthetic_score": 7.0}),
    "refiner, no negative": Case("refiner", {"guidance_scale": 5.0}),
    "lcm": Case("lcm", {"guidance_scale": 8.5, "num_inference_steps": 4}),
    "lcm, another scale": Case("lcm", {"guidance_scale": 2.0, "num_inference_steps": 4}),
    "inpainting": Case("inpainting", USUAL),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of pipelines, each written once."""
    root = tmp_path_factory.mktemp("pipelines")
    return cache(lambda name: folder(name, root / name))


@pytest.mark.parametrize("name", CASES)
def test_latents_and_pictures_are_diffusers(name, folders):
    case = CASES[name]
    path = folders(case.pipeline)
    with scheduled(path, PIPELINES[case.pipeline].scheduler | case.scheduler):
        theirs, model = opened(path), skipjax.load(path)
    agree(theirs, model, beside(case), **case.asked)


@contextmanager
def scheduled(path, fields):
    """A pipeline's folder with another scheduler_config.json; model_index.json says its class."""
    files = [path / "model_index.json", path / "scheduler" / "scheduler_config.json"]
    before = [file.read_text() for file in files]
    index = json.loads(before[0]) | {"scheduler": ["diffusers", fields["_class_name"]]}
    for file, content in zip(files, (index, fields), strict=True):
        file.write_text(json.dumps(content))
    yield
    for file, content in zip(files, before, strict=True):
        file.write_text(content)


def beside(case):
    """What a pipeline wants besides words: theirs, and ours."""
    many, rng = len(PROMPTS), np.random.default_rng(2)
    picture = {"image": torch.zeros(many, 3, SIZE, SIZE), "strength": 1.0}  # all of its steps
    if case.pipeline == "refiner":
        return picture, {}
    if case.pipeline == "inpainting":
        mask = rng.integers(0, 2, (many, SIDE, SIDE, 1)).astype(np.float32)
        masked = rng.normal(size=(many, SIDE, SIDE, 4)).astype(np.float32)
        large = mask.repeat(2, axis=1).repeat(2, axis=2)
        known = {"mask_image": to_torch(large), "masked_image_latents": to_torch(masked)}
        return picture | known, {"concat": np.concatenate([mask, masked], axis=-1)}
    return {}, {}
