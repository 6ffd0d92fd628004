"""DiT and SiT in torch, by the names of Facebook's code: what the Flax module is compared with."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e .[oracle]")
nn, functional = torch.nn, torch.nn.functional


class DiT(nn.Module):
    """eps, with the variance behind it, of latents [B, C, H, W]; or SiT's velocity alone."""

    def __init__(self, config):
        super().__init__()
        self.config, width = config, config.hidden_size
        doubled = config.in_channels * (1 if config.sigma == "none" else 2)
        rows, columns = (side // config.patch_size for side in config.size)
        self.x_embedder = nn.Module()
        square = config.patch_size
        self.x_embedder.proj = nn.Conv2d(config.in_channels, width, square, square)
        self.pos_embed = nn.Parameter(torch.zeros(1, rows * columns, width))
        self.t_embedder = nn.Module()
        self.t_embedder.mlp = mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU())
        mlp.append(nn.Linear(width, width))
        self.y_embedder = nn.Module()
        self.y_embedder.embedding_table = nn.Embedding(config.num_classes, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_layer = nn.Module()
        self.final_layer.adaLN_modulation = modulation(width, 2)
        self.final_layer.linear = nn.Linear(width, square**2 * doubled)

    def forward(self, x, t, y):
        b, channels, height, width = x.shape
        p = self.config.patch_size
        h = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        frequency = torch.exp(-torch.arange(128) / 128 * torch.log(torch.tensor(10000.0)))
        angle = t[:, None] * frequency
        c = self.t_embedder.mlp(torch.cat([angle.cos(), angle.sin()], dim=1))
        c = c + self.y_embedder.embedding_table(y)
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.final_layer.adaLN_modulation(c).chunk(2, dim=1)
        h = self.final_layer.linear(modulate(h, shift, scale))
        h = h.reshape(b, height // p, width // p, p, p, -1).permute(0, 5, 1, 3, 2, 4)
        out = h.reshape(b, -1, height, width)
        return out[:, :channels] if self.config.sigma == "dropped" else out

    def with_cfg(self, x, t, y, scale):
        """Of pairs, first those of a class and then those of none: 3 channels are guided."""
        half = x[: len(x) // 2]
        out = self(torch.cat([half, half]), t, y)
        wanted, null = out[:, :3].chunk(2)
        mixed = null + scale * (wanted - null)
        return torch.cat([torch.cat([mixed, mixed]), out[:, 3:]], dim=1)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, self.heads = config.hidden_size, config.num_heads
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = int(config.mlp_ratio * width)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.adaLN_modulation = modulation(width, 6)

    def forward(self, x, c):
        told = self.adaLN_modulation(c).chunk(6, dim=1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = told
        b, n, width = x.shape
        qkv = self.attn.qkv(modulate(x, shift_a, scale_a)).reshape(b, n, 3, self.heads, -1)
        h = functional.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4).unbind(0))
        h = self.attn.proj(h.transpose(1, 2).reshape(b, n, width))
        x = x + gate_a[:, None] * h
        h = functional.gelu(self.mlp.fc1(modulate(x, shift_m, scale_m)), approximate="tanh")
        return x + gate_m[:, None] * self.mlp.fc2(h)


def modulation(width, parts):
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))


def modulate(x, shift, scale):
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


def at_random(network):
    """The network with every weight drawn, those too that training starts from zero."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for param in network.parameters():
            scale = param[0].numel() ** -0.5 if param.ndim > 1 else 0.2
            param.copy_(scale * torch.randn(param.shape, generator=random))
    return network.eval()
