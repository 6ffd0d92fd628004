"""Tiny autoencoders, as fields of diffusers' config.json, and weights for them."""

import numpy as np
from flax import traverse_util

from skipjax.models import param_shapes
from skipjax.weights import autoencoder

# As Stable Diffusion's.
KL = {
    "_class_name": "AutoencoderKL",
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
    "sample_size": 8,
}
TINY = {
    "_class_name": "AutoencoderTiny",
    "encoder_block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "num_encoder_blocks": [1, 2],
    "num_decoder_blocks": [2, 1],
}
CASES = {
    "kl": KL,
    "xl": KL | {"layers_per_block": 2, "scaling_factor": 0.13025},
    "three_levels": KL
    | {
        "down_block_types": 3 * ["DownEncoderBlock2D"],
        "up_block_types": 3 * ["UpDecoderBlock2D"],
        "block_out_channels": [8, 8, 16],
    },
    "sixteen_channels": KL
    | {
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "shift_factor": 0.0609,
        "scaling_factor": 1.5305,
    },
    "playground": KL
    | {
        "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
        "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
        "scaling_factor": 0.5,
    },
    "no_attention": KL | {"mid_block_add_attention": False, "act_fn": "mish"},
    "attention_everywhere": KL
    | {
        "down_block_types": ["AttnDownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"],
    },
    "one_level": KL
    | {
        "down_block_types": ["DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D"],
        "block_out_channels": [8],
    },
    "tiny": TINY,
    "tiny_scaled": TINY | {"scaling_factor": 0.7, "shift_factor": 0.2, "act_fn": "silu"},
}


def tensors_of(config, seed=0):
    """A state dict of random numbers, such that every layer matters."""
    rng, found = np.random.default_rng(seed), {}
    for path, leaf in traverse_util.flatten_dict(param_shapes(config)).items():
        shape = leaf.shape
        if path[-1] == "kernel":
            shape = (shape[-1], shape[-2], *shape[:-2]) if len(shape) == 4 else shape[::-1]
        spread = np.prod(shape[1:]) ** -0.5 if path[-1] == "kernel" else 0.2
        value = rng.normal(path[-1] == "scale", spread, shape)
        found[autoencoder.name(path)] = value.astype(np.float32)
    return found


def codec_of(fields, seed=0, **options):
    """A codec with such weights; options as `skipjax.codecs.AutoencoderKL` has them."""
    config = autoencoder.config_of(fields)
    params = autoencoder.to_params(tensors_of(config, seed), config)
    return type(autoencoder.model(config, "vae"))(params, config, **options)


def pictures(config, size=(8, 12), number=2, seed=1):
    """float32 [number, H, W, C] in [-1, 1]."""
    shape = number, *size, config.in_channels
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def latents(config, size=(4, 6), number=2, seed=2):
    """float32 [number, h, w, C]."""
    shape = number, *size, config.latent_channels
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
