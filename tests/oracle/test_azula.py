"""ADM's networks and schedules against azula's, a PyTorch copy of guided-diffusion's."""

from dataclasses import asdict, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import HURRY

from skipjax import schedules
from skipjax.models import ClassifierConfig, UNetConfig, network
from skipjax.models.classifier import POOLS
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
SUPER = {
    "super_resolution": replace(RELEASED, low_res_channels=3),
    "super_resolution_of_grey_pictures": replace(PLAIN, in_channels=1, low_res_channels=1),
}
CLASSIFIER = ClassifierConfig(
    image_size=16,
    in_channels=3,
    model_channels=64,
    out_channels=7,
    num_res_blocks=2,
    attention_resolutions=(2,),
    channel_mult=(0.5, 1),
    num_head_channels=16,
    use_scale_shift_norm=True,
    resblock_updown=True,
)
CLASSIFIERS = {
    **{f"pool_{pool}": replace(CLASSIFIER, pool=pool) for pool in POOLS},
    "pool_attention_plain_new_order": replace(
        CLASSIFIER,
        pool="attention",
        channel_mult=(1, 1, 2),
        num_head_channels=32,
        use_scale_shift_norm=False,
        resblock_updown=False,
        use_new_attention_order=True,
    ),
}
T = [0.0, 417.25, 999.0]


def their_network(config, seed=0):
    """azula's network with weights such that every layer, the zero-initialised too, matters."""
    arguments = asdict(config)
    if isinstance(config, ClassifierConfig):
        kind = azula.unet.EncoderUNetModel
    else:
        # theirs always enlarges a picture of as many channels as x_t
        kind = azula.unet.SuperResModel if config.low_res_channels else azula.unet.UNetModel
        assert arguments.pop("low_res_channels") in (0, config.in_channels)
        assert arguments.pop("concat_channels") == 0
    network = kind(**arguments).eval()
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
    """x, fractional t, and whatever the network takes besides: labels, a smaller picture."""
    random = np.random.default_rng(1)

    def pictures(height, width):
        return random.normal(size=(len(T), height, width, config.in_channels)).astype(np.float32)

    if isinstance(config, ClassifierConfig):
        # What attention pooling takes is square; all else is here tried with other pictures.
        return pictures(16 if config.pool == "attention" else 8, 16), np.float32(T)
    y = None if config.num_classes is None else np.arange(len(T)) * 3 % config.num_classes
    x = pictures(8, 16)
    if not config.low_res_channels:
        return x, np.float32(T), y
    return x, np.float32(T), y, pictures(3, 4)


def to_torch(value):
    value = torch.tensor(value)
    return value.permute(0, 3, 1, 2) if value.ndim == 4 else value


def from_torch(value):
    return value.permute(0, 2, 3, 1) if value.ndim == 4 else value


def their_output(network, x, t, y=None, low_res=None):
    """Output, in our layout, for inputs of which x alone is torch's."""
    given = {"y": y, "low_res": low_res}
    others = {name: to_torch(value) for name, value in given.items() if value is not None}
    return from_torch(network(x, torch.tensor(t), **others))


def params_of(tensors, config):
    return adm.to_params({name: value.numpy() for name, value in tensors.items()}, config)


def error(ours, theirs, floor=0.0):
    """Largest difference, over the largest value."""
    return np.abs(np.asarray(ours) - theirs).max() / max(np.abs(theirs).max(), floor)


OUTPUTS = {name: config for name, config in CONFIGS.items() if name != "released"}


@pytest.mark.parametrize("config", OUTPUTS.values(), ids=OUTPUTS)
def test_output_equals_theirs(config):
    theirs, inputs = their_network(config), inputs_of(config)
    with torch.no_grad():
        expected = their_output(theirs, to_torch(inputs[0]), *inputs[1:]).numpy()
    params = params_of(theirs.state_dict(), config)
    apply = jax.jit(network(config).apply, compiler_options=HURRY)
    out = apply({"params": params}, *inputs)
    assert out.shape == expected.shape
    assert error(out, expected) < 5e-5


GRADIENTS = {"released": RELEASED, **SUPER, **CLASSIFIERS}


@pytest.mark.parametrize("config", GRADIENTS.values(), ids=GRADIENTS)
def test_output_and_gradients_equal_theirs(config):
    theirs, (x, *others) = their_network(config), inputs_of(config)
    their_x = to_torch(x).requires_grad_()
    their_out = their_output(theirs, their_x, *others)
    their_out.square().mean().backward()
    expected = params_of({n: p.grad for n, p in theirs.named_parameters()}, config)

    def loss(params, x):
        out = network(config).apply({"params": params}, x, *others)
        return jnp.square(out).mean(), out

    params = params_of(theirs.state_dict(), config)
    gradients = jax.jit(jax.grad(loss, (0, 1), has_aux=True), compiler_options=HURRY)
    (of_params, of_x), out = gradients(params, x)
    assert out.shape == their_out.shape
    assert error(out, their_out.detach().numpy()) < 5e-5
    assert error(of_x, from_torch(their_x.grad).numpy()) < 5e-5
    # A bias that the next norm takes away has no gradient but rounding.
    floor = 1e-3 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    errors = jax.tree.map(partial(error, floor=floor), of_params, expected)
    assert max(jax.tree.leaves(errors)) < 1e-4, errors


@pytest.mark.parametrize("T", [250, 1000, 4000])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_schedule_equals_theirs_for_every_T(name, T):
    their = azula.AblatedDenoiser(
        torch.nn.Identity(), discrete_schedule=name, discrete_steps=T
    ).sigmas
    ours = getattr(schedules, name)(T).sigma
    np.testing.assert_allclose(ours, their, rtol=1e-7, atol=0)
