"""The parts of Stable Diffusion 1.5, at full size or tiny: what the benchmarks of it share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.codecs import AutoencoderKL
from skipjax.conditioners import ClipText, Tokenizer
from skipjax.models import param_shapes
from skipjax.pretrained import Pretrained
from skipjax.weights import autoencoder, clip_text, registry, unet2d_condition

PARTS = ("unet", "vae", "text")


class Part(NamedTuple):
    """A network of a pipeline.

    Attributes:
        library: Where its class is.
        cls: The class.
        fields: Of its config.json; what is not said has the default of the class.
        config_of: From the fields to our config.
        to_params: From a state dict to our params.
    """

    library: str
    cls: str
    fields: dict[str, Any]
    config_of: Callable[..., Any]
    to_params: Callable[..., Any]

    @property
    def config(self) -> Any:
        """Ours."""
        return self.config_of(self.fields)


def part(name: str, tiny: bool = False) -> Part:
    """One of `PARTS`.

    Args:
        name: Which.
        tiny: Whether it is to be small enough to try the benchmark with.
    """
    if name == "unet":
        fields: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}
        if tiny:
            fields |= {"sample_size": 8, "cross_attention_dim": 32}
            fields |= {"block_out_channels": [32, 32, 64, 64], "layers_per_block": 1}
        return Part(
            "diffusers",
            "UNet2DConditionModel",
            fields,
            unet2d_condition.config_of,
            unet2d_condition.to_params,
        )
    if name == "vae":
        widths = [32, 32, 64, 64] if tiny else [128, 256, 512, 512]
        fields = {"block_out_channels": widths, "layers_per_block": 1 if tiny else 2}
        fields |= {"sample_size": 64 if tiny else 512, "latent_channels": 4}
        fields |= {"down_block_types": ["DownEncoderBlock2D"] * 4}
        fields |= {"up_block_types": ["UpDecoderBlock2D"] * 4}
        return Part(
            "diffusers", "AutoencoderKL", fields, autoencoder.config_of, autoencoder.to_params
        )
    fields = {"vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072}
    fields |= {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "quick_gelu"}
    fields |= {"projection_dim": 768, "bos_token_id": 0, "eos_token_id": 2}
    if tiny:
        fields |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        fields |= {"num_attention_heads": 4, "vocab_size": 1000}
    return Part("transformers", "CLIPTextModel", fields, clip_text.config_of, clip_text.to_params)


def filled(config: Any, dtype: Any) -> Any:
    """Params of a network, without the time that random ones take: for what does not depend on
    their values.
    """
    rng = np.random.default_rng(0)

    def fill(path: Any, leaf: Any) -> jax.Array:
        one = 1.0 if path[-1].key == "scale" else 0.0
        fan_in = max(int(np.prod(leaf.shape[:-1])), 1)
        row = one + rng.normal(0, 0.5 * fan_in**-0.5, leaf.shape[-1])
        return jnp.broadcast_to(jnp.asarray(row, dtype), leaf.shape) + jnp.zeros((), dtype)

    return jax.tree.map_with_path(fill, param_shapes(config))


def pipeline(tokenizer: Tokenizer, dtype: Any, tiny: bool = False) -> Pretrained:
    """Stable Diffusion 1.5 as a whole, of `filled` params."""
    unet, vae, text = (part(name, tiny).config for name in PARTS)
    model = registry.MODELS[type(unet)](unet, "stable-diffusion-v1-5")
    words = ClipText((filled(text, dtype),), (text,), (tokenizer,))
    return model.replace(
        params=filled(unet, dtype),
        conditioner=words,
        codec=AutoencoderKL(filled(vae, dtype), vae),
    )
