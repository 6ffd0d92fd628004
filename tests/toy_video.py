"""A family of its own: a transformer of video latents that is told of words, with an autoencoder.

It is registered from here: nothing of it stands in the package.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from skipjax import Pretrained, Process
from skipjax.process import Flow, as_schedule
from skipjax.weights import registry

LETTERS, WIDTH = 8, 16  # of a prompt that are read, and channels that each becomes


class Transformer(nn.Module):
    """Tokens of a latent [B, F, h, w, C], with words [B, L, D] beside them, attend each other."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, t, text, mask):
        batch, *sizes, channels = x.shape
        tokens = nn.Dense(self.width, self.dtype)(x.reshape(batch, -1, channels))
        place = nn.Embed(tokens.shape[1], self.width)(jnp.arange(tokens.shape[1]))
        when = nn.Dense(self.width)(jnp.stack([jnp.sin(9 * t), jnp.cos(9 * t), t], axis=-1))
        words = nn.Dense(self.width, self.dtype)(text) * mask[..., None]
        h = tokens + place[None] + when[:, None]
        both = jnp.concatenate([nn.LayerNorm()(h), words], axis=1)
        h = h + nn.MultiHeadDotProductAttention(2, self.dtype)(nn.LayerNorm()(h), both)
        h = h + nn.Dense(self.width, self.dtype)(nn.silu(nn.Dense(2 * self.width)(h)))
        out = nn.Dense(channels, dtype=jnp.float32)(nn.LayerNorm()(h))
        return out.reshape(batch, *sizes, channels)


@dataclass(frozen=True)
class VideoConfig:
    """The network's config: shape of a latent, (F, h, w, C)."""

    shape: tuple[int, int, int, int] = (3, 2, 4, 4)
    width: int = 16

    def init(self, key):
        text = jnp.zeros((1, LETTERS, WIDTH)), jnp.zeros((1, LETTERS))
        x = jnp.zeros((1, *self.shape))
        return Transformer(self.width).init(key, x, jnp.zeros(1), *text)["params"]

    def apply(self, params, x, t, condition=None, *, dtype=jnp.float32):
        net, told = Transformer(self.width, dtype), condition or {}
        return net.apply({"params": params}, x, t, told["text"], told["mask"])


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=[])
@dataclass(frozen=True)
class Letters:
    """Prompts as embeddings of their first letters."""

    params: Any = None

    takes = ("prompt",)
    gives = ("text", "mask")

    def init(self, key):
        return {"table": jax.random.normal(key, (128, WIDTH))}

    def encode(self, words, key, ids):
        prompt = words.get("prompt")
        if prompt is None:
            raise ValueError("the network draws what it is told: give a prompt")
        prompts = [prompt] * len(ids) if isinstance(prompt, str) else list(prompt)
        if len(prompts) != len(ids):
            raise ValueError(f"prompt has {len(prompts)} entries for {len(ids)} samples")
        codes = np.zeros((len(ids), LETTERS), np.int32)
        for i, text in enumerate(prompts):
            some = [min(ord(letter), 127) for letter in text[:LETTERS]]
            codes[i, : len(some)] = some
        table = np.asarray(self.params["table"])
        return {"text": table[codes], "mask": (codes > 0).astype(np.float32)}

    def null(self, condition, negative=None):
        ids = np.arange(len(condition["mask"]))
        return self.encode({"prompt": negative or ""}, None, ids)


@partial(
    jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["patch", "channels"]
)
@dataclass(frozen=True)
class Patches:
    """Frames [B, F, H, W, c] to and from latents [B, F, h, w, C], by an orthogonal matrix."""

    params: Any = None
    patch: int = 2
    channels: int = 1

    def init(self, key):
        size = self.patch**2 * self.channels
        return {"turn": jnp.linalg.qr(jax.random.normal(key, (size, size)))[0]}

    def shape(self, diffused, size):
        return diffused[0], size[0] // self.patch, size[1] // self.patch, diffused[-1]

    def encode(self, x, key=None):
        b, f, h, w, c = x.shape
        p = self.patch
        cut = x.reshape(b, f, h // p, p, w // p, p, c).transpose(0, 1, 2, 4, 3, 5, 6)
        return cut.reshape(b, f, h // p, w // p, p * p * c) @ self.params["turn"]

    def decode(self, z):
        b, f, h, w, _ = z.shape
        p, c = self.patch, self.channels
        cut = (z @ self.params["turn"].T).reshape(b, f, h, w, p, p, c)
        return cut.transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, f, h * p, w * p, c)


registry.register("toy_video", VideoConfig)
registry.register("toy_letters", Letters)
registry.register("toy_patches", Patches)

PROCESS = Process(as_schedule("rectified_flow"), "velocity", Flow(), bounds=None)


def pretrained() -> Pretrained:
    """Random weights: videos of 3 frames of 4 x 8 pixels, 1 channel."""
    network, letters, patches = VideoConfig(), Letters(), Patches()
    keys = jax.random.split(jax.random.key(5), 3)
    return Pretrained(
        jax.jit(network.init)(keys[0]),
        network,
        PROCESS,
        Letters(letters.init(keys[1])),
        Patches(patches.init(keys[2])),
        "toy_video",
    )
