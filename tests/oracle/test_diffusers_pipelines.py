"""Pipelines that diffusers itself saved: what is loaded of them, and whole loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers_oracle import diffusers, torch

import skipjax
from skipjax.config import resolve
from skipjax.sampling import integrate
from skipjax.weights import registry

pytestmark = pytest.mark.skipif(
    "UNet2DModel" not in registry.CLASSES, reason="UNet2DModel is not read yet"
)
SIDE, BATCH = 8, 3


def network(**options):
    """A tiny UNet2DModel, none of whose weights is zero, and that does not multiply rounding."""
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=SIDE,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        **options,
    )
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_(0, 0.04) if weight.ndim > 1 else weight.add_(0.02)
        net.conv_out.weight.mul_(0.3)
    return net.eval()


def saved(folder, pipeline, scheduler, **options):
    """A pipeline's folder, and the pipeline as they load it."""
    pipeline(network(), scheduler).save_pretrained(folder, **options)
    return pipeline.from_pretrained(folder)


PIPELINES = {
    "ddpm": (diffusers.DDPMPipeline, diffusers.DDPMScheduler, {}),
    "ddpm_large": (
        diffusers.DDPMPipeline,
        diffusers.DDPMScheduler,
        {"variance_type": "fixed_large", "beta_schedule": "squaredcos_cap_v2"},
    ),
    "ddpm_sample": (
        diffusers.DDPMPipeline,
        diffusers.DDPMScheduler,
        {"prediction_type": "sample", "timestep_spacing": "trailing"},
    ),
    "ddim": (diffusers.DDIMPipeline, diffusers.DDIMScheduler, {}),
    "ddim_of_ddpm": (diffusers.DDIMPipeline, diffusers.DDPMScheduler, {"clip_sample_range": 0.8}),
    "ddim_offset": (
        diffusers.DDIMPipeline,
        diffusers.DDIMScheduler,
        {"set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "linspace"},
    ),
    "ddim_v": (
        diffusers.DDIMPipeline,
        diffusers.DDIMScheduler,
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
        | {"timestep_spacing": "trailing"},
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PIPELINES)
def test_whole_loops_with_the_same_noise(name, tmp_path):
    cls, scheduler, options = PIPELINES[name]
    theirs, steps = saved(tmp_path / "pipe", cls, scheduler(**options)), 12
    model = skipjax.load(tmp_path / "pipe")
    sampler = resolve(model, skipjax.SampleConfig(steps=steps))
    assert sampler.plan.nfe == steps
    start, *noises = np.random.default_rng(1).normal(size=(steps + 1, BATCH, SIDE, SIDE, 3))
    drawn = iter(torch.from_numpy(z).float().permute(0, 3, 1, 2) for z in (start, *noises))
    with pytest.MonkeyPatch.context() as patch:
        for module in {cls.__module__, type(theirs.scheduler).__module__}:
            patch.setattr(f"{module}.randn_tensor", lambda *_, **__: next(drawn))
        theirs.set_progress_bar_config(disable=True)
        images = theirs(batch_size=BATCH, num_inference_steps=steps, output_type="np").images
    denoise = skipjax.denoiser(model, transform=sampler.transform)
    keys = jax.random.split(jax.random.key(0), BATCH)
    x, z = (jnp.asarray(np.asarray(a), jnp.float32) for a in (start, noises))
    out = jax.jit(lambda x: integrate(sampler.plan, denoise, x, keys, noise=z))(x)
    ours = np.clip(np.asarray(out) / 2 + 0.5, 0, 1)
    assert ours.std() > 0.05
    np.testing.assert_allclose(ours, images, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_the_default_number_of_steps_is_the_pipelines(tmp_path):
    saved(tmp_path / "ddpm", diffusers.DDPMPipeline, diffusers.DDPMScheduler())
    saved(tmp_path / "ddim", diffusers.DDIMPipeline, diffusers.DDIMScheduler())
    assert skipjax.load(tmp_path / "ddpm").scheduler.steps == 1000
    assert skipjax.load(tmp_path / "ddim").scheduler.steps == 50


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options",
    [{}, {"safe_serialization": False}, {"max_shard_size": "100KB"}, {"variant": "fp16"}]
    + [{"max_shard_size": "100KB", "variant": "fp16"}]
    + [{"max_shard_size": "100KB", "safe_serialization": False}],
    ids=lambda options: "-".join(map(str, options.values())) or "plain",
)
def test_every_way_of_saving_gives_the_same_weights(options, tmp_path):
    whole = network()
    whole.save_pretrained(tmp_path / "plain")
    whole.save_pretrained(tmp_path / "other", **options)
    variant = options.get("variant")
    one, other = (
        skipjax.load(tmp_path / "plain"),
        skipjax.load(tmp_path / "other", variant=variant),
    )
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert one.network == other.network and one.scheduler is None


@pytest.mark.filterwarnings("ignore")
def test_the_average_that_training_saves(tmp_path):
    training = pytest.importorskip("diffusers.training_utils")
    net = network()
    ema = training.EMAModel(net.parameters(), model_cls=type(net), model_config=net.config)
    net.save_pretrained(tmp_path / "before")
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(1.0)
    step = tmp_path / "run" / "checkpoint-1"
    net.save_pretrained(step / "unet")
    ema.save_pretrained(str(step / "unet_ema"))
    loaded, before = skipjax.load(step), skipjax.load(tmp_path / "before")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, before.params)
