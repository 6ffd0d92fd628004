"""guided-diffusion's names and layouts, read into Flax and back."""

import json
from dataclasses import replace

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util
from reference import CASES, Case

from skipjax.models import ClassifierConfig, UNetConfig, param_shapes
from skipjax.weights import adm

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
    "64_256_upsampler",
    "128_512_upsampler",
    "64x64_classifier",
    "128x128_classifier",
    "256x256_classifier",
    "512x512_classifier",
    "iddpm_cifar10_uncond_50M_500K",
    "iddpm_imagenet64_cond_270M_250K",
    "iddpm_imagenet64_uncond_100M_1500K",
    "iddpm_imagenet64_uncond_vlb_100M_1500K",
    "iddpm_lsun_uncond_100M",
    "iddpm_upsample_cond_500K",
]
# guided-diffusion's, for flags that leave it empty.
CHANNEL_MULT = {
    32: (1, 2, 2, 2),
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}


def attention_in(resolutions, size):
    """Downsampling factors from the sides, in pixels, at which the flags want attention."""
    return [size // int(side) for side in resolutions.split(",")]


def classifier_of(flags):
    size = flags["image_size"]
    return ClassifierConfig(
        image_size=size,
        in_channels=3,
        model_channels=flags["classifier_width"],
        out_channels=1000,
        num_res_blocks=flags["classifier_depth"],
        attention_resolutions=attention_in(flags["classifier_attention_resolutions"], size),
        channel_mult=CHANNEL_MULT[size],
        num_head_channels=64,
        use_scale_shift_norm=flags["classifier_use_scale_shift_norm"],
        resblock_updown=flags["classifier_resblock_updown"],
        pool=flags["classifier_pool"],
    )


def config_of(flags):
    """The architecture that guided-diffusion's or improved-diffusion's flags describe."""
    if "classifier_width" in flags:
        return classifier_of(flags)
    assert not flags.get("channel_mult")
    size = flags.get("large_size") or flags["image_size"]
    # The upsamplers' table has no row of its own for 512.
    mult = CHANNEL_MULT[min(size, 256) if "large_size" in flags else size]
    same = ("num_res_blocks", "num_heads", "num_heads_upsample", "use_scale_shift_norm")
    # improved-diffusion does not have these, nor guided-diffusion's upsamplers the last.
    optional = ("num_head_channels", "resblock_updown", "use_new_attention_order")
    return UNetConfig(
        image_size=size,
        in_channels=3,
        model_channels=flags["num_channels"],
        out_channels=6 if flags["learn_sigma"] else 3,
        attention_resolutions=attention_in(flags["attention_resolutions"], size),
        channel_mult=mult,
        num_classes=1000 if flags["class_cond"] else None,
        low_res_channels=3 if "large_size" in flags else 0,
        **{name: flags[name] for name in same},
        **{name: flags[name] for name in optional if name in flags},
    )


def shapes_of(config):
    """Shapes of the network's params by guided-diffusion's names, in torch's layout."""
    shapes = {}
    for path, leaf in traverse_util.flatten_dict(param_shapes(config)).items():
        shape = leaf.shape
        if path[-1] == "kernel":
            shape = (*shape[:-3:-1], *shape[:-2])
            shape += (1,) * (path[-2] in ("qkv", "proj_out", "qkv_proj", "c_proj"))
        shapes[adm.name(path)] = shape
    return shapes


class Lazy:
    """A tensor in a file: known by shape and dtype, and read when it is asked for."""

    def __init__(self, shape, dtype=np.float32, log=None):
        self.shape, self.dtype, self.log = shape, np.dtype(dtype), log

    def __array__(self, dtype=None, copy=None):
        assert self.log is not None, "a value was read"
        self.log.append(self)
        return np.full(self.shape, len(self.log), self.dtype)


def released(shared, name):
    """Key list of a released checkpoint, and its config."""
    card = json.loads((shared / "keys" / "adm" / f"{name}.json").read_text())
    return card, config_of(card["flags_resolved"])


@pytest.mark.parametrize("name", RELEASED)
def test_network_has_the_tensors_of_the_released_checkpoint(shared, name):
    card, config = released(shared, name)
    if "topology" in card:
        assert list(config.channel_mult) == card["topology"]["channel_mult"]
    ours = shapes_of(config)
    theirs = {entry["key"]: tuple(entry["shape"]) for entry in card["entries"]}
    assert ours == theirs and len(theirs) == card["num_tensors"]
    assert sum(int(np.prod(shape)) for shape in ours.values()) == card["num_params"]


def test_all_released_checkpoints_are_looked_at(shared):
    cards = {path.stem for path in (shared / "keys" / "adm").glob("*.json")}
    assert cards - {"configs"} == set(RELEASED)


@pytest.fixture(scope="module", params=CASES)
def case(request, goldens):
    case = Case(goldens / CASES[request.param])
    return case.state_dict, case.config


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


def test_a_state_dict_comes_back_as_it_was(case):
    state_dict, config = case
    back = adm.state_dict(adm.to_params(state_dict, config))
    assert set(back) == set(state_dict)
    for name, value in state_dict.items():
        np.testing.assert_array_equal(back[name], value, strict=True)


def test_params_come_back_as_they_were(case):
    state_dict, config = case
    params = adm.to_params(state_dict, config)
    back = adm.to_params(adm.state_dict(jax.tree.map(jax.numpy.asarray, params)), config)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_shapes_are_those_that_the_network_makes(case):
    state_dict, config = case
    assert shapes_of(config) == {name: value.shape for name, value in state_dict.items()}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_dtype_is_kept(case, dtype):
    state_dict, config = case
    half = {name: value.astype(dtype) for name, value in state_dict.items()}
    params = adm.to_params(half, config)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(dtype)}
    assert {value.dtype for value in adm.state_dict(params).values()} == {np.dtype(dtype)}


