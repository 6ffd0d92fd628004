"""diffusers' own pipelines of Stable Diffusion, tiny, with random weights, and ours beside them.

Theirs are rounded to whole numbers of 255, ours cut off to them: pictures may differ by one.
Random networks are no denoisers: the last layer of each U-Net is scaled by 0.3, without which 20
steps multiply latents, and the rounding in them, by a thousand.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_vocabulary
from pipelines import FACTOR, PIPELINES, SIZE, Pipeline

import skipjax
from skipjax import generation
from skipjax.config import resolve
from skipjax.denoisers import Point
from skipjax.sampling import integrate

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e .[oracle]")
diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is not installed: pip install -e .[oracle]"
)
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install -e .[oracle]"
)

diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()

CALM = 0.3
PROMPTS, STEPS = ["a fox in the snow", "Wow! the cat, blurr 42"], 6
LATENTS = 1e-4  # though without any training they come to 60, where 1 is usual
# What diffusers' arguments are called here.
OURS = {
    "negative_prompt": "negative",
    "guidance_scale": "guidance",
    "crops_coords_top_left": "crop",
    "num_inference_steps": "steps",
}
OPTIONS = set(skipjax.SampleConfig.__dataclass_fields__)


def folder(name: str, path: Path) -> Path:
    """The folder of a pipeline of `PIPELINES`, as `save_pretrained` writes it; the tokenizers are
    vocab.json and merges.txt, as in all released ones.
    """
    told = PIPELINES[name]
    with quiet():
        built(told, path.parent / f"{path.name}_tokenizers").save_pretrained(path)
    for i, pad in enumerate(told.pads, 1):
        place = path / ("tokenizer" if i == 1 else f"tokenizer_{i}")
        if place.is_dir():
            for file in place.iterdir():
                file.unlink()
            tiny_vocabulary.write(place, pad)
    return path


def built(told: Pipeline, scratch: Path) -> Any:
    """A pipeline, with its tokenizers written to a folder."""
    parts: dict[str, Any] = {
        "unet": filled(diffusers.UNet2DConditionModel(**told.unet), 1),
        "vae": filled(diffusers.AutoencoderKL(**told.vae), 2),
        "scheduler": scheduler(told.scheduler),
    }
    parts["unet"].conv_out.weight.data.mul_(CALM)
    xl = "XL" in told.cls
    for i, fields in enumerate(told.text, 1):
        end = "" if i == 1 else f"_{i}"
        if fields is None:
            if xl:
                parts |= {f"text_encoder{end}": None, f"tokenizer{end}": None}
            continue
        cls = transformers.CLIPTextModelWithProjection if i == 2 else transformers.CLIPTextModel
        config = transformers.CLIPTextConfig(**fields)
        parts[f"text_encoder{end}"] = filled(cls(config), 2 + i)
        place = tiny_vocabulary.write(scratch / str(i), told.pads[i - 1])
        parts[f"tokenizer{end}"] = transformers.CLIPTokenizer.from_pretrained(place)
    if not xl:
        parts |= {"safety_checker": None, "feature_extractor": None}
        parts["requires_safety_checker"] = False
    return getattr(diffusers, told.cls)(**parts, **told.flags)


def scheduler(fields: dict[str, Any]) -> Any:
    """A scheduler of scheduler_config.json's content."""
    return getattr(diffusers, fields["_class_name"]).from_config(dict(fields))


def filled(network: Any, seed: int) -> Any:
    """A network with random weights such that every layer matters."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, param in network.named_parameters():
            value = torch.randn(param.shape, generator=random)
            if "embedding.weight" in name:
                value *= 0.5
            elif param.ndim > 1:
                value /= param[0].numel() ** 0.5
            else:
                value = 0.2 * value + (1.0 if name.endswith("weight") else 0.0)
            param.copy_(value)
    return network.eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Without what they themselves call deprecated."""
    with warnings.catch_warnings(action="ignore"):
        yield


def opened(path: Path, cls: str | None = None) -> Any:
    """A folder's pipeline, as they load it."""
    with quiet():
        name = cls or json.loads((path / "model_index.json").read_text())["_class_name"]
        pipeline = getattr(diffusers, name).from_pretrained(path)
    pipeline.set_progress_bar_config(disable=True)
    encoder = getattr(pipeline, "text_encoder", None)
    # Where clip_skip looks for the final norm; transformers >= 5.6 has no such module (#14124).
    if encoder is not None and not hasattr(encoder, "text_model"):
        object.__setattr__(encoder, "text_model", encoder)
    return pipeline


