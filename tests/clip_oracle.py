"""transformers' text encoders with random weights, and ours with the same."""

import pytest

from skipjax.conditioners import TextEncoder
from skipjax.weights import clip_text

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e .[oracle]")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install -e .[oracle]"
)


def their_encoder(fields, seed=0):
    """A network with weights such that every layer matters."""
    config = transformers.CLIPTextConfig(**fields)
    network = getattr(transformers, fields["architectures"][0])(config).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, param in network.named_parameters():
            value = torch.randn(param.shape, generator=random)
            if param.ndim > 1 and "embedding" not in name:
                value *= 1.5 / param.shape[1] ** 0.5
            elif param.ndim == 1:
                value = 0.2 * value + (1.0 if name.endswith("weight") else 0.0)
            param.copy_(value)
    return network


def ours_of(network, prefix=None):
    """Our encoder of their weights; with a prefix, as files from before transformers 5.6."""
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    if prefix is not None:
        bare = {name.removeprefix("text_model."): value for name, value in state.items()}
        state = {(n if "projection" in n else prefix + n): value for n, value in bare.items()}
    config = clip_text.config_of(network.config.to_dict())
    return TextEncoder(clip_text.to_params(state, config), config)
