"""EDM's and EDM2's networks transcribed in NumPy, float64 and NCHW, as functions of a state dict.

Written from the papers' descriptions (arXiv:2206.00364, table 7 and appendix F; arXiv:2312.02696,
appendix B), apart from the Flax code: layers are looked up by their names in the pickles, and
convolutions and filters are sums over shifted pictures.
"""

import numpy as np

SQRT_HALF = np.sqrt(0.5)


def conv2d(x, w, b=None, padding=None):
    """Stride 1; zeros around, by default as many as keep the size."""
    out_channels, _, k, _ = w.shape
    pad = k // 2 if padding is None else padding
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height, width = x.shape[2] - k + 1, x.shape[3] - k + 1
    y = np.zeros((len(x), height, width, out_channels))
    for i in range(k):
        for j in range(k):
            y += np.moveaxis(x[:, :, i : i + height, j : j + width], 1, -1) @ w[:, :, i, j].T
    y = np.moveaxis(y, -1, 1)
    return y if b is None else y + b[:, None, None]


def kernel(taps):
    f = np.outer(taps, taps).astype(float)
    return f / f.sum()


def filtered_down(x, taps, padding=None):
    """The filter on each channel, stride 2."""
    f = kernel(taps)
    pad = (len(taps) - 1) // 2 if padding is None else padding
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height, width = ((n - len(taps)) // 2 + 1 for n in x.shape[2:])
    return sum(
        f[i, j] * x[:, :, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2]
        for i in range(len(taps))
        for j in range(len(taps))
    )


def filtered_up(x, taps):
    """The transposed filter times 4: each pixel paints the kernel, two pixels apart."""
    f, k, pad = 4 * kernel(taps), len(taps), (len(taps) - 1) // 2
    height, width = x.shape[2:]
    canvas = np.zeros((*x.shape[:2], 2 * height + k - 2, 2 * width + k - 2))
    for i in range(k):
        for j in range(k):
            canvas[:, :, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2] += f[i, j] * x
    return canvas[:, :, pad : pad + 2 * height, pad : pad + 2 * width]


def silu(x):
    return x / (1 + np.exp(-x))


def group_norm(x, scale, bias, eps):
    groups = min(32, x.shape[1] // 4)
    h = x.reshape(len(x), groups, -1)
    h = (h - h.mean(2, keepdims=True)) / np.sqrt(h.var(2, keepdims=True) + eps)
    return h.reshape(x.shape) * scale[:, None, None] + bias[:, None, None]


def softmax(w):
    w = np.exp(w - w.max(-1, keepdims=True))
    return w / w.sum(-1, keepdims=True)


def attend(q, k, v):
    """Of [..., C, N]: columns are pixels."""
    weights = softmax(np.swapaxes(q, -1, -2) @ k / np.sqrt(q.shape[-2]))
    return v @ np.swapaxes(weights, -1, -2)


def one_hot(label, dim):
    return np.stack([np.eye(dim + 1)[i, :dim] for i in label])


class Layers:
    """A state dict, and what its layers compute."""

    def __init__(self, tensors, prefix):
        start = len(prefix)
        self.tensors = {
            k[start:]: np.asarray(v, float) for k, v in tensors.items() if k.startswith(prefix)
        }

    def has(self, name):
        return f"{name}.weight" in self.tensors

    def weight(self, name):
        return self.tensors[f"{name}.weight"]

    def bias(self, name):
        return self.tensors.get(f"{name}.bias")

    def linear(self, name, x):
        y = x @ self.weight(name).T
        return y if self.bias(name) is None else y + self.bias(name)

    def conv(self, name, x):
        return conv2d(x, self.weight(name), self.bias(name))

    def norm(self, name, x, eps):
        return group_norm(x, self.weight(name), self.bias(name), eps)


def unet_block(layers, name, x, emb, *, resample, taps, heads, adaptive, skip_scale, eps):
    def moved(h):
        return {"up": filtered_up, "down": filtered_down}[resample](h, taps) if resample else h

    h = layers.conv(f"{name}.conv0", moved(silu(layers.norm(f"{name}.norm0", x, eps))))
    told = layers.linear(f"{name}.affine", emb)[:, :, None, None]
    if adaptive:
        scale, shift = np.split(told, 2, axis=1)
        h = silu(shift + layers.norm(f"{name}.norm1", h, eps) * (scale + 1))
    else:
        h = silu(layers.norm(f"{name}.norm1", h + told, eps))
    h = layers.conv(f"{name}.conv1", h)
    x = moved(x)
    x = layers.conv(f"{name}.skip", x) if layers.has(f"{name}.skip") else x
    x = (x + h) * skip_scale
    if layers.has(f"{name}.qkv"):
        qkv = layers.conv(f"{name}.qkv", layers.norm(f"{name}.norm2", x, eps))
        number = heads(x.shape[1])
        q, k, v = np.moveaxis(qkv.reshape(len(x), number, x.shape[1] // number, 3, -1), 3, 0)
        y = attend(q, k, v).reshape(x.shape)
        x = (x + layers.conv(f"{name}.proj", y)) * skip_scale
    return x


def sinusoids(t, channels, endpoint):
    half = channels // 2
    angle = np.outer(t, (1 / 10000) ** (np.arange(half) / (half - endpoint)))
    return np.cos(angle), np.sin(angle)


def song_unet(tensors, kwargs, x, t, label=None, augment=None):
    """F of DDPM++ and NCSN++; x [B, C, H, W], t [B], label [B]."""
    layers, get = Layers(tensors, "model."), kwargs.get
    width = get("model_channels", 128)
    mults, blocks = get("channel_mult", [1, 2, 2, 2]), get("num_blocks", 4)
    taps = get("resample_filter", [1, 1])
    encoder, decoder = get("encoder_type", "standard"), get("decoder_type", "standard")
    if get("embedding_type", "positional") == "positional":
        cos, sin = sinusoids(t, width * get("channel_mult_noise", 1), 1)
    else:
        angle = np.outer(t, 2 * np.pi * layers.tensors["map_noise.freqs"])
        cos, sin = np.cos(angle), np.sin(angle)
    emb = np.concatenate([sin, cos], axis=1)
    if label is not None:
        dim = kwargs["label_dim"]
        emb = emb + layers.linear("map_label", one_hot(label, dim) * np.sqrt(dim))
    if augment is not None:
        emb = emb + layers.linear("map_augment", augment)
    emb = silu(layers.linear("map_layer1", silu(layers.linear("map_layer0", emb))))

    def block(name, h, resample=None):
        return unet_block(
            *(layers, name, h, emb),
            resample=resample,
            taps=taps,
            heads=lambda channels: 1,
            adaptive=False,
            skip_scale=SQRT_HALF,
            eps=1e-6,
        )

    res = kwargs["img_resolution"]
    skips, aux = [layers.conv(f"enc.{res}x{res}_conv", x)], x
    for level in range(len(mults)):
        at = f"enc.{res >> level}x{res >> level}"
        if level:
            h = block(f"{at}_down", skips[-1], "down")
            if encoder == "skip":
                aux = filtered_down(aux, taps)
                h = h + layers.conv(f"{at}_aux_skip", aux)
            elif encoder == "residual":
                name, pad = f"{at}_aux_residual", (len(taps) - 1) // 2
                wide = conv2d(aux, layers.weight(name), padding=1 + pad)
                halved = filtered_down(wide, taps, padding=0)
                h = aux = (h + halved + layers.bias(name)[:, None, None]) / np.sqrt(2)
            skips.append(h)
        for i in range(blocks):
            skips.append(block(f"{at}_block{i}", skips[-1]))

    h, out = skips[-1], None
    for level in reversed(range(len(mults))):
        at = f"dec.{res >> level}x{res >> level}"
        if level == len(mults) - 1:
            h = block(f"{at}_in1", block(f"{at}_in0", h))
        else:
            h = block(f"{at}_up", h, "up")
        for i in range(blocks + 1):
            h = block(f"{at}_block{i}", np.concatenate([h, skips.pop()], axis=1))
        if decoder == "skip" or level == 0:
            said = layers.conv(f"{at}_aux_conv", silu(layers.norm(f"{at}_aux_norm", h, 1e-6)))
            out = said if out is None else filtered_up(out, taps) + said
    assert not skips
    return out


def dhariwal_unet(tensors, kwargs, x, t, label=None, augment=None):
    """F of ADM as EDM has it."""
    layers, get = Layers(tensors, "model."), kwargs.get
    mults, blocks = get("channel_mult", [1, 2, 3, 4]), get("num_blocks", 3)
    emb = np.concatenate(sinusoids(t, get("model_channels", 192), 0), axis=1)
    if augment is not None:
        emb = emb + layers.linear("map_augment", augment)
    emb = layers.linear("map_layer1", silu(layers.linear("map_layer0", emb)))
    if label is not None:
        emb = emb + layers.linear("map_label", one_hot(label, kwargs["label_dim"]))
    emb = silu(emb)

    def block(name, h, resample=None):
        return unet_block(
            *(layers, name, h, emb),
            resample=resample,
            taps=[1, 1],
            heads=lambda channels: channels // 64,
            adaptive=True,
            skip_scale=1.0,
            eps=1e-5,
        )

    res = kwargs["img_resolution"]
    skips = [layers.conv(f"enc.{res}x{res}_conv", x)]
    for level in range(len(mults)):
        at = f"enc.{res >> level}x{res >> level}"
        if level:
            skips.append(block(f"{at}_down", skips[-1], "down"))
        for i in range(blocks):
            skips.append(block(f"{at}_block{i}", skips[-1]))
    h = skips[-1]
    for level in reversed(range(len(mults))):
        at = f"dec.{res >> level}x{res >> level}"
        if level == len(mults) - 1:
            h = block(f"{at}_in1", block(f"{at}_in0", h))
        else:
            h = block(f"{at}_up", h, "up")
        for i in range(blocks + 1):
            h = block(f"{at}_block{i}", np.concatenate([h, skips.pop()], axis=1))
    return layers.conv("out_conv", silu(layers.norm("out_norm", h, 1e-5)))


def normalize(x, axes):
    """x over 1e-4 + its root mean square over some axes."""
    return x / (1e-4 + np.sqrt(np.mean(x**2, axis=axes, keepdims=True)))


class Magnitudes(Layers):
    """Layers whose weights are normalised whenever they are used."""

    def used(self, name, gain=1.0):
        w = self.weight(name)
        w = normalize(w, tuple(range(1, w.ndim)))
        return w * gain / np.sqrt(w[0].size)

    def linear(self, name, x, gain=1.0):
        return x @ self.used(name, gain).T

    def conv(self, name, x, gain=1.0):
        return conv2d(x, self.used(name, gain))


def mp_silu(x):
    return silu(x) / 0.596


def mp_sum(a, b, t):
    return (a + t * (b - a)) / np.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a, b, t):
    scale = np.sqrt((a.shape[1] + b.shape[1]) / ((1 - t) ** 2 + t**2))
    a, b = a * scale * (1 - t) / np.sqrt(a.shape[1]), b * scale * t / np.sqrt(b.shape[1])
    return np.concatenate([a, b], axis=1)


def mp_fourier(layers, name, t):
    freqs, phases = layers.tensors[f"{name}.freqs"], layers.tensors[f"{name}.phases"]
    return np.cos(np.outer(t, freqs) + phases) * np.sqrt(2)


def mp_block(layers, name, x, emb, encoder, resample, taps, head):
    if resample:
        x = {"up": filtered_up, "down": filtered_down}[resample](x, taps)
    if encoder:
        x = layers.conv(f"{name}.conv_skip", x) if layers.has(f"{name}.conv_skip") else x
        x = normalize(x, 1)
    h = layers.conv(f"{name}.conv_res0", mp_silu(x))
    gain = layers.linear(f"{name}.emb_linear", emb, layers.tensors[f"{name}.emb_gain"]) + 1
    h = layers.conv(f"{name}.conv_res1", mp_silu(h * gain[:, :, None, None]))
    if not encoder and layers.has(f"{name}.conv_skip"):
        x = layers.conv(f"{name}.conv_skip", x)
    x = mp_sum(x, h, 0.3)
    if layers.has(f"{name}.attn_qkv"):
        qkv = layers.conv(f"{name}.attn_qkv", x)
        qkv = qkv.reshape(len(x), x.shape[1] // head, head, 3, -1)
        q, k, v = np.moveaxis(normalize(qkv, 2), 3, 0)
        x = mp_sum(x, layers.conv(f"{name}.attn_proj", attend(q, k, v).reshape(x.shape)), 0.3)
    return np.clip(x, -256, 256)


def edm2_unet(tensors, kwargs, x, t, label=None):
    """F of EDM2."""
    layers, get = Magnitudes(tensors, "unet."), kwargs.get
    mults, blocks = get("channel_mult", [1, 2, 3, 4]), get("num_blocks", 3)
    taps, head = get("resample_filter", [1, 1]), get("channels_per_head", 64)
    emb = layers.linear("emb_noise", mp_fourier(layers, "emb_fourier", t))
    if label is not None:
        dim = kwargs["label_dim"]
        said = layers.linear("emb_label", one_hot(label, dim) * np.sqrt(dim))
        emb = mp_sum(emb, said, get("label_balance", 0.5))
    emb = mp_silu(emb)

    def block(name, h, resample=None):
        return mp_block(layers, name, h, emb, name.startswith("enc"), resample, taps, head)

    res = kwargs["img_resolution"]
    x = np.concatenate([x, np.ones_like(x[:, :1])], axis=1)
    skips = [layers.conv(f"enc.{res}x{res}_conv", x)]
    for level in range(len(mults)):
        at = f"enc.{res >> level}x{res >> level}"
        if level:
            skips.append(block(f"{at}_down", skips[-1], "down"))
        for i in range(blocks):
            skips.append(block(f"{at}_block{i}", skips[-1]))
    h = skips[-1]
    for level in reversed(range(len(mults))):
        at = f"dec.{res >> level}x{res >> level}"
        if level == len(mults) - 1:
            h = block(f"{at}_in1", block(f"{at}_in0", h))
        else:
            h = block(f"{at}_up", h, "up")
        for i in range(blocks + 1):
            h = block(f"{at}_block{i}", mp_cat(h, skips.pop(), get("concat_balance", 0.5)))
    return layers.conv("out_conv", h, layers.tensors["out_gain"])


NETWORKS = {"SongUNet": song_unet, "DhariwalUNet": dhariwal_unet}


def denoised(class_name, tensors, kwargs, x, sigma, label=None):
    """D(x; sigma) of a preconditioner: x [B, C, H, W], one sigma (arXiv:2206.00364, table 1)."""
    data, many = kwargs.get("sigma_data", 0.5), np.ones(len(x))
    if class_name in ("EDMPrecond", "Precond"):
        total = sigma**2 + data**2
        c_skip, c_out, c_in = data**2 / total, sigma * data / np.sqrt(total), 1 / np.sqrt(total)
        c_noise = np.log(sigma) / 4
    elif class_name == "VPPrecond":
        c_skip, c_out, c_in = 1, -sigma, 1 / np.sqrt(sigma**2 + 1)
        c_noise = 999 * (np.sqrt(0.1**2 + 2 * 19.9 * np.log(1 + sigma**2)) - 0.1) / 19.9
    elif class_name == "VEPrecond":
        c_skip, c_out, c_in, c_noise = 1, sigma, 1, np.log(0.5 * sigma)
    else:
        c_skip, c_out, c_in = 1, -sigma, 1 / np.sqrt(sigma**2 + 1)
        u, abar = np.zeros(1001), np.sin(np.pi / 2 * np.arange(1001) / 1000 / 1.008) ** 2
        for j in range(1000, 0, -1):
            u[j - 1] = np.sqrt((u[j] ** 2 + 1) / max(abar[j - 1] / abar[j], 0.001) - 1)
        c_noise = 999 - np.argmin(np.abs(u - sigma))
    if class_name == "Precond":
        F = edm2_unet(tensors, kwargs, c_in * x, c_noise * many, label)
    else:
        default = "SongUNet" if class_name in ("VPPrecond", "VEPrecond") else "DhariwalUNet"
        network = NETWORKS[kwargs.get("model_type", default)]
        F = network(tensors, kwargs, c_in * x, c_noise * many, label)
    return c_skip * x + c_out * F[:, : x.shape[1]]
