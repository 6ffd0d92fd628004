"""diffusers' UNet2DModel in NumPy: NCHW, float64, from the tensors and the fields of its files."""

import math

import numpy as np

DEFAULTS = {
    "time_embedding_type": "positional",
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "center_input_sample": False,
}
_erf = np.vectorize(math.erf)
ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
}
silu = ACTIVATIONS["silu"]


class Reference:
    """A network of a state dict and the fields of a config.json."""

    def __init__(self, tensors, fields):
        self.tensors = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
        self.fields = DEFAULTS | fields
        self.act = ACTIVATIONS[self.fields["act_fn"]]

    def linear(self, name, x):
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def conv(self, name, x, stride=1, before=1, after=1):
        kernel = self.tensors[f"{name}.weight"]
        if kernel.shape[-1] == 1:
            before = after = 0
        x = np.pad(x, ((0, 0), (0, 0), (before, after), (before, after)))
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], axis=(2, 3))
        out = np.einsum("bcyxhw,ochw->boyx", windows[:, :, ::stride, ::stride], kernel)
        return out + self.tensors[f"{name}.bias"][:, None, None]

    def norm(self, name, x, groups=None):
        groups = groups or self.fields["norm_num_groups"]
        flat = x.reshape(len(x), groups, -1)
        spread = np.sqrt(flat.var(axis=-1, keepdims=True) + self.fields["norm_eps"])
        flat = ((flat - flat.mean(axis=-1, keepdims=True)) / spread).reshape(x.shape)
        scale, bias = (self.tensors[f"{name}.{leaf}"] for leaf in ("weight", "bias"))
        return flat * scale[:, None, None] + bias[:, None, None]

    def resnet(self, name, x, emb=None, resample=lambda x: x, divisor=1):
        h = resample(self.act(self.norm(f"{name}.norm1", x)))
        h, x = self.conv(f"{name}.conv1", h), resample(x)
        told = 0
        if emb is not None:
            told = self.linear(f"{name}.time_emb_proj", self.act(emb))[:, :, None, None]
        if self.fields["resnet_time_scale_shift"] == "scale_shift":
            scale, shift = np.split(told, 2, axis=1)
            h = self.norm(f"{name}.norm2", h) * (1 + scale) + shift
        else:
            h = self.norm(f"{name}.norm2", h + told)
        h = self.conv(f"{name}.conv2", self.act(h))
        if f"{name}.conv_shortcut.weight" in self.tensors:
            x = self.conv(f"{name}.conv_shortcut", x)
        return (x + h) / divisor

    def attention(self, name, x, groups, divisor=1):
        b, c, height, width = x.shape
        h = x if groups is None else self.norm(f"{name}.group_norm", x, groups)
        h = h.reshape(b, c, -1).swapaxes(1, 2)
        heads = c // (self.fields["attention_head_dim"] or c)
        q, k, v = (
            self.linear(f"{name}.to_{part}", h).reshape(b, height * width, heads, -1)
            for part in "qkv"
        )
        logits = np.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(q.shape[-1])
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        y = np.einsum("bhnm,bmhd->bnhd", weights, v).reshape(b, height * width, -1)
        y = self.linear(f"{name}.to_out.0", y).swapaxes(1, 2).reshape(x.shape)
        return (x + y) / divisor

    def layers(self, name, kind, h, emb, i):
        h = self.resnet(f"{name}.resnets.{i}", h, emb)
        if kind.startswith("Attn"):
            h = self.attention(f"{name}.attentions.{i}", h, self.fields["norm_num_groups"])
        return h

    def times(self, t):
        channels = self.fields["block_out_channels"][0]
        if self.fields["time_embedding_type"] == "learned":
            return self.tensors["time_proj.weight"][np.asarray(t, int)]
        if self.fields["time_embedding_type"] == "fourier":
            angle = np.log(t)[:, None] * self.tensors["time_proj.weight"] * 2 * np.pi
            return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
        half = channels // 2
        exponent = -math.log(10000) * np.arange(half) / (half - self.fields["freq_shift"])
        angle = np.asarray(t, np.float64)[:, None] * np.exp(exponent)
        waves = [np.sin(angle), np.cos(angle)]
        return np.concatenate(waves[::-1] if self.fields["flip_sin_to_cos"] else waves, axis=1)

    def embedding(self, name, x):
        return self.linear(f"{name}.linear_2", silu(self.linear(f"{name}.linear_1", x)))

    def __call__(self, x, t, label=None):
        """The output [B, C, H, W] for x [B, C, H, W], t [B] and whatever the labels are."""
        fields, x, t = self.fields, np.asarray(x, np.float64), np.asarray(t, np.float64)
        emb = self.embedding("time_embedding", self.times(t))
        if fields["class_embed_type"] == "timestep":
            emb = emb + self.embedding("class_embedding", self.times(label))
        elif label is not None:
            own = fields["class_embed_type"] == "identity"
            emb = emb + (label if own else self.tensors["class_embedding.weight"][label])
        features = [self.conv("conv_in", 2 * x - 1 if fields["center_input_sample"] else x)]
        for i, kind in enumerate(fields["down_block_types"]):
            h, name = features[-1], f"down_blocks.{i}"
            for j in range(fields["layers_per_block"]):
                h = self.layers(name, kind, h, emb, j)
                features.append(h)
            if f"{name}.downsamplers.0.conv.weight" in self.tensors:
                before = fields["downsample_padding"]
                features.append(self.conv(f"{name}.downsamplers.0.conv", h, 2, before))
            elif f"{name}.downsamplers.0.conv1.weight" in self.tensors:
                features.append(self.resnet(f"{name}.downsamplers.0", h, emb, halved))
        h, divisor = features[-1], fields["mid_block_scale_factor"]
        h = self.resnet("mid_block.resnets.0", h, emb, divisor=divisor)
        if fields["add_attention"]:
            groups = fields["attn_norm_num_groups"]
            if groups is None and fields["resnet_time_scale_shift"] == "default":
                groups = fields["norm_num_groups"]
            h = self.attention("mid_block.attentions.0", h, groups, divisor)
        h = self.resnet("mid_block.resnets.1", h, emb, divisor=divisor)
        for i, kind in enumerate(fields["up_block_types"]):
            name = f"up_blocks.{i}"
            for j in range(fields["layers_per_block"] + 1):
                h = np.concatenate([h, features.pop()], axis=1)
                h = self.layers(name, kind, h, emb, j)
            if f"{name}.upsamplers.0.conv.weight" in self.tensors:
                h = self.conv(f"{name}.upsamplers.0.conv", doubled(h))
            elif f"{name}.upsamplers.0.conv1.weight" in self.tensors:
                h = self.resnet(f"{name}.upsamplers.0", h, emb, doubled)
        out = self.conv("conv_out", silu(self.norm("conv_norm_out", h)))
        return out / t[:, None, None, None] if fields["time_embedding_type"] == "fourier" else out


def halved(x):
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5))


def doubled(x):
    return x.repeat(2, axis=2).repeat(2, axis=3)