def agree(theirs: Any, model: Any, beside: tuple[dict, dict] = ({}, {}), **asked: Any) -> None:
    """Asserts that both draw the same latents and pictures of the same noise.

    Args:
        theirs: What `opened` returned.
        model: What `skipjax.load` returned.
        beside: What theirs is called with besides, and what ours is told.
        **asked: What both are asked, in diffusers' words.
    """
    asked = {"prompt": PROMPTS, "num_inference_steps": STEPS} | asked
    height, width = asked.get("height", SIZE), asked.get("width", SIZE)
    shape = len(asked["prompt"]), height // FACTOR, width // FACTOR, 4
    start, *noises = np.random.default_rng(1).normal(size=(1 + 2 * STEPS, *shape))
    z, pictures = drawn(theirs, start, noises, **asked | beside[0])
    said = {OURS.get(word, word): value for word, value in asked.items()}
    if "height" in said:
        said["size"] = said.pop("height"), said.pop("width")
    ours, decoded = our_own(model, start, noises, **said | beside[1])
    assert z.std() > 0.1 and pictures.std() > 0.1
    np.testing.assert_allclose(ours, z, rtol=0, atol=LATENTS)
    rounded = np.round(255 * np.clip(pictures / 2 + 0.5, 0, 1)).astype(int)
    assert np.abs(skipjax.to_uint8(decoded).astype(int) - rounded).max() <= 1


def drawn(theirs: Any, start: Any, noises: Any, **asked: Any) -> tuple[np.ndarray, np.ndarray]:
    """Latents and pictures that a pipeline makes of the noise it starts from, [B, h, w, C], and of
    that of each step, [N, B, h, w, C]; both channels last.
    """
    steps, module = iter(noises), type(theirs.scheduler).__module__
    if "Img2Img" in type(theirs).__name__:  # to which latents come as they are at the first step
        theirs.scheduler.set_timesteps(asked["num_inference_steps"])
        start = start * float(theirs.scheduler.init_noise_sigma)
    if isinstance(asked.get("negative_prompt"), str):
        asked["negative_prompt"] = [asked["negative_prompt"]] * len(start)
    given = {"latents": to_torch(start), "output_type": "latent"} | asked
    with quiet(), pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        noise = lambda *_, **__: to_torch(next(steps))  # noqa: E731
        patch.setattr(f"{module}.randn_tensor", noise, raising=False)
        z = theirs(**given).images
        pictures = theirs.vae.decode(z / theirs.vae.config.scaling_factor).sample
    return from_torch(z), from_torch(pictures)


def our_own(model: Any, start: Any, noises: Any, **asked: Any) -> tuple[np.ndarray, np.ndarray]:
    """The same of ours."""
    options = {word: asked.pop(word) for word in [*asked] if word in OPTIONS}
    sampler = resolve(model, skipjax.SampleConfig(**options))
    told = sampler.condition(asked, jax.random.key(0), np.arange(len(start)))
    plan = sampler.plan
    std = plan.prior_std
    if std is None:
        std = model.process.prior_std(Point(plan.t[0], plan.alpha[0], plan.sigma[0]))
    x, noise = (jnp.asarray(np.asarray(z), jnp.float32) for z in (start, noises[: plan.nfe]))
    plan = plan.replace(prior_std=None)
    x = jnp.float32(std) * x
    core = sampler.model.core
    z = _walk(core, plan, x, noise, *told, sampler.guidance, sampler.transform)
    return np.asarray(z), np.asarray(skipjax.decode(sampler.model, z))


@jax.jit
def _walk(model, plan, x, noise, condition, null, guidance, transform):
    options = {"null": null, "guidance": guidance, "transform": transform}
    denoise = generation.denoiser(model, condition, **options)
    return integrate(plan, denoise, x, jax.random.split(jax.random.key(0), len(x)), noise=noise)


def to_torch(x: Any) -> Any:
    """Channels first, float32."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1), np.float32))


def from_torch(x: Any) -> np.ndarray:
    """Channels last."""
    return np.moveaxis(x.numpy(), 1, -1)
