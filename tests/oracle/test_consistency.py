"""The network of openai/consistency_models, written in torch from its tensors, against the file's.

Nothing of it comes of the Flax code: it goes by names of tensors, and by what is known of the
network. Attention is of 1 x 1 convolutions in two dimensions, [q | k | v][head][d].
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import denoiser
from skipjax.models import UNetConfig, param_shapes
from skipjax.process import Point
from skipjax.weights import adm, cards

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e .[oracle]")
functional = torch.nn.functional

TINY = {
    "imagenet64": {
        "image_size": 16,
        "model_channels": 64,
        "num_res_blocks": 2,
        "attention_resolutions": (2,),
        "channel_mult": (1, 2),
        "num_head_channels": 32,
        "num_classes": 10,
    },
    "bedroom256": {
        "image_size": 16,
        "model_channels": 64,
        "num_res_blocks": 1,
        "attention_resolutions": (2, 4),
        "channel_mult": (1, 1, 2),
        "num_head_channels": 16,
    },
}


class Network:
    """F(x, t, y) of a state dict.

    Args:
        tensors: By name.
        head: Channels of a head of attention.
    """

    def __init__(self, tensors, head):
        self.tensors, self.head = tensors, head

    def __getitem__(self, name):
        return self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]

    def has(self, name):
        return f"{name}.weight" in self.tensors

    def conv(self, name, x):
        weight, bias = self[name]
        return functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def norm(self, name, x):
        return functional.group_norm(x, 32, *self[name], eps=1e-5)

    def linear(self, name, x):
        return functional.linear(x, *self[name])

    def __call__(self, x, t, y=None):
        width = self.tensors["time_embed.0.weight"].shape[1]
        rate = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
        angle = t[:, None].float() * rate.float()
        emb = self.linear("time_embed.0", torch.cat([angle.cos(), angle.sin()], 1))
        emb = self.linear("time_embed.2", functional.silu(emb))
        if y is not None:
            emb = emb + self.tensors["label_emb.weight"][y]
        h, features = x, []
        for i in self.numbered("input_blocks"):
            if i == 0:
                h = self.conv("input_blocks.0.0", h)
            else:
                h = self.block(f"input_blocks.{i}", h, emb, "down" if self.halves(i) else None)
            features.append(h)
        h = self.residual("middle_block.0", h, emb)
        h = self.residual("middle_block.2", self.attention("middle_block.1", h), emb)
        for i in self.numbered("output_blocks"):
            h = self.block(f"output_blocks.{i}", torch.cat([h, features.pop()], 1), emb)
        return self.conv("out.2", functional.silu(self.norm("out.0", h)))

    def numbered(self, blocks):
        return range(1 + max(int(n.split(".")[1]) for n in self.tensors if n.startswith(blocks)))

    def halves(self, i):
        """Whether an input block is between two levels: every (n + 1)-th, n to a level."""
        return i % (self.per_level + 1) == 0

    @property
    def per_level(self):
        """Residual blocks of a level in the encoder: the decoder, which has one more, goes up in
        the last of its first level.
        """
        return next(
            i
            for i in self.numbered("output_blocks")
            if any(self.has(f"output_blocks.{i}.{part}.in_layers.0") for part in (1, 2))
        )

    def block(self, name, h, emb, resample=None):
        h = self.residual(f"{name}.0", h, emb, resample)
        for part in (1, 2):
            if self.has(f"{name}.{part}.qkv"):
                h = self.attention(f"{name}.{part}", h)
            elif self.has(f"{name}.{part}.in_layers.0"):
                h = self.residual(f"{name}.{part}", h, emb, "up")
        return h

    def residual(self, name, x, emb, resample=None):
        h = functional.silu(self.norm(f"{name}.in_layers.0", x))
        if resample == "up":
            h, x = (functional.interpolate(a, scale_factor=2, mode="nearest") for a in (h, x))
        if resample == "down":
            h, x = functional.avg_pool2d(h, 2), functional.avg_pool2d(x, 2)
        h = self.conv(f"{name}.in_layers.2", h)
        told = self.linear(f"{name}.emb_layers.1", functional.silu(emb))[:, :, None, None]
        if told.shape[1] == 2 * h.shape[1]:
            scale, shift = told.chunk(2, dim=1)
            h = self.norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
        else:
            h = self.norm(f"{name}.out_layers.0", h + told)
        h = self.conv(f"{name}.out_layers.3", functional.silu(h))
        skip = f"{name}.skip_connection"
        return h + (self.conv(skip, x) if self.has(skip) else x)

    def attention(self, name, x):
        b, c, height, width = x.shape
        weight, _ = self[f"{name}.qkv"]
        assert weight.shape == (3 * c, c, 1, 1)
        qkv = self.conv(f"{name}.qkv", self.norm(f"{name}.norm", x))
        qkv = qkv.reshape(b, 3, c // self.head, self.head, height * width).mT
        h = functional.scaled_dot_product_attention(*qkv.unbind(1)).mT
        return x + self.conv(f"{name}.proj_out", h.reshape(x.shape))


def tensors_of(config, rng):
    """Random weights as the released files have them: the names, and attention in 4-D."""
    found = {}
    shapes = jax.tree.map(lambda leaf: np.empty(leaf.shape, np.float32), param_shapes(config))
    for name, like in adm.state_dict(shapes).items():
        one = like.ndim == 1
        spread = 0.1 if one else np.prod(like.shape[1:]) ** -0.5
        value = rng.standard_normal(like.shape, np.float32) * np.float32(spread)
        value += one and name.endswith("weight")
        found[name] = value[..., None] if like.ndim == 3 else value
    return found


def x_0_of(name, network, x, sigma, y=None):
    """What the repository's denoiser says, clamped: EDM's scalings or those with a boundary."""
    sigma = torch.full((len(x), 1, 1, 1), sigma)
    t = 1000 * 0.25 * torch.log(sigma.flatten() + 1e-44)
    F = network(x / (sigma**2 + 0.25) ** 0.5, t, y)
    above = sigma if name.startswith("edm") else sigma - 0.002
    c_skip, c_out = 0.25 / (above**2 + 0.25), above * 0.5 / (sigma**2 + 0.25) ** 0.5
    return F, (c_skip * x + c_out * F).clamp(-1, 1)


def compare(name, config, num, levels):
    """How far F and x_0 are from torch's, over the largest value of F: the worst of all levels."""
    rng = np.random.default_rng(0)
    tensors = tensors_of(config, rng)
    y = None if config.num_classes is None else rng.integers(0, config.num_classes, num)
    model = cards.model(cards.named(name))
    model = model.replace(network=config, params=adm.to_params(tensors, config))

    @jax.jit
    def ours(model, x, point):
        told = None if y is None else {"label": jnp.asarray(y)}
        F = config.apply(model.params, *model.process.tell(x, point), told)
        return F, denoiser(model, told)(x, point).x_0

    tensors = {name: torch.from_numpy(array) for name, array in tensors.items()}
    theirs = Network(tensors, config.num_head_channels)
    worst = []
    for sigma in levels:
        x = rng.standard_normal((num, *config.shape), np.float32) * np.float32(sigma)
        given, labels = torch.from_numpy(x).movedim(-1, 1), None if y is None else torch.tensor(y)
        with torch.no_grad():
            expected = x_0_of(name, theirs, given, sigma, labels)
        point = Point(jnp.float32(0), jnp.float32(1), jnp.float32(sigma))
        for one, other in zip(ours(model, x, point), expected, strict=True):
            off = np.abs(np.asarray(one) - other.movedim(1, -1).numpy()).max()
            worst.append(float(off / expected[0].abs().max()))
    return max(worst)


@pytest.mark.parametrize("name", ["cd_imagenet64_l2", "edm_imagenet64_ema", "ct_bedroom256"])
def test_a_tiny_network_is_what_torch_makes_of_the_tensors(name):
    full = vars(cards.model(cards.named(name)).network)
    config = UNetConfig(**full | TINY[name.split("_")[1]])
    assert config.use_scale_shift_norm == ("imagenet64" in name)
    assert compare(name, config, 2, (80.0, 1.4, 0.01)) < 5e-5


@pytest.mark.slow
@pytest.mark.skipif("SKIPJAX_FULL_SIZE" not in os.environ, reason="minutes, and 4 to 7 GB")
@pytest.mark.parametrize("name", ["cd_imagenet64_l2", "ct_bedroom256"])
def test_a_network_of_full_size_is_what_torch_makes_of_the_tensors(name):
    config = cards.model(cards.named(name)).network
    assert compare(name, config, 1, (80.0,)) < 5e-5
