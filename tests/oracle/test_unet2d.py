"""UNet2DModel against diffusers' own, with random weights."""

import warnings

import jax
import numpy as np
import pytest
from compiling import HURRY
from unet2d_cases import CASES, inputs_of

from skipjax.models import param_shapes
from skipjax.weights import cards, unet2d

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e .[oracle]")
diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is not installed: pip install -e .[oracle]"
)


def their_network(fields, seed=0):
    """diffusers' network with weights such that every layer matters."""
    network = diffusers.UNet2DModel(**fields).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, param in network.named_parameters():
            value = torch.randn(param.shape, generator=random)
            if param.ndim > 1 and name != "class_embedding.weight":
                value /= param[0].numel() ** 0.5
            elif param.ndim == 1 and name != "time_proj.weight":
                value = 0.2 * value + (1.0 if name.endswith("weight") else 0.0)
            param.copy_(value)
    return network


def error(fields, size, options=None):
    """Largest difference of the outputs, over the largest output."""
    network = their_network(fields)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # all that diffusers says of it is known
        config = unet2d.config_of(dict(network.config))
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    params = unet2d.to_params(state, config)
    x, t, condition = inputs_of(config, size)
    told = None
    if condition:
        told = torch.tensor(next(iter(condition.values())))
        like_times = config.class_embed_type == "timestep"
        told = told if like_times or config.class_embed_type == "identity" else told.long()
    learned = config.time_embedding_type == "learned"
    times = torch.tensor(t).long() if learned else torch.tensor(t)
    with torch.inference_mode():
        theirs = network(torch.tensor(np.moveaxis(x, -1, 1)), times, told).sample.numpy()
    run = jax.jit(config.apply, compiler_options=options)
    ours = np.moveaxis(np.asarray(run(params, x, t, condition)), -1, 1)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("size", [(8, 8), (16, 12)], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_outputs_are_diffusers(name, size):
    assert error(CASES[name], size, HURRY) <= 5e-5


@pytest.mark.parametrize("act_fn", ["swish", "silu"])
def test_names_of_activations(act_fn):
    assert error(CASES["google"] | {"act_fn": act_fn}, (8, 8), HURRY) <= 5e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpm-cifar10-32"])
def test_a_released_network_at_full_size(name):
    fields = dict(cards.named(name)["network"])
    fields.pop("kind")
    found = error(fields, (32, 32))
    print(f"{name}: {found:.1e} of the largest output")
    assert found <= 5e-5


def test_defaults_are_the_classs():
    fields = {"sample_size": 8, "block_out_channels": [32, 32, 32, 32]}
    with torch.device("meta"):
        network = diffusers.UNet2DModel(**fields)
    config = unet2d.config_of(dict(network.config))
    assert config == unet2d.config_of(fields)
    theirs = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    ours = jax.tree_util.tree_leaves_with_path(param_shapes(config))
    assert {unet2d.name(tuple(key.key for key in path)) for path, _ in ours} == set(theirs)
