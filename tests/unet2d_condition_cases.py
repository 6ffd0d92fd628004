"""Tiny networks of diffusers' UNet2DConditionModel, as fields of its config.json."""

import numpy as np
from flax import traverse_util

from skipjax.models import param_shapes
from skipjax.weights import unet2d_condition

# As Stable Diffusion 1: two heads, 1 x 1 convolutions around transformers.
SD1 = {
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 2,
    "cross_attention_dim": 24,
}
_SD2 = {"use_linear_projection": True, "attention_head_dim": [2, 4], "upcast_attention": True}
_SIZES = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 20 + 6 * 8,
}
_THREE = {
    "block_out_channels": [16, 24, 32],
    "down_block_types": ["DownBlock2D", *2 * ["CrossAttnDownBlock2D"]],
    "up_block_types": [*2 * ["CrossAttnUpBlock2D"], "UpBlock2D"],
    "attention_head_dim": [2, 3, 4],
}
XL = SD1 | _SD2 | _SIZES | _THREE | {"transformer_layers_per_block": [1, 2, 3]}
REFINER = (
    SD1
    | _SD2
    | _SIZES
    | {
        "block_out_channels": [16, 16, 32, 32],
        "down_block_types": ["DownBlock2D", *2 * ["CrossAttnDownBlock2D"], "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *2 * ["CrossAttnUpBlock2D"], "UpBlock2D"],
        "attention_head_dim": [2, 2, 4, 4],
        "transformer_layers_per_block": 2,
        "projection_class_embeddings_input_dim": 20 + 5 * 8,
    }
)
X4 = (
    SD1
    | _THREE
    | {"in_channels": 7, "use_linear_projection": True, "num_class_embeds": 5}
    | {"only_cross_attention": [True, True, False]}
)
CASES = {
    "sd1": SD1,
    "sd1_of_two_layers": SD1 | {"layers_per_block": 2, "downsample_padding": 0},
    "sd2": SD1 | _SD2,
    "xl": XL,
    "refiner": REFINER,
    "lcm": SD1 | {"time_cond_proj_dim": 12},
    "inpainting": SD1 | {"in_channels": 9},
    "pix2pix": SD1 | {"in_channels": 8},
    "x4_upscaler": X4,
    "pruned_xl": XL
    | {
        "transformer_layers_per_block": [0, [2, 1], [1, 2]],
        "reverse_transformer_layers_per_block": [[2, 1, 1], [1, 1, 2], 1],
        "layers_per_block": 2,
    },
    "no_middle": XL | {"mid_block_type": None},
    "a_residual_block_in_the_middle": SD1 | {"mid_block_type": "UNetMidBlock2D"},
    "attention_to_pixels_alone": SD1
    | {
        "down_block_types": ["AttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "AttnUpBlock2D"],
        "attention_head_dim": [8, 2],
    },
    "all_cross": SD1 | {"only_cross_attention": True, "mid_block_scale_factor": 1.4142},
    "unclip": SD1 | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 9},
    "labels_like_times": SD1 | {"class_embed_type": "timestep", "act_fn": "gelu"},
    "embeddings": SD1 | {"class_embed_type": "identity", "time_embedding_dim": 24},
    "other_kernels": SD1
    | {"conv_in_kernel": 1, "conv_out_kernel": 5, "resnet_time_scale_shift": "scale_shift"}
    | {"center_input_sample": True, "flip_sin_to_cos": False, "freq_shift": 1},
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
        found[unet2d_condition.name(path)] = value.astype(np.float32)
    return found


def inputs_of(config, size=(4, 8), tokens=7, seed=1):
    """x [2, H, W, C], t [2], and the condition."""
    rng, (*_, channels) = np.random.default_rng(seed), config.shape
    told, each = config.projection_class_embeddings_input_dim, config.addition_time_embed_dim

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    pooled = told % each if told and each else 0
    sizes = (told - pooled) // each if told and each else 0
    known = {
        "text": normal(2, tokens, config.text_channels),
        "pooled": normal(2, pooled),
        "time_ids": np.float32(rng.integers(0, 1024, (2, sizes))),
        "guidance": np.float32([8.5, 1.5]),
        "label": np.int32([3, 1]),
        "embedding": normal(2, told if told and not each else config.embedding_channels),
        "concat": normal(2, *size, config.concat_channels),
    }
    condition = {key: known[key] for key in config.takes}
    return normal(2, *size, channels), np.float32([7, 417]), condition
