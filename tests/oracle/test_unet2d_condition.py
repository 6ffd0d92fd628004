"""UNet2DConditionModel against diffusers' own, with random weights."""

import warnings

import jax
import numpy as np
import pytest
from compiling import HURRY
from unet2d_condition_cases import CASES, inputs_of

from skipjax.weights import unet2d_condition

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e .[oracle]")
diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is not installed: pip install -e .[oracle]"
)

FEW = ["sd1", "sd2", "xl", "refiner", "lcm", "inpainting", "x4_upscaler", "other_kernels"]


def their_network(fields, seed=0):
    """diffusers' network with weights such that every layer matters."""
    network = diffusers.UNet2DConditionModel(**fields).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, param in network.named_parameters():
            value = torch.randn(param.shape, generator=random)
            if param.ndim > 1 and name != "class_embedding.weight":
                value /= param[0].numel() ** 0.5
            elif param.ndim == 1:
                value = 0.2 * value + (1.0 if name.endswith("weight") else 0.0)
            param.copy_(value)
    return network


def their_output(network, x, t, condition):
    """What diffusers' network makes of arrays, as its pipelines give them."""
    told = {key: torch.tensor(value) for key, value in condition.items()}
    x = np.concatenate([x, condition["concat"]], axis=-1) if "concat" in told else x
    options = {"encoder_hidden_states": told["text"]}
    if "guidance" in told:
        w, embed = told["guidance"] - 1, diffusers.LatentConsistencyModelPipeline
        width = network.config.time_cond_proj_dim
        options["timestep_cond"] = embed.get_guidance_scale_embedding(None, w, width)
    if "pooled" in told:
        added = {"text_embeds": told["pooled"], "time_ids": told["time_ids"]}
        options["added_cond_kwargs"] = added
    if "label" in told:
        like_times = network.config.class_embed_type == "timestep"
        options["class_labels"] = told["label"] if like_times else told["label"].long()
    if "embedding" in told:
        options["class_labels"] = told["embedding"]
    x = torch.tensor(np.moveaxis(x, -1, 1))
    with torch.inference_mode():
        return np.moveaxis(network(x, torch.tensor(t), **options).sample.numpy(), 1, -1)


def outputs(fields, size, **options):
    """Ours and theirs."""
    network = their_network(fields)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # all that diffusers says of it is known
        config = unet2d_condition.config_of(dict(network.config))
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    params = unet2d_condition.to_params(state, config)
    x, t, condition = inputs_of(config, size)
    run = jax.jit(lambda *inputs: config.apply(*inputs, **options), compiler_options=HURRY)
    ours = np.asarray(run(params, x, t, condition))
    return ours, their_output(network, x, t, condition)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in CASES]
)
def test_outputs_are_diffusers(name):
    ours, theirs = outputs(CASES[name], (8, 16))
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    assert np.abs(ours - theirs).max() <= 5e-5 * np.abs(theirs).max()


def test_sizes_may_be_odd_on_the_way_down():
    ours, theirs = outputs(CASES["sd1"], (7, 10))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 5e-5 * np.abs(theirs).max()
