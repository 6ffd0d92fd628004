"""DiT's and SiT's checkpoints: Facebook's names of the weights, diffusers', and Flax's.

The two layouts belong to networks that differ (`models.dit.DIFFUSERS`), so a file goes with a
config of its own kind: Facebook's have no config, and a card or `DiTConfig.named` says what they
are; diffusers' have a config.json, of which `config_of` makes one.
"""

import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from skipjax.checks import whole
from skipjax.codecs import Latents
from skipjax.conditioners import Labels
from skipjax.models import DiTConfig, param_shapes
from skipjax.models.dit import DIFFUSERS
from skipjax.pretrained import Pretrained
from skipjax.process import Flow, Process, as_schedule
from skipjax.weights import layout
from skipjax.weights.layout import Convert

# By our modules without their numbers: Facebook's names and diffusers', {} a block's number.
NAMES = {
    "pos_embed": ("pos_embed", "pos_embed.pos_embed"),
    "x_embedder_proj": ("x_embedder.proj", "pos_embed.proj"),
    "embedder/t_embedder_mlp_0": (
        "t_embedder.mlp.0",
        "transformer_blocks.{}.norm1.emb.timestep_embedder.linear_1",
    ),
    "embedder/t_embedder_mlp_2": (
        "t_embedder.mlp.2",
        "transformer_blocks.{}.norm1.emb.timestep_embedder.linear_2",
    ),
    "embedder/y_embedder_embedding_table": (
        "y_embedder.embedding_table",
        "transformer_blocks.{}.norm1.emb.class_embedder.embedding_table",
    ),
    "blocks/adaLN_modulation_1": (
        "blocks.{}.adaLN_modulation.1",
        "transformer_blocks.{}.norm1.linear",
    ),
    "blocks/attn_qkv": ("blocks.{}.attn.qkv", "transformer_blocks.{}.attn1.to_qkv"),
    "blocks/attn_proj": ("blocks.{}.attn.proj", "transformer_blocks.{}.attn1.to_out.0"),
    "blocks/mlp_fc1": ("blocks.{}.mlp.fc1", "transformer_blocks.{}.ff.net.0.proj"),
    "blocks/mlp_fc2": ("blocks.{}.mlp.fc2", "transformer_blocks.{}.ff.net.2"),
    "final_layer/adaLN_modulation_1": ("final_layer.adaLN_modulation.1", "proj_out_1"),
    "final_layer/linear": ("final_layer.linear", "proj_out_2"),
}

# What DiTTransformer2DModel takes where config.json is silent.
DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": None,
    "num_layers": 28,
    "dropout": 0.0,
    "attention_bias": True,
    "sample_size": 32,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-5,
}
# What these must be where they are given; some are of older files' Transformer2DModel.
ONLY: dict[str, tuple[Any, ...]] = {
    "norm_type": ("ada_norm_zero",),
    "activation_fn": ("gelu-approximate", "gelu"),
    "norm_elementwise_affine": (False,),
    "interpolation_scale": (None, 1, 1.0),
    "cross_attention_dim": (None,),
    "num_vector_embeds": (None,),
    "caption_channels": (None,),
    "only_cross_attention": (False,),
    "double_self_attention": (False,),
    "attention_type": ("default",),
    "use_additional_conditions": (None, False),
}
# That change nothing here: softmax is in float32 anyway, and no group is normed.
IDLE = {"upcast_attention", "norm_num_groups", "use_linear_projection"}


def to_params(
    state_dict: Mapping[str, Any], config: DiTConfig, convert: Convert | None = None
) -> dict[str, Any]:
    """Turns a state dict in Facebook's or in diffusers' layout into the params of a `DiT`.

    Args:
        state_dict: Arrays by name, as `layout.to_params` takes them; the names say which layout
            it is. Facebook's is that of DiT and of SiT.
        config: The architecture.
        convert: As in `layout.to_params`.

    Returns:
        Nested dict of what `convert` gives; without it, of NumPy arrays of the dtypes that came
        in.

    Raises:
        ValueError: If a name is missing or unexpected, or a shape another one; says which, and
            what seems to be the matter.
    """
    diffusers = any(key.startswith("transformer_blocks.") for key in state_dict)
    return layout.to_params(
        _joined(state_dict) if diffusers else state_dict,
        param_shapes(config),
        lambda path: name(path, diffusers),
        convert,
        diagnosis=lambda: _diagnosis(state_dict, config, diffusers),
    )


def name(path: tuple[str, ...], diffusers: bool = False) -> str:
    """The name of the parameter at a path of the Flax tree, in Facebook's layout or diffusers'."""
    if len(path) == 1:
        return NAMES[path[0]][diffusers]
    first, *others, leaf = path
    numbered = re.fullmatch(r"(blocks|embedder)_(\d+)", first)
    first, number = numbered.groups() if numbered else (first, "0")
    called = NAMES["/".join([first, *others])][diffusers].format(number)
    return f"{called}.{'bias' if leaf == 'bias' else 'weight'}"


