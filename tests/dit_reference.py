"""DiT in NumPy, in float64 and by Facebook's names, written apart from the Flax module; tiny
networks of both layouts, and the state dicts that their makers' code would write.
"""

from dataclasses import replace

import jax
import numpy as np
from flax import traverse_util
from reference import random_params

from skipjax import Pretrained
from skipjax.models import DiTConfig
from skipjax.models.dit import DIFFUSERS
from skipjax.weights import dit

TINY = {"hidden_size": 24, "depth": 2, "num_heads": 3, "num_classes": 6, "mlp_ratio": 2.0}
CONFIGS = {
    "facebook": DiTConfig(8, **TINY),
    "sit": DiTConfig(8, **TINY, sigma="dropped"),
    "diffusers": DiTConfig(8, **TINY, **DIFFUSERS),
    "oblong": DiTConfig((8, 12), **TINY, sigma="none"),
}


def pretrained(kind: str, **changes) -> Pretrained:
    """A tiny network of random weights, of which none is zero."""
    config = replace(CONFIGS[kind], **changes)
    params = random_params(config)
    if "pos_embed" in params:  # at random they would drown the rest
        params["pos_embed"] = params["pos_embed"] * np.float32(4)
    return dit.model(config, f"tiny_{kind}").replace(params=params)


def state_dict(params, diffusers: bool = False) -> dict[str, np.ndarray]:
    """Params by their makers' names, in torch's layouts."""
    found = {}
    for path, leaf in traverse_util.flatten_dict(params).items():
        leaf, name = np.asarray(leaf), dit.name(path, diffusers)
        if path[-1] == "kernel":
            leaf = np.moveaxis(leaf, (-1, -2), (0, 1)) if leaf.ndim > 2 else leaf.T
        if diffusers and ".to_qkv." in name:
            for kind, part in zip("qkv", np.split(leaf, 3), strict=True):
                found[name.replace(".to_qkv.", f".to_{kind}.")] = part
        else:
            found[name] = leaf
    return found


def inputs(config, batch: int = 3):
    """x [B, H, W, C], t [B] and y [B]."""
    random = np.random.default_rng(7)
    x = random.normal(size=(batch, *config.shape)).astype(np.float32)
    t = np.array([999, 3.25, 417, 0][:batch], np.float32)
    return x, t, np.array([5, 0, 2, 1][:batch])


def forward(state, x, t, y, heads, patch, *, freq_shift=0, eps=1e-6):
    """[B, H, W, channels of the last layer] of NHWC latents."""
    w = {name: np.asarray(array, np.float64) for name, array in state.items()}
    b, height, width, _ = x.shape

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, eps=1e-6):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)

    def silu(x):
        return x / (1 + np.exp(-x))

    def told(name, number):
        parts = np.split(linear(silu(c), f"{name}adaLN_modulation.1"), number, axis=1)
        return [part[:, None] for part in parts]

    angle = t[:, None] * 10000.0 ** (-np.arange(128) / (128 - freq_shift))
    c = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    c = linear(silu(linear(c, "t_embedder.mlp.0")), "t_embedder.mlp.2")
    c = c + w["y_embedder.embedding_table.weight"][y]

    kernel = w["x_embedder.proj.weight"]
    rows, columns = height // patch, width // patch
    h = np.empty((b, rows * columns, len(kernel)))
    for i in range(rows):
        for j in range(columns):
            square = x[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
            h[:, i * columns + j] = np.einsum("bhwc,dchw->bd", square, kernel)
    h = h + w["x_embedder.proj.bias"] + w["pos_embed"]

    for block in range(len({name.split(".")[1] for name in w if name.startswith("blocks.")})):
        name = f"blocks.{block}."
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = told(name, 6)
        qkv = linear(norm(h) * (1 + scale_a) + shift_a, f"{name}attn.qkv")
        attended = []
        for q, k, v in zip(
            *(np.split(part, heads, axis=-1) for part in np.split(qkv, 3, -1)), strict=True
        ):
            logits = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            attended.append(weights / weights.sum(-1, keepdims=True) @ v)
        h = h + gate_a * linear(np.concatenate(attended, -1), f"{name}attn.proj")
        u = linear(norm(h, eps) * (1 + scale_m) + shift_m, f"{name}mlp.fc1")
        u = u / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))
        h = h + gate_m * linear(u, f"{name}mlp.fc2")

    shift, scale = told("final_layer.", 2)
    h = linear(norm(h) * (1 + scale) + shift, "final_layer.linear")
    out = np.empty((b, height, width, h.shape[-1] // patch**2))
    for i in range(rows):
        for j in range(columns):
            square = h[:, i * columns + j].reshape(b, patch, patch, -1)
            out[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch] = square
    return out


def close(ours, theirs, within=5e-5):
    """Equal to a part of the largest."""
    largest = np.abs(np.asarray(theirs, np.float64)).max()
    np.testing.assert_allclose(
        np.asarray(ours, np.float64) / largest, theirs / largest, rtol=0, atol=within
    )


def numbers(params) -> int:
    """How many weights there are."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
