"""DiT and SiT against Facebook's network as the facts have it, and diffusers' own."""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dit_reference import close
from dit_torch import DiT, at_random, torch

import skipjax
from skipjax.generation import denoiser
from skipjax.guidance import ClassifierFree
from skipjax.models import DiTConfig
from skipjax.process import Point
from skipjax.weights import dit
from skipjax.weights.readers import state_dict

diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is not installed: pip install -e .[oracle]"
)
SMALL = {"hidden_size": 48, "depth": 3, "num_heads": 4, "num_classes": 11}
FACEBOOK = {
    "DiT": DiTConfig(16, **SMALL),
    "DiT of large squares": DiTConfig(16, **SMALL, patch_size=4),
    "SiT": DiTConfig(16, **SMALL, sigma="dropped"),
    "SiT of train.py": DiTConfig(16, **SMALL, sigma="none"),
    "oblong": DiTConfig((8, 16), **SMALL),
}
TINY = {
    "num_attention_heads": 3,
    "attention_head_dim": 16,
    "num_layers": 3,
    "sample_size": 16,
    "num_embeds_ada_norm": 10,
    "out_channels": 8,
}
DIFFUSERS = {
    "as released": {},
    "without a variance": {"out_channels": None},
    "large squares": {"patch_size": 4},
    "other options": {"norm_eps": 1e-3, "activation_fn": "gelu", "attention_bias": False},
}


def inputs(shape, times, classes=11):
    """x [B, H, W, C], t [B], y [B]."""
    random = np.random.default_rng(2)
    x = random.normal(size=(len(times), *shape)).astype(np.float32)
    return x, np.array(times, np.float32), random.integers(classes, size=len(times))


def to_torch(x, t, y):
    return torch.tensor(np.moveaxis(x, -1, 1)), torch.tensor(t), torch.tensor(y)


def ours(model, x, t, y):
    apply = jax.jit(
        lambda params, *args: model.network.apply(params, *args[:2], {"label": args[2]})
    )
    return np.asarray(apply(model.params, x, t, y))


def nhwc(x):
    return np.moveaxis(x.numpy(), 1, -1)


@pytest.mark.parametrize("kind", FACEBOOK)
def test_facebooks_network_in_a_file_of_train_py(kind, tmp_path):
    config = FACEBOOK[kind]
    network, path = at_random(DiT(config)), tmp_path / "0001000.pt"
    other = {name: 0 * value for name, value in network.state_dict().items()}
    args = argparse.Namespace(model="DiT-S/2", image_size=128, results_dir=tmp_path)
    torch.save({"model": other, "ema": network.state_dict(), "opt": {}, "args": args}, path)
    with pytest.warns(UserWarning, match="took the weights under 'ema'"):
        model = skipjax.load(path, config=config)
    times = [0.0, 0.3, 0.999] if "SiT" in kind else [0, 417.5, 999]
    told = inputs(config.shape, times)
    with torch.inference_mode():
        close(ours(model, *told), nhwc(network(*to_torch(*told))))


@pytest.mark.parametrize("kind", ["DiT", "SiT"])
def test_guidance_is_that_of_forward_with_cfg(kind):
    config, t = FACEBOOK[kind], 399
    network = at_random(DiT(config))
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    model = dit.model(config, kind).replace(params=dit.to_params(state, config))
    told = 0.6 if kind == "SiT" else float(t)
    x, time, y = inputs(config.shape, [told] * 2, 10)
    point = Point(jnp.float32(t), *map(jnp.float32, model.schedule.at(t)))
    found = denoiser(model, {"label": jnp.asarray(y)}, guidance=ClassifierFree(4.0))(x, point)
    twice = to_torch(np.tile(x, (2, 1, 1, 1)), np.tile(time, 2), np.append(y, [10, 10]))
    with torch.inference_mode():
        theirs = nhwc(network.with_cfg(*twice, 4.0))[:2]
    if kind == "SiT":
        close(found.x_0 - found.eps, theirs)
    else:
        close(np.concatenate([found.eps, found.log_variance], axis=-1), theirs)


def saved(network, folder):
    """A model from what `save_pretrained` wrote."""
    network.save_pretrained(folder)
    config = dit.config_of(json.loads((folder / "config.json").read_text()))
    state = state_dict.read(folder / "diffusion_pytorch_model.safetensors")
    return dit.model(config, "diffusers").replace(params=dit.to_params(state, config))


@pytest.mark.parametrize("kind", DIFFUSERS)
def test_diffusers_network(kind, tmp_path):
    network = at_random(diffusers.DiTTransformer2DModel(**TINY | DIFFUSERS[kind]))
    model = saved(network, tmp_path)
    for side in (16, 24):  # places are stretched
        x, t, y = inputs((side, side, 4), [0, 417, 999])
        with torch.inference_mode():
            x_, t_, y_ = to_torch(x, t, y)
            theirs = network(x_, timestep=t_.long(), class_labels=y_).sample
        close(ours(model, x, t, y), nhwc(theirs))


def test_the_loop_of_diffusers_pipeline_guides_every_channel(tmp_path):
    network = at_random(diffusers.DiTTransformer2DModel(**TINY))
    model, steps = saved(network, tmp_path), 5
    x, _, y = inputs((16, 16, 4), [0, 0], 10)
    plan = skipjax.plans.ddim(model.schedule, skipjax.grids.leading(1000, steps))
    condition, key = {"label": jnp.asarray(y)}, jax.random.key(0)
    found = skipjax.generate(
        model, plan, key, jnp.arange(2), condition, guidance=ClassifierFree(4.0), start=(x, 0)
    )
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(steps)
    latents, labels = torch.tensor(np.moveaxis(x, -1, 1)), torch.tensor([*y, 10, 10])
    with torch.inference_mode():
        for t in scheduler.timesteps:
            twice = torch.cat([latents, latents])
            out = network(twice, timestep=t.expand(4), class_labels=labels).sample[:, :4]
            wanted, null = out.chunk(2)
            latents = scheduler.step(null + 4.0 * (wanted - null), t, latents).prev_sample
    close(found, nhwc(latents), 1e-4)


@pytest.mark.slow
def test_xl_2_at_full_size(tmp_path, capsys):
    """675 million weights: 3 GB on disk, and 12 in memory."""
    options = {"out_channels": 8}
    network = at_random(diffusers.DiTTransformer2DModel(**options))
    model = saved(network, tmp_path)
    x, t, y = inputs((32, 32, 4), [417, 999], 1000)
    with torch.inference_mode():
        x_, t_, y_ = to_torch(x, t, y)
        theirs = nhwc(network(x_, timestep=t_.long(), class_labels=y_).sample)
    del network
    found = ours(model, x, t, y)
    with capsys.disabled():
        print(f"\nDiT-XL/2: {np.abs(found - theirs).max() / np.abs(theirs).max():.1e}")
    close(found, theirs)