def test_values_are_read_once_each_in_order_and_converted_before_the_next(case):
    shapes, config = shapes_of(case[1]), case[1]
    read, converted, flat = [], [], traverse_util.flatten_dict(param_shapes(config))
    state_dict = {name: Lazy(shape, log=read) for name, shape in reversed(shapes.items())}

    def convert(path, array):
        assert isinstance(array, np.ndarray) and array.shape == flat[path].shape
        converted.append(path)
        assert len(read) == len(converted)
        return len(converted)

    params = adm.to_params(state_dict, config, convert)
    assert read == list(state_dict.values())
    order = {adm.name(path): leaf for path, leaf in traverse_util.flatten_dict(params).items()}
    assert [order[name] for name in state_dict] == list(range(1, len(read) + 1))


def test_nothing_is_copied_on_the_way(case):
    state_dict, config = case
    ours = traverse_util.flatten_dict(adm.to_params(state_dict, config))
    assert all(np.shares_memory(leaf, state_dict[adm.name(path)]) for path, leaf in ours.items())


def test_no_value_is_read_of_a_state_dict_that_does_not_fit(case):
    shapes, config = shapes_of(case[1]), case[1]
    state_dict = {name: Lazy(shape) for name, shape in shapes.items()}
    for broken in (
        state_dict | {"out.0.weight": Lazy((7,))},
        state_dict | {"step": 3},
        {name: value for name, value in state_dict.items() if name != "out.0.bias"},
    ):
        with pytest.raises(ValueError, match="in 1 place[;:]"):
            adm.to_params(broken, config)


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
        (("out_2", "positional_embedding"), "out.2.positional_embedding"),
        (("out_2", "c_proj", "kernel"), "out.2.c_proj.weight"),
    ],
)
def test_names(path, name):
    assert adm.name(path) == name


def test_one_error_lists_all_that_does_not_fit(case):
    state_dict, config = case
    broken = dict(state_dict)
    del broken["out.0.bias"], broken["middle_block.1.qkv.weight"]
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
        "missing: out.0.bias",
        "missing: middle_block.1.qkv.weight",
        "unexpected: extra.weight",
        "unexpected: ema.decay",
        f"shape of out.0.weight: (7,), expected {case[0]['out.0.weight'].shape}",
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


def test_a_long_list_is_cut_but_counted(case):
    state_dict, config = case
    with pytest.raises(ValueError) as error:
        adm.to_params({}, config)
    lines = str(error.value).splitlines()
    assert len(lines) == 22 and lines[-1] == f"  ... and {len(state_dict) - 20} more"


