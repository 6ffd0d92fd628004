"""transformers' text encoders of CLIP: their config.json, their parameter names, and Flax's."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from skipjax.models import CLIPTextConfig, param_shapes
from skipjax.models.clip_text import END
from skipjax.weights import layout
from skipjax.weights.fields import construct
from skipjax.weights.layout import Convert

WHAT = "the config of CLIPTextModel"
PREFIX = "text_model."  # of all names but the projection's, in files from before transformers 5.6
# Whole CLIPs hold more, and older files a table of 0, 1, 2, ...
_LEFT_OUT = re.compile(r"(vision_model|visual_projection)\.|logit_scale$|.*\bposition_ids$")


def to_params(
    state_dict: Mapping[str, Any], config: CLIPTextConfig, convert: Convert | None = None
) -> dict[str, Any]:
    """Turns transformers' state dict into the params of a text encoder.

    Args:
        state_dict: Arrays by name, e.g. "text_model.encoder.layers.0.mlp.fc1.weight", as
            `layout.to_params` takes them; with the prefix or without. Of a whole CLIP the part
            that sees is left out, and so is a projection that the config lacks.
        config: The architecture.
        convert: As in `layout.to_params`.

    Returns:
        Nested dict of what `convert` gives; without it, of NumPy arrays of the dtypes that came
        in.

    Raises:
        ValueError: If a name is missing or unexpected, or a shape another one; says which.
    """
    named = {key.removeprefix(PREFIX): value for key, value in state_dict.items()}
    named = {key: value for key, value in named.items() if not _LEFT_OUT.match(key)}
    if not config.with_projection:
        named.pop("text_projection.weight", None)
    return layout.to_params(
        named, param_shapes(config), name, convert, diagnosis=lambda: _diagnosis(named, config)
    )


def name(path: tuple[str, ...]) -> str:
    """transformers' name, without the prefix, of the parameter at a path of the Flax tree."""
    *modules, leaf = path
    modules = [re.sub(r"^layers_", "layers.", module) for module in modules]
    return ".".join([*modules, "bias" if leaf == "bias" else "weight"])


def config_of(fields: Mapping[str, Any], with_projection: bool | None = None) -> CLIPTextConfig:
    """The architecture that a config.json describes; what it lacks has the class's default.

    Args:
        fields: Of the file: those of a CLIPTextConfig, or of a CLIPConfig, which has them in its
            "text_config". Files repeat what any model of transformers' can be told, which is
            passed over.
        with_projection: Whether it is a CLIPTextModelWithProjection. Default: whether its
            "architectures" say so.

    Raises:
        ValueError: For an activation that is not supported, or a value of another type.
    """
    told = dict(fields)
    nested = {**(told.get("text_config_dict") or {}), **(told.get("text_config") or {})}
    if nested:
        told = nested | {k: told[k] for k in ("projection_dim", "architectures") if k in told}
    if with_projection is None:
        kinds = told.get("architectures") or ()
        with_projection = any("WithProjection" in str(kind) for kind in kinds)
    known = {field.name for field in dataclasses.fields(CLIPTextConfig)}
    told = {k: v for k, v in told.items() if k in known and v is not None}
    config = construct(WHAT, CLIPTextConfig, told | {"with_projection": with_projection})
    if config.eos_token_id == 2 and config.vocab_size > END + 1:
        # Tokens were added, whose ids are greater than that of the end.
        return dataclasses.replace(config, eos_token_id=END)
    return config


def _diagnosis(named: Mapping[str, Any], config: CLIPTextConfig) -> list[str]:
    """What is the matter with a state dict that does not fit, as far as it can be told."""
    table = "embeddings.token_embedding.weight"
    if table not in named:
        return [f"the state dict is not one of CLIP's text encoders: {table} is missing"]
    layers = {key.split(".")[2] for key in named if key.startswith("encoder.layers.")}
    tokens, width = (*np.shape(named[table]), 0, 0)[:2]
    found = []
    for what, theirs, ours in (
        ("layers", len(layers), config.num_hidden_layers),
        ("tokens", tokens, config.vocab_size),
        ("channels", width, config.hidden_size),
    ):
        if theirs != ours:
            found.append(f"the file has {theirs} {what}, the config {ours}")
    if config.with_projection and "text_projection.weight" not in named:
        found.append("the file has no projection, and the config with_projection")
    return found
