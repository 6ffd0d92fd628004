"""guided-diffusion's names and layouts, read into Flax."""

import json
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from flax import traverse_util

from skipjax.models import UNet, UNetConfig
from skipjax.weights import adm

CASES = [
    "unet_a_resupdown_ss_legacy_hc_cond_sigma",
    "unet_b_resupdown_ss_new_hc_cond_sigma",
    "unet_c_convupdown_noss_legacy_nh_uncond",
]
RELEASED = [
    "64x64_diffusion",
    "128x128_diffusion",
    "256x256_diffusion",
    "256x256_diffusion_uncond",
    "512x512_diffusion",
    "lsun_bedroom",
    "lsun_cat",
    "lsun_horse",
    "lsun_horse_nodropout",
]
# guided-diffusion's, for flags that leave it empty.
CHANNEL_MULT = {
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}


def config_of(flags):
    """The architecture that guided-diffusion's command line flags describe."""
    size = flags["image_size"]
    assert not flags["channel_mult"]
    same = ("num_res_blocks", "num_heads", "num_head_channels", "num_heads_upsample", "dropout")
    same += ("use_scale_shift_norm", "resblock_updown", "use_new_attention_order")
    return UNetConfig(
        image_size=size,
        in_channels=3,
        model_channels=flags["num_channels"],
        out_channels=6 if flags["learn_sigma"] else 3,
        attention_resolutions=[size // int(r) for r in flags["attention_resolutions"].split(",")],
        channel_mult=CHANNEL_MULT[size],
        num_classes=1000 if flags["class_cond"] else None,
        **{name: flags[name] for name in same},
    )


@cache
def shapes_of(config):
    """Shapes of the network's params by guided-diffusion's names, in torch's layout."""
    side = 2 ** (len(config.channel_mult) - 1)
    x = jax.ShapeDtypeStruct((1, side, side, config.in_channels), np.float32)
    t = jax.ShapeDtypeStruct((1,), np.float32)
    y = None if config.num_classes is None else jax.ShapeDtypeStruct((1,), np.int32)
    params = jax.eval_shape(UNet(config).init, jax.random.key(0), x, t, y)["params"]
    shapes = {}
    for path, leaf in traverse_util.flatten_dict(params).items():
        shape = leaf.shape
        if path[-1] == "kernel":
            shape = (*shape[:-3:-1], *shape[:-2])
            shape += (1,) * (path[-2] in ("qkv", "proj_out"))
        shapes[adm.name(path)] = shape
    return shapes


@pytest.mark.parametrize("name", RELEASED)
def test_network_has_the_tensors_of_the_released_checkpoint(shared, name):
    card = json.loads((shared / "keys" / "adm" / f"{name}.json").read_text())
    config = config_of(card["flags_resolved"])
    assert list(config.channel_mult) == card["topology"]["channel_mult"]
    ours = shapes_of(replace(config, dropout=0.0))
    theirs = {entry["key"]: tuple(entry["shape"]) for entry in card["entries"]}
    assert ours == theirs and len(theirs) == card["num_tensors"]
    assert sum(int(np.prod(shape)) for shape in ours.values()) == card["num_params"]


@pytest.fixture(scope="module", params=CASES)
def case(request, goldens):
    folder = goldens / request.param
    config = UNetConfig(**json.loads((folder / "config.json").read_text())["constructor"])
    return dict(np.load(folder / "weights.npz")), config


def test_every_tensor_lands_at_its_own_name_with_its_values(case):
    state_dict, config = case
    flat = traverse_util.flatten_dict(adm.to_params(state_dict, config))
    assert len(flat) == len(state_dict)
    assert {adm.name(path) for path in flat} == set(state_dict)
    for path, ours in flat.items():
        theirs = state_dict[adm.name(path)]
        assert ours.dtype == theirs.dtype
        if path[-1] == "kernel":
            spatial = range(2, theirs.ndim if theirs.ndim == 4 else 2)
            theirs = theirs.reshape(theirs.shape[:4] if theirs.ndim == 4 else theirs.shape[:2])
            theirs = theirs.transpose(*spatial, 1, 0)
        np.testing.assert_array_equal(ours, theirs)


def test_shapes_are_those_that_the_network_makes(case):
    state_dict, config = case
    assert shapes_of(config) == {name: value.shape for name, value in state_dict.items()}


def test_dtype_is_kept(case):
    state_dict, config = case
    half = {name: value.astype(np.float16) for name, value in state_dict.items()}
    leaves = jax.tree.leaves(adm.to_params(half, config))
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float16)}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("time_embed_0", "kernel"), "time_embed.0.weight"),
        (("label_emb", "embedding"), "label_emb.weight"),
        (("input_blocks_10_0", "in_layers_2", "bias"), "input_blocks.10.0.in_layers.2.bias"),
        (("middle_block_1", "proj_out", "kernel"), "middle_block.1.proj_out.weight"),
        (("input_blocks_3_0", "op", "kernel"), "input_blocks.3.0.op.weight"),
        (
            ("output_blocks_2_0", "skip_connection", "kernel"),
            "output_blocks.2.0.skip_connection.weight",
        ),
        (("output_blocks_5_1", "norm", "scale"), "output_blocks.5.1.norm.weight"),
        (("out_2", "kernel"), "out.2.weight"),
    ],
)
def test_names(path, name):
    assert adm.name(path) == name


def test_one_error_lists_all_that_does_not_fit(case):
    state_dict, config = case
    broken = dict(state_dict)
    del broken["out.2.bias"], broken["middle_block.1.qkv.weight"]
    broken["extra.weight"] = np.zeros(3)
    broken["ema.decay"] = np.zeros(())
    broken["out.0.weight"] = np.zeros(7)
    broken["time_embed.0.weight"] = broken["time_embed.0.weight"].T
    with pytest.raises(ValueError) as error:
        adm.to_params(broken, config)
    lines = str(error.value).splitlines()
    assert "in 6 places" in lines[0]
    text = "\n".join(lines)
    for line in [
        "missing: out.2.bias",
        "missing: middle_block.1.qkv.weight",
        "unexpected: extra.weight",
        "unexpected: ema.decay",
        f"shape of out.0.weight: (7,), expected ({config.channels[0]},)",
        "shape of time_embed.0.weight: (32, 128), expected (128, 32)",
    ]:
        assert line in text


def test_another_architecture_is_refused(case):
    state_dict, config = case
    with pytest.raises(ValueError, match="does not fit the architecture"):
        adm.to_params(state_dict, replace(config, num_res_blocks=3))


def test_an_empty_state_dict_lacks_every_name(case):
    state_dict, config = case
    with pytest.raises(ValueError, match=f"in {len(state_dict)} places"):
        adm.to_params({}, config)
