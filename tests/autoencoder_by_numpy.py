"""diffusers' AutoencoderKL in NumPy: NCHW, float64, from the tensors and fields of its files."""

import numpy as np
from unet2d_by_numpy import Reference, doubled, silu

DEFAULTS = {
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
    "mid_block_add_attention": True,
}


class Autoencoder(Reference):
    """Both halves, of a state dict and the fields of a config.json."""

    def __init__(self, tensors, fields):
        super().__init__(tensors, DEFAULTS | fields)

    def level(self, name, kind, h, layers):
        for i in range(layers):
            h = self.layers(name, kind, h, None, i)
        return h

    def middle(self, name, h):
        h = self.resnet(f"{name}.resnets.0", h)
        if self.fields["mid_block_add_attention"]:
            h = self.attention(f"{name}.attentions.0", h, self.fields["norm_num_groups"])
        return self.resnet(f"{name}.resnets.1", h)

    def last(self, half, h):
        return self.conv(f"{half}.conv_out", silu(self.norm(f"{half}.conv_norm_out", h)))

    def encode(self, x):
        """Mean and log variance, [B, 2 C, h, w], not clamped, of x [B, C, H, W]."""
        h = self.conv("encoder.conv_in", np.asarray(x, np.float64))
        for i, kind in enumerate(self.fields["down_block_types"]):
            name = f"encoder.down_blocks.{i}"
            h = self.level(name, kind, h, self.fields["layers_per_block"])
            if f"{name}.downsamplers.0.conv.weight" in self.tensors:
                h = self.conv(f"{name}.downsamplers.0.conv", h, 2, 0, 1)
        h = self.last("encoder", self.middle("encoder.mid_block", h))
        return self.conv("quant_conv", h) if "quant_conv.weight" in self.tensors else h

    def decode(self, z):
        """Samples [B, C, H, W] of latents that are not scaled, [B, C, h, w]."""
        z = np.asarray(z, np.float64)
        if "post_quant_conv.weight" in self.tensors:
            z = self.conv("post_quant_conv", z)
        h = self.middle("decoder.mid_block", self.conv("decoder.conv_in", z))
        for i, kind in enumerate(self.fields["up_block_types"]):
            name = f"decoder.up_blocks.{i}"
            h = self.level(name, kind, h, self.fields["layers_per_block"] + 1)
            if f"{name}.upsamplers.0.conv.weight" in self.tensors:
                h = self.conv(f"{name}.upsamplers.0.conv", doubled(h))
        return self.last("decoder", h)
