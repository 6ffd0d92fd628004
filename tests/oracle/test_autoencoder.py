"""Autoencoders against diffusers' own, with random weights."""

import warnings

import jax
import numpy as np
import pytest
from autoencoder_cases import CASES, KL, TINY, latents, pictures
from compiling import in_a_hurry

from skipjax.models import param_shapes
from skipjax.weights import autoencoder

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e .[oracle]")
diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is not installed: pip install -e .[oracle]"
)


def their_network(fields, seed=0):
    """diffusers' network with weights such that every layer matters."""
    fields = dict(fields)
    network = getattr(diffusers, fields.pop("_class_name"))(**fields).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, param in network.named_parameters():
            value = torch.randn(param.shape, generator=random)
            if param.ndim > 1:
                value /= param[0].numel() ** 0.5
            else:
                value = 0.2 * value + (1.0 if name.endswith("weight") else 0.0)
            param.copy_(value)
    return network


def both(fields, **options):
    """diffusers' network, and ours with its weights."""
    network = their_network(fields)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # all that diffusers says of it is known
        config = autoencoder.config_of(
            dict(network.config) | {"_class_name": type(network).__name__}
        )
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    params = autoencoder.to_params(state, config)
    return network, type(autoencoder.model(config, "vae"))(params, config, **options)


def to_torch(x):
    return torch.tensor(np.moveaxis(np.asarray(x), -1, 1))


def close(ours, theirs):
    theirs = np.moveaxis(theirs.numpy(), 1, -1)
    assert ours.shape == theirs.shape
    return np.abs(np.asarray(ours) - theirs).max() <= 5e-5 * np.abs(theirs).max()


def their_scaled(network, z):
    """As their pipelines scale."""
    config = network.config
    if getattr(config, "latents_mean", None) is not None:
        mean, std = (
            torch.tensor(n).view(1, -1, 1, 1) for n in (config.latents_mean, config.latents_std)
        )
        return (z - mean) * config.scaling_factor / std
    return (z - (config.shift_factor or 0)) * config.scaling_factor


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_diffusers(name):
    network, codec = both(CASES[name])
    x = pictures(codec.network)
    with in_a_hurry(), torch.inference_mode():
        encoded = network.encode(to_torch(x))
        if "tiny" in name:
            mode = encoded.latents
        else:
            mode = encoded.latent_dist.mode()
            mean, log_variance = codec.encode_moments(x)
            assert close(mean, mode) and close(log_variance, encoded.latent_dist.logvar)
        z = their_scaled(network, mode)
        assert close(codec.encode(x), z)
        assert close(codec.decode(np.moveaxis(z.numpy(), 1, -1)), network.decode(mode).sample)


def test_a_posterior_is_sampled_as_theirs_is():
    network, codec = both(CASES["sixteen_channels"])
    x, key = pictures(codec.network), jax.random.key(3)
    noise = jax.random.normal(key, (2, 4, 6, 16))
    with torch.inference_mode():
        posterior = network.encode(to_torch(x)).latent_dist
        drawn = posterior.mean + posterior.std * to_torch(noise)
        assert close(codec.encode(x, key), their_scaled(network, drawn))


def test_pictures_as_large_as_released_ones_see_are_diffusers():
    """Levels that convolve by products and by phases, which narrow ones do not."""
    wide = {"block_out_channels": [64, 64], "norm_num_groups": 32}
    for fields in (KL | wide, {"_class_name": "AutoencoderTiny"}):
        network, codec = both(fields)
        z = latents(codec.network, (20, 16), 1)
        with torch.inference_mode():
            theirs = network.decode(to_torch(codec.network.unscaled(z))).sample
        assert close(codec.decode(z), theirs)


@pytest.mark.parametrize("fields", [KL, TINY], ids=["kl", "tiny"])
def test_defaults_are_the_classs(fields):
    kind = fields["_class_name"]
    with torch.device("meta"):
        network = getattr(diffusers, kind)()
    config = autoencoder.config_of(dict(network.config) | {"_class_name": kind})
    assert config == autoencoder.config_of({"_class_name": kind})
    theirs = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    ours = jax.tree_util.tree_leaves_with_path(param_shapes(config))
    assert {autoencoder.name(tuple(key.key for key in path)) for path, _ in ours} == set(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny"])
def test_a_released_network_at_full_size(kind):
    """Needs 2 GB."""
    released = {
        "_class_name": "AutoencoderKL",
        "down_block_types": 4 * ["DownEncoderBlock2D"],
        "up_block_types": 4 * ["UpDecoderBlock2D"],
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
    }
    network, codec = both(released if kind == "AutoencoderKL" else {"_class_name": kind})
    z = latents(codec.network, (32, 24), 1)
    with torch.inference_mode():
        picture = network.decode(to_torch(codec.network.unscaled(z))).sample
        assert close(codec.decode(z), picture)
        encoded = network.encode(picture)
        theirs = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        ours = codec.encode(np.moveaxis(picture.numpy(), 1, -1))
    assert close(codec.network.unscaled(ours), theirs)
