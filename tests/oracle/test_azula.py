"""The ADM U-Net and schedules against azula's, a PyTorch copy of guided-diffusion's."""

from dataclasses import asdict, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import schedules
from skipjax.models import UNet, UNetConfig
from skipjax.weights import adm

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e .[oracle]")
azula = pytest.importorskip(
    "azula.plugins.adm", reason="azula is not installed: pip install -e .[oracle]"
)

# 64 channels at least: the group norm of 32 would leave nothing of an embedding that is added.
PLAIN = UNetConfig(
    image_size=16,
    in_channels=3,
    model_channels=64,
    out_channels=3,
    num_res_blocks=1,
    attention_resolutions=(2,),
    channel_mult=(1, 2),
    num_heads=2,
)
RELEASED = replace(
    PLAIN,
    out_channels=6,
    num_classes=7,
    num_head_channels=32,
    use_scale_shift_norm=True,
    resblock_updown=True,
)
# Every option of the constructor, with each value that has code of its own.
CONFIGS = {
    "plain": PLAIN,
    "plain_new_order_scale_shift_labels_and_heads_of_the_decoder": replace(
        PLAIN,
        num_classes=7,
        num_heads=4,
        num_heads_upsample=1,
        use_scale_shift_norm=True,
        use_new_attention_order=True,
    ),
    "no_conv_resample": replace(PLAIN, conv_resample=False, attention_resolutions=(1, 2)),
    "released": RELEASED,
    "released_new_order_additive_unconditional": replace(
        RELEASED,
        num_classes=None,
        num_head_channels=16,
        use_scale_shift_norm=False,
        use_new_attention_order=True,
    ),
    "four_levels_the_first_halved": replace(
        RELEASED,
        in_channels=1,
        out_channels=5,
        channel_mult=(0.5, 1, 1, 1.5),
        attention_resolutions=(4, 8),
    ),
    "one_level_of_two_blocks_with_attention_in_the_middle_alone": replace(
        PLAIN, num_res_blocks=2, channel_mult=(1,), attention_resolutions=(), num_classes=1
    ),
}
T = [0.0, 417.25, 999.0]


def their_network(config, seed=0):
    """azula's network with weights such that every layer, the zero-initialised too, matters."""
    network = azula.unet.UNetModel(**asdict(config)).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, param in network.named_parameters():
            value = torch.randn(param.shape, generator=random)
            if param.ndim > 1 and name != "label_emb.weight":
                value /= param[0].numel() ** 0.5
            elif param.ndim == 1:
                value = 0.2 * value + (1.0 if name.endswith("weight") else 0.0)
            param.copy_(value)
    return network


def inputs_of(config):
    """x of a picture twice as wide as high, fractional t, and labels or None."""
    random = np.random.default_rng(1)
    x = random.normal(size=(len(T), config.in_channels, 8, 16)).astype(np.float32)
    y = None if config.num_classes is None else np.arange(len(T)) * 3 % config.num_classes
    return x, np.float32(T), y


def their_output(network, x, t, y):
    y = None if y is None else torch.tensor(y)
    return network(x, torch.tensor(t), y).permute(0, 2, 3, 1)


def params_of(tensors, config):
    return adm.to_params({name: value.numpy() for name, value in tensors.items()}, config)


def error(ours, theirs, floor=0.0):
    """Largest difference, over the largest value."""
    return np.abs(np.asarray(ours) - theirs).max() / max(np.abs(theirs).max(), floor)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_output_equals_theirs(config):
    theirs = their_network(config)
    x, t, y = inputs_of(config)
    with torch.no_grad():
        expected = their_output(theirs, torch.tensor(x), t, y).numpy()
    apply = jax.jit(UNet(config).apply)
    out = apply({"params": params_of(theirs.state_dict(), config)}, np.moveaxis(x, 1, -1), t, y)
    assert out.shape == expected.shape
    assert error(out, expected) < 5e-5


def test_gradients_equal_theirs():
    config = RELEASED
    theirs = their_network(config)
    x, t, y = inputs_of(config)
    their_x = torch.tensor(x, requires_grad=True)
    their_output(theirs, their_x, t, y).square().mean().backward()
    expected = params_of({n: p.grad for n, p in theirs.named_parameters()}, config)

    def loss(params, x):
        return jnp.square(UNet(config).apply({"params": params}, x, t, y)).mean()

    params = params_of(theirs.state_dict(), config)
    of_params, of_x = jax.jit(jax.grad(loss, (0, 1)))(params, np.moveaxis(x, 1, -1))
    assert error(of_x, np.moveaxis(their_x.grad.numpy(), 1, -1)) < 5e-5
    # A bias that the next norm takes away has no gradient but rounding.
    floor = 1e-3 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    errors = jax.tree.map(partial(error, floor=floor), of_params, expected)
    assert max(jax.tree.leaves(errors)) < 5e-5, errors


@pytest.mark.parametrize("T", [250, 1000, 4000])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_schedule_equals_theirs_for_every_T(name, T):
    their = azula.AblatedDenoiser(
        torch.nn.Identity(), discrete_schedule=name, discrete_steps=T
    ).sigmas
    ours = getattr(schedules, name)(T).sigma
    np.testing.assert_allclose(ours, their, rtol=1e-7, atol=0)
