"""Cards of the released ADM checkpoints: they repeat what the checkpoints' own flags say."""

import json

import numpy as np
import pytest
from adm_cards import CARDS, CLASSIFIERS, NETWORKS, RAW, config_of
from adm_shapes import shapes_of

from skipjax.models import ClassifierConfig, UNetConfig

FIELDS = """
    name file_names source sha256 licence paper parameters tensors network process conditioner
    sampling training published caution
""".split()
ALWAYS = """
    name file_names source sha256 licence paper parameters tensors network process training
""".split()
# Card fields by the flag of guided-diffusion that they repeat.
UNET_FLAGS = {
    "num_channels": "model_channels",
    "num_res_blocks": "num_res_blocks",
    "num_heads": "num_heads",
    "num_heads_upsample": "num_heads_upsample",
    "num_head_channels": "num_head_channels",
    "dropout": "dropout",
    "use_scale_shift_norm": "use_scale_shift_norm",
    "resblock_updown": "resblock_updown",
    "use_new_attention_order": "use_new_attention_order",
}
# What a flag that a repository does not have stands for.
ABSENT = {
    "num_head_channels": -1,
    "resblock_updown": False,
    "use_new_attention_order": False,
}
# guided-diffusion's, for flags that leave it empty.
CHANNEL_MULT = {
    32: (1, 2, 2, 2),
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}
CLASSIFIER_FLAGS = {
    "image_size": "image_size",
    "classifier_width": "model_channels",
    "classifier_depth": "num_res_blocks",
    "classifier_use_scale_shift_norm": "use_scale_shift_norm",
    "classifier_resblock_updown": "resblock_updown",
    "classifier_pool": "pool",
}
# That have the same tensors in the same shapes: the card of one fits the file of another.
ALIKE = {
    frozenset(
        "256x256_diffusion_uncond lsun_bedroom lsun_cat lsun_horse lsun_horse_nodropout".split()
    ),
    frozenset("iddpm_imagenet64_uncond_100M_1500K iddpm_imagenet64_uncond_vlb_100M_1500K".split()),
}


def attention_in(resolutions, size):
    """Downsampling factors from the sides, in pixels, at which the flags want attention."""
    return [size // int(side) for side in resolutions.split(",")]


def described(flags):
    """The architecture that guided-diffusion's or improved-diffusion's flags describe."""
    if "classifier_width" in flags:
        size = flags["image_size"]
        return ClassifierConfig(
            in_channels=3,
            out_channels=1000,
            attention_resolutions=attention_in(flags["classifier_attention_resolutions"], size),
            channel_mult=CHANNEL_MULT[size],
            num_head_channels=64,
            **{name: flags[flag] for flag, name in CLASSIFIER_FLAGS.items()},
        )
    assert not flags.get("channel_mult")
    size = flags.get("large_size") or flags["image_size"]
    # The upsamplers' table has no row of its own for 512.
    mult = CHANNEL_MULT[min(size, 256) if "large_size" in flags else size]
    return UNetConfig(
        image_size=size,
        in_channels=3,
        out_channels=6 if flags["learn_sigma"] else 3,
        attention_resolutions=attention_in(flags["attention_resolutions"], size),
        channel_mult=mult,
        num_classes=1000 if flags["class_cond"] else None,
        low_res_channels=3 if "large_size" in flags else 0,
        **{name: flags[flag] for flag, name in UNET_FLAGS.items() if flag in flags},
    )


@pytest.fixture(scope="module")
def released(shared):
    """What is known of each released checkpoint, by name."""
    paths = (shared / "keys" / "adm").glob("*.json")
    return {path.stem: json.loads(path.read_text()) for path in paths if path.stem != "configs"}


def test_there_is_a_card_for_every_released_checkpoint(released):
    assert set(CARDS) == set(released) and len(CARDS) == 21
    assert sorted(NETWORKS + CLASSIFIERS) == sorted(CARDS)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("128x128_classifier",), id="few"),
        pytest.param(CARDS, id="every", marks=pytest.mark.slow),
    ],
)
def test_config_has_the_tensors_of_the_checkpoint(released, names, subtests):
    for name in names:
        card, known = CARDS[name], released[name]
        with subtests.test(name):
            ours = shapes_of(config_of(card))
            theirs = {entry["key"]: tuple(entry["shape"]) for entry in known["entries"]}
            assert ours == theirs
            assert card["tensors"] == known["num_tensors"] == len(ours)
            parameters = sum(int(np.prod(shape)) for shape in ours.values())
            assert card["parameters"] == known["num_params"] == parameters