def config_of(fields: Mapping[str, Any]) -> DiTConfig:
    """The network that a config.json of diffusers' describes.

    Args:
        fields: Its content, of a DiTTransformer2DModel, or of a Transformer2DModel whose
            norm_type is "ada_norm_zero". What is absent takes DiTTransformer2DModel's default;
            what is unknown is named in a warning.

    Raises:
        ValueError: For an option that is not supported, or from which no network can be built.
    """
    given = {key: value for key, value in fields.items() if not key.startswith("_")}
    for key, accepted in ONLY.items():
        value = given.get(key, accepted[0])
        if value not in accepted:
            pixart = ": it is a PixArt's" if value == "ada_norm_single" else ""
            raise ValueError(
                f"{key} is {value!r}, which is not supported of a DiT{pixart}; it must be "
                f"{' or '.join(map(repr, accepted))}"
            )
    unknown = given.keys() - DEFAULTS.keys() - ONLY.keys() - IDLE
    if unknown:
        warnings.warn(
            f"config.json: nothing is known of {', '.join(sorted(unknown))}", stacklevel=2
        )
    said = DEFAULTS | given
    for key, default in DEFAULTS.items():
        if type(default) is int:
            said[key] = whole(key, said[key], 1)
        elif isinstance(default, (bool, float)) and not _like(said[key], default):
            kind = "true or false" if isinstance(default, bool) else "a number"
            raise ValueError(f"{key} is {said[key]!r}: it must be {kind}")
    channels, heads = said["in_channels"], said["num_attention_heads"]
    out = channels if said["out_channels"] is None else said["out_channels"]
    if out not in (channels, 2 * channels):
        raise ValueError(
            f"out_channels is {out}: it must be in_channels, {channels}, or twice as many for a "
            "learned variance"
        )
    return DiTConfig(
        sample_size=said["sample_size"],
        hidden_size=heads * said["attention_head_dim"],
        depth=said["num_layers"],
        num_heads=heads,
        patch_size=said["patch_size"],
        in_channels=channels,
        num_classes=said["num_embeds_ada_norm"] + 1,
        sigma="none" if out == channels else "given",
        qkv_bias=said["attention_bias"],
        exact_gelu=said["activation_fn"] == "gelu",
        dropout=said["dropout"],
        **DIFFUSERS | {"mlp_norm_eps": said["norm_eps"]},
    )


def _like(value: Any, default: bool | float) -> bool:
    """Whether a value of JSON may stand for a default."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, (int, float))


def model(config: DiTConfig, name: str) -> Pretrained:
    """What an architecture is taken to be, where nothing else is known: trained as DiT's are,
    with the linear schedule, T = 1000, to predict eps; or, where the second half of the output is
    dropped, as SiT's, to predict the velocity of a rectified flow. Without params.
    """
    null = config.num_classes - 1
    labels = Labels(config.num_classes, null_label=null if null else None)
    if config.sigma == "dropped":
        process = Process(
            as_schedule("rectified_flow"), "data_velocity", Flow(to_data=True), bounds=None
        )
    else:
        variance = "learned_range" if config.sigma == "given" else "large"
        process = Process(as_schedule("linear"), variance=variance, bounds=None)
    return Pretrained(None, config, process, labels, Latents(), name)


class _Joined:
    """Several tensors as one, along their first axis: read when it is asked for."""

    def __init__(self, *parts: Any):
        self.parts = parts
        rows = sum(np.shape(part)[0] for part in parts)
        self.shape = (rows, *np.shape(parts[0])[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate([np.asarray(part) for part in self.parts]).astype(dtype, copy=False)


def _joined(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """diffusers' to_q, to_k and to_v as the to_qkv that they are multiplied as."""
    found: dict[str, Any] = dict(state_dict)
    for key in state_dict:
        if ".attn1.to_q." not in key:
            continue
        keys = [key.replace(".to_q.", f".to_{kind}.") for kind in "qkv"]
        if len({np.shape(found.get(one, 0)) for one in keys}) == 1:
            found[key.replace(".to_q.", ".to_qkv.")] = _Joined(*map(found.pop, keys))
    return found


def _diagnosis(state_dict: Mapping[str, Any], config: DiTConfig, diffusers: bool) -> list[str]:
    """What is the matter with a state dict that does not fit, as far as it can be told."""
    embedders = "repeated" if diffusers else "shared"
    if "transformer_blocks.0.norm1.linear.weight" not in state_dict and (
        "blocks.0.adaLN_modulation.1.weight" not in state_dict
    ):
        return []
    found = []
    if config.embedders != embedders:
        whose = "diffusers'" if diffusers else "Facebook's"
        found.append(
            f"the file is of {whose} layout, whose embedders of time and label are {embedders}; "
            f"the config has embedders = {config.embedders!r}"
        )

    def compare(what: str, path: tuple[str, ...], axis: int, ours: int, unit: int = 1) -> None:
        shape = np.shape(state_dict.get(name(path, diffusers), 0))
        if axis < len(shape) and shape[axis] != ours * unit:
            found.append(f"the file has {what} {shape[axis] // unit}, the config {ours}")

    blocks = {key.split(".")[1] for key in state_dict if re.match(r"\w*blocks\.\d+\.", key)}
    if len(blocks) != config.depth:
        found.append(f"the file has depth {len(blocks)}, the config {config.depth}")
    compare("hidden_size", ("x_embedder_proj", "kernel"), 0, config.hidden_size)
    compare("in_channels", ("x_embedder_proj", "kernel"), 1, config.in_channels)
    compare("patch_size", ("x_embedder_proj", "kernel"), 2, config.patch_size)
    compare(
        "num_classes",
        ("embedder", "y_embedder_embedding_table", "embedding"),
        0,
        config.num_classes,
    )
    p2 = config.patch_size**2
    outputs = config.in_channels * (1 if config.sigma == "none" else 2)
    compare("outputs of the last layer:", ("final_layer", "linear", "bias"), 0, outputs, p2)
    if not diffusers:
        h, w = (side // config.patch_size for side in config.size)
        compare("places:", ("pos_embed",), 1, h * w)
    return found
