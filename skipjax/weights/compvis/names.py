"""diffusers' names of tensors, and those that CompVis and Stability AI have for the same.

One direction is enough: which names a network has follows from its config, so a file is read by
asking for the other name of each.
"""

import re
from collections.abc import Callable, Collection

_OF_RESNETS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OF_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding": "label_emb",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_OF_AUTOENCODER = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.1": "mid.block_2",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OF_OPENCLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "text_projection.weight": "text_projection",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn": "attn",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def _replacing(table: dict[str, str]) -> Callable[[str], str]:
    """What puts other names for whole modules of a name."""
    found = re.compile(rf"(?<![^.])({'|'.join(map(re.escape, table))})(?![^.])")
    return lambda name: found.sub(lambda one: table[one[1]], name)


_unet, _resnet = _replacing(_OF_UNET), _replacing(_OF_RESNETS)
_autoencoder, _openclip = _replacing(_OF_AUTOENCODER), _replacing(_OF_OPENCLIP)


def unet(name: str, layers: int, attends: Collection[int]) -> str:
    """The name in a U-Net, "input_blocks.1.0.in_layers.0.weight".

    Args:
        name: diffusers', of a tensor or of a module.
        layers: Residual blocks at each level of the encoder.
        attends: Levels of the decoder that have attention.
    """
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)(|\..+)", name)
    if found is None:
        return _inside(_unet(name))
    way, level, kind, i, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    first = level * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + layers + 1}.0{rest.replace('.conv', '.op', 1)}"
    if kind == "upsamplers":
        return f"output_blocks.{first + layers}.{1 + (level in attends)}{rest}"
    block = f"input_blocks.{first + i + 1}" if way == "down" else f"output_blocks.{first + i}"
    return _inside(f"{block}.{int(kind == 'attentions')}{rest}")


def autoencoder(name: str, levels: int) -> str:
    """The name in an autoencoder, "decoder.up.3.block.0.norm1.weight".

    Args:
        name: diffusers', of a tensor.
        levels: Of the encoder, and as many of the decoder, which CompVis counts from the finest.
    """

    def block(found: re.Match[str]) -> str:
        number = int(found[2])
        return f"{found[1]}.{number if found[1] == 'down' else levels - 1 - number}"

    name = re.sub(r"(?<=\.)(down|up)_blocks\.(\d+)", block, name)
    return _autoencoder(name).replace(".resnets.", ".block.")


def openclip(name: str) -> str:
    """The name in OpenCLIP's text encoder, "transformer.resblocks.0.ln_1.weight"; of "q_proj",
    "k_proj" and "v_proj" that of the tensor that they are parts of.

    Args:
        name: transformers', of a tensor, without the prefix "text_model.".
    """
    return re.sub(r"\.[qkv]_proj\.(\w+)$", r".in_proj_\1", _openclip(name))


def flat(name: str) -> str:
    """The name of a moving average: all dots removed."""
    return name.replace(".", "")


def _inside(name: str) -> str:
    """The name with what residual blocks are called within; transformers have one name."""
    return name if "transformer_blocks" in name else _resnet(name)


def attending(names: Collection[str]) -> set[int]:
    """The levels of a U-Net's decoder that have attention.

    Args:
        names: diffusers', of its tensors or modules.
    """
    found = (re.match(r"up_blocks\.(\d+)\.attentions\.", name) for name in names)
    return {int(one[1]) for one in found if one}


def layers(names: Collection[str]) -> int:
    """Residual blocks at each level of a U-Net's encoder.

    Args:
        names: diffusers', of its tensors or modules.
    """
    found = (re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name) for name in names)
    return 1 + max((int(one[1]) for one in found if one), default=0)
