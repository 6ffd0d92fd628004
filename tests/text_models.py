"""Text encoders small enough for tests, as config.json has them."""

from small_vocabulary import vocabulary

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