def test_card_says_how_many_parameters_in_how_many_tensors(released, subtests):
    for name, known in released.items():
        with subtests.test(name):
            parameters = sum(int(np.prod(entry["shape"])) for entry in known["entries"])
            assert CARDS[name]["parameters"] == known["num_params"] == parameters
            assert CARDS[name]["tensors"] == known["num_tensors"] == len(known["entries"])


def test_config_is_what_the_flags_of_the_checkpoint_describe(released, subtests):
    for name, card in CARDS.items():
        flags = released[name]["flags_resolved"]
        with subtests.test(name):
            assert described(flags) == config_of(card)


def test_network_repeats_the_flags_of_the_checkpoint(released, subtests):
    for name in NETWORKS:
        card, flags = CARDS[name], ABSENT | released[name]["flags_resolved"]
        unet = card["unet"]
        with subtests.test(name):
            assert {key: unet[key] for key in UNET_FLAGS.values()} == {
                key: flags[flag] for flag, key in UNET_FLAGS.items()
            }
            size = flags.get("large_size", flags.get("image_size"))
            asked = [int(side) for side in flags["attention_resolutions"].split(",")]
            assert unet["image_size"] == size
            assert [size // factor for factor in unet["attention_resolutions"]] == asked
            assert unet["in_channels"] == 3 and unet["conv_resample"]
            assert unet["low_res_channels"] == (3 if "small_size" in flags else 0)
            assert unet["out_channels"] == (6 if flags["learn_sigma"] else 3)
            assert unet["num_classes"] == (1000 if flags["class_cond"] else None)

            assert card["schedule"] == flags["noise_schedule"]
            assert card["T"] == flags["diffusion_steps"]
            assert card["prediction"] == ("x_0" if flags["predict_xstart"] else "eps")
            assert flags["learn_sigma"] and card["variance"] == "learned_range"
            assert card["rescale_timesteps"] == flags["rescale_timesteps"]
            assert card.get("low_res") == flags.get("small_size")
            assert card["training"]["dropout"] == flags["dropout"]
            assert card["training"].get("use_fp16") == flags.get("use_fp16")
            assert (card["training"].get("objective") == "L_vlb") == flags["use_kl"]


def test_classifier_repeats_the_flags_of_the_checkpoint(released, subtests):
    for name in CLASSIFIERS:
        classifier, flags = CARDS[name]["classifier"], released[name]["flags_resolved"]
        with subtests.test(name):
            assert {key: classifier[key] for key in CLASSIFIER_FLAGS.values()} == {
                key: flags[flag] for flag, key in CLASSIFIER_FLAGS.items()
            }
            asked = [int(side) for side in flags["classifier_attention_resolutions"].split(",")]
            factors = classifier["attention_resolutions"]
            assert [flags["image_size"] // factor for factor in factors] == asked
            assert classifier["out_channels"] == 1000 and classifier["num_head_channels"] == 64
            assert classifier["dropout"] == 0 and not classifier["use_new_attention_order"]


def test_levels_are_those_of_the_checkpoint(released, subtests):
    # Nothing of the kind is known of improved-diffusion's checkpoints, but the shapes are.
    known = {name: about["topology"] for name, about in released.items() if "topology" in about}
    assert len(known) == 15 and not any(name.startswith("iddpm") for name in known)
    for name, topology in known.items():
        config = config_of(CARDS[name])
        with subtests.test(name):
            assert list(config.channel_mult) == topology["channel_mult"]
            assert sorted(config.attention_resolutions) == topology["attention_downsample_rates"]


def test_card_has_its_fields_in_order(subtests):
    for name, card in CARDS.items():
        with subtests.test(name):
            assert list(RAW[name]) == [field for field in FIELDS if field in RAW[name]]
            assert set(ALWAYS) <= set(RAW[name])
            assert ("unet" in card) == ("sampling" in card)
            assert card["name"] == name and f"{name}.pt" in card["file_names"]
            assert [url.rsplit("/", 1)[1] for url in card["source"]] == [
                file for file in card["file_names"] if not file.startswith("iddpm_")
            ]
            network = card.get("unet") or card["classifier"]
            assert network.keys() == vars(config_of(card)).keys() - {"concat_channels"}


def test_no_two_cards_share_a_file_name():
    files = [file for card in CARDS.values() for file in card["file_names"]]
    assert len(files) == len(set(files)) == 21 + 6 + 1


def test_cards_that_shapes_cannot_tell_apart_warn_of_it(released):
    groups = {}
    for name, known in released.items():
        shapes = tuple((entry["key"], *entry["shape"]) for entry in known["entries"])
        groups.setdefault(shapes, set()).add(name)
    assert {frozenset(group) for group in groups.values() if len(group) > 1} == ALIKE
    for name in frozenset.union(*ALIKE):
        assert "same tensors in the same shapes" in CARDS[name]["caution"]
