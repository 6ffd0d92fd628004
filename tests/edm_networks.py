"""Small networks of EDM's kinds, with random weights as their pickles have them."""

import numpy as np
from flax import traverse_util

from skipjax.models import MagnitudeUNetConfig, param_shapes
from skipjax.weights import edm

SONG = {
    "img_resolution": 16,
    "img_channels": 3,
    "model_type": "SongUNet",
    "model_channels": 16,
    "channel_mult": [1, 2, 2],
    "num_blocks": 1,
    "attn_resolutions": [8],
}
# DDPM++ and NCSN++, and what no released file has; ADM; and each preconditioner once.
CASES = {
    "ddpmpp": ("EDMPrecond", SONG | {"label_dim": 5, "augment_dim": 9}),
    "ncsnpp": (
        "EDMPrecond",
        SONG
        | {
            "embedding_type": "fourier",
            "encoder_type": "residual",
            "channel_mult_noise": 2,
            "resample_filter": [1, 3, 3, 1],
        },
    ),
    "skip": (
        "VEPrecond",
        SONG | {"encoder_type": "skip", "decoder_type": "skip", "resample_filter": [1, 3, 3, 1]},
    ),
    "vp": ("VPPrecond", SONG | {"channel_mult": [1, 2]}),
    "adm": (
        "iDDPMPrecond",
        {
            "img_resolution": 8,
            "img_channels": 3,
            "label_dim": 4,
            "model_channels": 64,
            "channel_mult": [1, 2],
            "num_blocks": 1,
            "attn_resolutions": [4],
        },
    ),
    "edm2": (
        "Precond",
        {
            "img_resolution": 8,
            "img_channels": 4,
            "label_dim": 6,
            "model_channels": 32,
            "channel_mult": [1, 2],
            "num_blocks": 1,
            "attn_resolutions": [4],
            "channels_per_head": 16,
        },
    ),
}


def described(case):
    """The model that a case's arguments describe, without params."""
    return edm.models.model_of(*CASES[case], case)


def kernel_of(taps):
    return (np.outer(taps, taps) / np.sum(taps) ** 2)[None, None].astype(np.float32)


def tensors_of(class_name, kwargs, seed=0):
    """Random tensors by name, float32 in torch's layouts, and the names of the buffers."""
    model = edm.models.model_of(class_name, kwargs, "random")
    rng, found, buffers = np.random.default_rng(seed), {}, set()
    magnitude = isinstance(model.network, MagnitudeUNetConfig)
    prefix = "unet." if magnitude else "model."
    for path, leaf in traverse_util.flatten_dict(param_shapes(model.network)).items():
        name, shape = prefix + edm.name(path), leaf.shape
        if path[-1] == "kernel":
            shape = (*shape[:-3:-1], *shape[:-2])
            shape += (1, 1) * (path[-2] in ("qkv", "proj"))
        values = rng.normal(size=shape)
        if path[-1] == "kernel" and not magnitude:
            values *= np.prod(shape[1:]) ** -0.5
        elif path[-1] == "scale":
            values = 1 + 0.1 * values
        elif path[-1] == "bias":
            values *= 0.1
        if path[-1] in ("freqs", "phases"):
            buffers.add(name)
        found[name] = values.astype(np.float32)
        if path[-2] == "emb_linear":
            found[name.replace("emb_linear.weight", "emb_gain")] = np.float32(0.7)
    if magnitude:
        found["unet.out_gain"] = np.float32(0.9)
        for name in ("freqs", "phases"):
            found[f"logvar_fourier.{name}"] = rng.normal(size=8).astype(np.float32)
            buffers.add(f"logvar_fourier.{name}")
        found["logvar_linear.weight"] = rng.normal(size=(1, 8)).astype(np.float32)
        return found, buffers
    kernel = kernel_of(kwargs.get("resample_filter", [1, 1]))
    for block in {name.rpartition(".conv0.weight")[0] for name in found if "conv0.weight" in name}:
        if block.endswith(("_down", "_up")):
            for layer in ("conv0", "skip"):
                found[f"{block}.{layer}.resample_filter"] = kernel
    for name in [name for name in found if name.endswith("aux_residual.weight")]:
        found[name.replace("weight", "resample_filter")] = kernel
    if class_name == "iDDPMPrecond":
        found["u"] = model.process.precondition.levels().astype(np.float32)
        buffers.add("u")
    return found, buffers | {name for name in found if name.endswith("resample_filter")}
