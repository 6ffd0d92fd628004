"""Networks by the names that diffusers and transformers give their classes."""

from collections.abc import Mapping
from typing import Any

from skipjax.models import param_shapes
from skipjax.weights import registry

# Known by name, and not read: others say less of what they are.
REFUSED = {
    "AnimateDiffTransformer3D": "AnimateDiff",
    "AuraFlowTransformer2DModel": "AuraFlow",
    "CogVideoXTransformer3DModel": "CogVideoX",
    "ControlNetModel": "ControlNet",
    "Flux2Transformer2DModel": "Flux 2",
    "FluxTransformer2DModel": "Flux",
    "HunyuanVideoTransformer3DModel": "HunyuanVideo",
    "LTXVideoTransformer3DModel": "LTX Video",
    "MotionAdapter": "AnimateDiff",
    "QwenImageTransformer2DModel": "Qwen-Image",
    "SanaTransformer2DModel": "Sana",
    "SD3Transformer2DModel": "Stable Diffusion 3",
    "StableCascadeUNet": "Stable Cascade",
    "UNetMotionModel": "AnimateDiff",
    "UNetSpatioTemporalConditionModel": "Stable Video Diffusion",
    "WanTransformer3DModel": "Wan",
}


def network(name: str, fields: Mapping[str, Any]) -> Any:
    """The config of a network.

    Args:
        name: Of its class.
        fields: Of its config.json.

    Raises:
        ValueError: If the class is not known, with those that are; or none can be built.
    """
    config_of = registry.config_of(name)
    if config_of is None:
        known = ", ".join(sorted(registry.CLASSES)) or "none"
        whose = f", of {REFUSED[name]}" if name in REFUSED else ""
        raise ValueError(f"its network is a {name}{whose}, which is not read; known are {known}")
    if fields.get("quantization_config"):
        raise ValueError("its weights are quantised, which is not read: take plain ones")
    try:
        config = config_of(fields)
        param_shapes(config)
    except Exception as error:  # of Flax and JAX, which raise this and that for a size of -1
        said = str(error).strip() or type(error).__name__
        problem = said.splitlines()[0]
        raise ValueError(f"no {name} can be built from its config.json: {problem}") from None
    return config
