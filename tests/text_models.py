"""Text encoders small enough for tests, as config.json has them."""

import jax
import numpy as np
from small_vocabulary import vocabulary

from skipjax.models import param_shapes
from skipjax.weights import clip_text

TOKENS = len(vocabulary())
_TINY = {
    "vocab_size": TOKENS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "eos_token_id": 2,
    "projection_dim": 32,
}
# What the encoders of Stable Diffusion 1 and 2, and the second of XL, are like.
CLIP_L = _TINY | {"architectures": ["CLIPTextModel"]}
CLIP_H = CLIP_L | {"hidden_size": 48, "num_attention_heads": 3, "hidden_act": "gelu"}
BIG_G = CLIP_H | {
    "hidden_size": 40,
    "num_attention_heads": 5,
    "num_hidden_layers": 4,
    "projection_dim": 24,
    "architectures": ["CLIPTextModelWithProjection"],
}


def tensors_of(config, seed=0):
    """A state dict as transformers names it, in which every tensor matters."""
    random, found = np.random.default_rng(seed), {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(param_shapes(config)):
        *_, kind = names = tuple(key.key for key in path)
        spread = 0.2 if leaf.ndim == 1 else leaf.shape[0] ** -0.5
        value = random.normal(kind == "scale", spread if kind != "embedding" else 1, leaf.shape)
        found[clip_text.name(names)] = np.float32(value.T if kind == "kernel" else value)
    return found
