"""Tiny networks of diffusers' UNet2DModel, as fields of its config.json, and weights for them."""

import numpy as np
from flax import traverse_util

from skipjax.models import param_shapes
from skipjax.weights import unet2d

# As Google's: one head, zeros right and below, sines first.
GOOGLE = {
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}
# As users' own, of the class's defaults.
PLAIN = {k: GOOGLE[k] for k in list(GOOGLE)[:6]}
# What attends at its finer level too, where it goes on to the next size.
_ATTENDS = {
    "down_block_types": ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
}
_ATTENDS_ABOVE = _ATTENDS | {"up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
_RESNETS = {
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["ResnetUpsampleBlock2D", "UpBlock2D"],
}
CASES = {
    "google": GOOGLE,
    "plain": PLAIN,
    "two_layers_three_levels": PLAIN
    | {
        "block_out_channels": [16, 24, 32],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 2,
    },
    "one_level": PLAIN
    | {
        "block_out_channels": [16],
        "down_block_types": ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"],
    },
    "resnets_scale_shift": PLAIN | _RESNETS | {"resnet_time_scale_shift": "scale_shift"},
    "scale_shift_with_a_norm_in_the_middle": GOOGLE
    | {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
    "additive_with_other_groups_in_the_middle": PLAIN | {"attn_norm_num_groups": 16},
    "attention_that_goes_on_by_resnets": PLAIN
    | _ATTENDS_ABOVE
    | {"downsample_type": "resnet", "upsample_type": "resnet"},
    "attention_that_goes_on_by_convolutions": GOOGLE | _ATTENDS_ABOVE,
    "attention_at_the_finest": PLAIN | _ATTENDS | {"attention_head_dim": 4},
    "heads_narrower_than_the_blocks": PLAIN | {"attention_head_dim": 12},
    "no_attention_in_the_middle": PLAIN | {"add_attention": False},
    "scaled_middle": PLAIN | {"mid_block_scale_factor": 1.4142, "norm_num_groups": 4},
    "mish": PLAIN | {"act_fn": "mish"},
    "gelu": PLAIN | {"act_fn": "gelu"},
    "relu": PLAIN | {"act_fn": "relu"},
    "centred_grey_to_two": PLAIN
    | {"center_input_sample": True, "in_channels": 1, "out_channels": 2},
    "labels": PLAIN | {"num_class_embeds": 5},
    "labels_like_times": PLAIN | {"class_embed_type": "timestep"},
    "embeddings": PLAIN | {"class_embed_type": "identity"},
    "fourier": PLAIN | {"time_embedding_type": "fourier"},
    "learned_times_and_labels_like_them": PLAIN
    | {
        "time_embedding_type": "learned",
        "num_train_timesteps": 1000,
        "class_embed_type": "timestep",
        "num_class_embeds": 5,
    },
}


def tensors_of(config, seed=0):
    """A state dict of random numbers, such that every layer matters."""
    rng, found = np.random.default_rng(seed), {}
    for path, leaf in traverse_util.flatten_dict(param_shapes(config)).items():
        shape = leaf.shape
        if path[-1] == "kernel":
            shape = (shape[-1], shape[-2], *shape[:-2]) if len(shape) == 4 else shape[::-1]
        spread = np.prod(shape[1:]) ** -0.5 if path[-1] == "kernel" else 0.3
        value = rng.normal(path[-1] == "scale", spread, shape)
        found[unet2d.name(path)] = value.astype(np.float32)
    return found


def inputs_of(config, size=(4, 8), seed=1):
    """x [2, H, W, C], t [2], and the condition, None where there is none."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, *size, config.shape[-1])).astype(np.float32)
    fourier = config.time_embedding_type == "fourier"
    t = np.float32([0.5, 1.25] if fourier else [7, 417])
    known = {
        "label": np.int32([3, 1]),
        "embedding": rng.normal(size=(2, config.embedding_channels)).astype(np.float32),
    }
    return x, t, {key: known[key] for key in config.takes} or None
