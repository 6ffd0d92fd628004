"""State dicts that are not those of the architecture: refused, with all that is wrong."""

from dataclasses import replace

import numpy as np
import pytest
from adm_shapes import lazy
from reference import CASES, Case

from skipjax.models import ClassifierConfig, UNetConfig
from skipjax.weights import adm

UNET = UNetConfig(
    image_size=8,
    in_channels=3,
    model_channels=32,
    out_channels=6,
    num_res_blocks=0,
    attention_resolutions=(),
    channel_mult=(1,),
    num_classes=1000,
    num_head_channels=16,
)
PLAIN, SUPER = replace(UNET, num_classes=None), replace(UNET, low_res_channels=3)
CLASSIFIER = ClassifierConfig(
    image_size=8,
    in_channels=3,
    model_channels=32,
    out_channels=1000,
    num_res_blocks=0,
    attention_resolutions=(),
    channel_mult=(1,),
    num_head_channels=16,
    pool="attention",
)
# What the state dict is of, what the config says, and what is said first.
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


@pytest.fixture(scope="module", params=CASES)
def case(request, goldens):
    case = Case(goldens / CASES[request.param])
    return case.state_dict, case.config


def refused(state_dict, config):
    """The lines of what is said."""
    with pytest.raises(ValueError) as error:
        adm.to_params(state_dict, config)
    return str(error.value).splitlines()


def test_one_error_lists_all_that_does_not_fit(case):
    state_dict, config = case
    broken = dict(state_dict)
    del broken["out.0.bias"], broken["middle_block.1.qkv.weight"]
    broken["extra.weight"] = np.zeros(3)
    broken["ema.decay"] = np.zeros(())
    broken["out.0.weight"] = np.zeros(7)
    broken["time_embed.0.weight"] = broken["time_embed.0.weight"].T
    lines = refused(broken, config)
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


@pytest.mark.parametrize(
    "case",
    ["classifier_g", *(pytest.param(name, marks=pytest.mark.slow) for name in [*CASES][:-1])],
    indirect=True,
)
def test_another_architecture_is_refused(case):
    state_dict, config = case
    with pytest.raises(ValueError, match="does not fit the architecture"):
        adm.to_params(state_dict, replace(config, num_res_blocks=3))


def test_an_empty_state_dict_lacks_every_name_of_which_some_are_listed(case):
    state_dict, config = case
    lines = refused({}, config)
    assert f"in {len(state_dict)} places" in lines[0]
    assert len(lines) == 22 and lines[-1] == f"  ... and {len(state_dict) - 20} more"


@pytest.mark.slow
def test_what_was_taken_for_something_else_is_said_first(subtests):
    for name, (given, config, message) in TAKEN.items():
        with subtests.test(name):
            first, second, *_ = refused(lazy(given), config)
            assert first.startswith(message)
            assert second.startswith("the state dict does not fit the architecture in ")


def test_all_that_was_taken_for_something_else_is_said():
    lines = refused(lazy(SUPER), PLAIN)
    assert [line.split(",")[0] for line in lines[:2]] == [
        "the file has 6 input channels",
        "the file has 1000 classes",
    ]


def test_a_prefix_of_all_names_is_named(subtests):
    for config in (UNET, CLASSIFIER):
        for prefix in ("module.", "model.diffusion_model."):
            named = {prefix + name: value for name, value in lazy(config).items()}
            with subtests.test(prefix=prefix, config=config):
                first, *_ = refused(named, config)
                begins = f"every name in the state dict begins with '{prefix}'"
                assert first == f"{begins}: take that off the names"
