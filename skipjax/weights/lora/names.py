"""The names that LoRAs have for the modules of a network.

Underscores stand for dots in kohya's, where they are ambiguous, so names are not taken apart: all
that a network's modules may be called are listed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from skipjax.weights.compvis import names

# What diffusers puts before the names of a component's modules, and kohya's scripts.
PREFIXES = {
    "unet": ("unet.", ("lora_unet_",)),
    "unet_ema": ("unet.", ("lora_unet_",)),
    "transformer": ("transformer.", ("lora_unet_", "lora_transformer_")),
    "text_encoder": ("text_encoder.", ("lora_te_", "lora_te1_")),
    "text_encoder_2": ("text_encoder_2.", ("lora_te2_",)),
}
_PEFT = "base_model.model."
_TEXT = "text_model."


def table(tensors: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, str]]:
    """The component and the tensor's name of all that its module may be called.

    Args:
        tensors: By component, the names of its tensors in files of diffusers.
    """
    found: dict[str, tuple[str, str]] = {}
    for component, every in tensors.items():
        if component not in PREFIXES:
            continue
        modules = {n.removesuffix(".weight"): n for n in every if n.endswith(".weight")}
        layers, attends = names.layers(modules), names.attending(modules)
        for module, tensor in modules.items():
            theirs = names.unet(module, layers, attends)
            for name in _aliases(component, module, theirs):
                found.setdefault(name, (component, tensor))
    return found


def _aliases(component: str, module: str, theirs: str) -> Iterator[str]:
    """What a module may be called; `theirs` is CompVis's name of one of a U-Net."""
    dotted, underscored = PREFIXES[component]
    paths = [module]
    if component.startswith("text_encoder"):
        short = module.removeprefix(_TEXT)
        paths = [_TEXT + short, short]
    else:
        # Of diffusers before peft: to_q_lora beside its attention, not in it.
        found = re.fullmatch(r"(.+\.attn\d)\.(to_[qkv]|to_out)(\.0)?", module)
        if found:
            paths += [f"{found[1]}.processor.{found[2]}_lora"]
    for path in paths:
        yield f"{dotted}{path}"
        yield f"{_PEFT}{path}"
        yield path
        yield from (prefix + path.replace(".", "_") for prefix in underscored)
    if component in ("unet", "unet_ema"):
        yield from (prefix + theirs.replace(".", "_") for prefix in underscored)