def lazy(config):
    return {name: Lazy(shape) for name, shape in shapes_of(config).items()}


UNET = UNetConfig(
    image_size=16,
    in_channels=3,
    model_channels=32,
    out_channels=6,
    num_res_blocks=1,
    attention_resolutions=(2,),
    channel_mult=(1, 2),
    num_classes=1000,
    num_head_channels=16,
)
PLAIN, SUPER = replace(UNET, num_classes=None), replace(UNET, low_res_channels=3)
CLASSIFIER = ClassifierConfig(
    image_size=16,
    in_channels=3,
    model_channels=32,
    out_channels=1000,
    num_res_blocks=1,
    attention_resolutions=(2,),
    channel_mult=(1, 2),
    num_head_channels=16,
    pool="attention",
)
TAKEN = {
    "a classifier for a U-Net": (
        CLASSIFIER,
        PLAIN,
        "the state dict is a classifier's, the config",
    ),
    "a pool of means for a U-Net": (
        replace(CLASSIFIER, pool="spatial"),
        UNET,
        "the state dict is a classifier's, the config a U-Net's: give a ClassifierConfig",
    ),
    "a U-Net for a classifier": (
        UNET,
        CLASSIFIER,
        "the state dict is a U-Net's, the config a classifier's: give a UNetConfig",
    ),
    "more classes": (
        UNET,
        replace(UNET, num_classes=10),
        "the file has 1000 classes, the config num_classes = 10",
    ),
    "classes": (UNET, PLAIN, "the file has 1000 classes, the config num_classes = None"),
    "no classes": (PLAIN, UNET, "the file has no classes, the config num_classes = 1000"),
    "more outputs": (
        CLASSIFIER,
        replace(CLASSIFIER, out_channels=10),
        "the file has 1000 classes, the config out_channels = 10",
    ),
    "more outputs of means": (
        replace(CLASSIFIER, pool="spatial_v2"),
        replace(CLASSIFIER, pool="spatial_v2", out_channels=10),
        "the file has 1000 classes, the config out_channels = 10",
    ),
    "attention pooling": (
        CLASSIFIER,
        replace(CLASSIFIER, pool="adaptive"),
        "the file pools by attention, the config has pool = 'adaptive'",
    ),
    "super-resolution": (
        SUPER,
        UNET,
        "the file has 6 input channels, the config 3: it is for super-resolution, with "
        "low_res_channels = 3",
    ),
    "no super-resolution": (
        UNET,
        SUPER,
        "the file has 3 input channels, the config 6: it is not for super-resolution, and has "
        "low_res_channels = 0",
    ),
    "grey pictures": (
        replace(UNET, in_channels=1),
        UNET,
        "the file has 1 input channels, the config 3",
    ),
}


@pytest.mark.parametrize(("given", "config", "message"), TAKEN.values(), ids=TAKEN)
def test_what_was_taken_for_something_else_is_said_first(given, config, message):
    with pytest.raises(ValueError) as error:
        adm.to_params(lazy(given), config)
    first, second, *_ = str(error.value).splitlines()
    assert first.startswith(message)
    assert second.startswith("the state dict does not fit the architecture in ")


def test_all_that_was_taken_for_something_else_is_said():
    with pytest.raises(ValueError) as error:
        adm.to_params(lazy(SUPER), PLAIN)
    assert [line.split(",")[0] for line in str(error.value).splitlines()[:2]] == [
        "the file has 6 input channels",
        "the file has 1000 classes",
    ]


@pytest.mark.parametrize("prefix", ["module.", "model.diffusion_model."])
@pytest.mark.parametrize("config", [UNET, CLASSIFIER], ids=["unet", "classifier"])
def test_a_prefix_of_all_names_is_named(config, prefix):
    state_dict = {prefix + name: value for name, value in lazy(config).items()}
    with pytest.raises(ValueError) as error:
        adm.to_params(state_dict, config)
    first, *_ = str(error.value).splitlines()
    assert first == f"every name in the state dict begins with '{prefix}': take that off the names"
