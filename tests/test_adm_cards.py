"""Cards of the released ADM checkpoints: they repeat what the checkpoints' own flags say."""

import json
from pathlib import Path

import numpy as np
import pytest
from flax import traverse_util

from skipjax import grids
from skipjax.models import ClassifierConfig, UNetConfig, param_shapes
from skipjax.weights import adm

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
CARDS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((CHECKPOINTS / "adm").glob("*.json"))
}
NETWORKS = [name for name, card in CARDS.items() if "unet" in card]
CLASSIFIERS = [name for name, card in CARDS.items() if "classifier" in card]
FIELDS = """
    name file_names source sha256 licence paper parameters tensors unet classifier schedule T
    prediction variance rescale_timesteps low_res class_names sampling training published caution
""".split()
OF_CLASSIFIERS_TOO = """
    name file_names source sha256 licence paper parameters tensors schedule T training
""".split()
OF_NETWORKS = "unet prediction variance rescale_timesteps sampling".split()
RANGES = {
    "fid": (1, 50),
    "sfid": (1, 20),
    "is": (10, 300),
    "precision": (0, 1),
    "recall": (0, 1),
    "guidance": (0.1, 10),
    "base_guidance": (0.1, 10),
}
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


def config_of(card):
    """The architecture that a card describes."""
    if "unet" in card:
        return UNetConfig(**card["unet"])
    return ClassifierConfig(**card["classifier"])


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


def rows(kind):
    return [
        pytest.param(name, row, id=f"{name}-{i}")
        for name, card in CARDS.items()
        for i, row in enumerate(card.get(kind, []))
    ]


@pytest.fixture(scope="module")
def released(shared):
    """What is known of each released checkpoint, by name."""
    paths = (shared / "keys" / "adm").glob("*.json")
    return {path.stem: json.loads(path.read_text()) for path in paths if path.stem != "configs"}


def test_there_is_a_card_for_every_released_checkpoint(released):
    assert set(CARDS) == set(released) and len(CARDS) == 21
    assert sorted(NETWORKS + CLASSIFIERS) == sorted(CARDS)


@pytest.mark.parametrize("name", CARDS)
def test_config_has_the_tensors_of_the_checkpoint(released, name):
    card, known = CARDS[name], released[name]
    ours = shapes_of(config_of(card))
    theirs = {entry["key"]: tuple(entry["shape"]) for entry in known["entries"]}
    assert ours == theirs
    assert card["tensors"] == known["num_tensors"] == len(ours)
    parameters = sum(int(np.prod(shape)) for shape in ours.values())
    assert card["parameters"] == known["num_params"] == parameters


@pytest.mark.parametrize("name", NETWORKS)
def test_network_repeats_the_flags_of_the_checkpoint(released, name):
    card, flags = CARDS[name], ABSENT | released[name]["flags_resolved"]
    unet = card["unet"]
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


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_repeats_the_flags_of_the_checkpoint(released, name):
    classifier, flags = CARDS[name]["classifier"], released[name]["flags_resolved"]
    assert {key: classifier[key] for key in CLASSIFIER_FLAGS.values()} == {
        key: flags[flag] for flag, key in CLASSIFIER_FLAGS.items()
    }
    asked = [int(side) for side in flags["classifier_attention_resolutions"].split(",")]
    factors = classifier["attention_resolutions"]
    assert [flags["image_size"] // factor for factor in factors] == asked
    assert classifier["out_channels"] == 1000 and classifier["num_head_channels"] == 64
    assert classifier["dropout"] == 0 and not classifier["use_new_attention_order"]


@pytest.mark.parametrize("name", CARDS)
def test_levels_are_those_of_the_checkpoint(released, name):
    topology = released[name].get("topology")
    if topology is None:
        pytest.skip("no topology is known of improved-diffusion's checkpoints, but the shapes are")
    config = config_of(CARDS[name])
    assert list(config.channel_mult) == topology["channel_mult"]
    assert sorted(config.attention_resolutions) == topology["attention_downsample_rates"]


@pytest.mark.parametrize("name", CARDS)
def test_card_has_its_fields_in_order(name):
    card = CARDS[name]
    assert list(card) == [field for field in FIELDS if field in card]
    assert set(OF_CLASSIFIERS_TOO) <= set(card)
    assert set(OF_NETWORKS) <= set(card) or not set(OF_NETWORKS) & set(card)
    assert card["name"] == name and f"{name}.pt" in card["file_names"]
    assert [url.rsplit("/", 1)[1] for url in card["source"]] == [
        file for file in card["file_names"] if not file.startswith("iddpm_")
    ]


@pytest.mark.parametrize("name", CARDS)
def test_card_gives_every_field_of_its_config(name):
    card, config = CARDS[name], config_of(CARDS[name])
    assert (card.get("unet") or card.get("classifier")).keys() == vars(config).keys()


def test_no_two_cards_share_a_file_name():
    files = [file for card in CARDS.values() for file in card["file_names"]]
    assert len(files) == len(set(files)) == 21 + 6 + 1


def test_cards_that_shapes_cannot_tell_apart_warn_of_it():
    groups = {}
    for name, card in CARDS.items():
        shapes = tuple(shapes_of(config_of(card)).items())
        groups.setdefault(shapes, set()).add(name)
    assert {frozenset(group) for group in groups.values() if len(group) > 1} == ALIKE
    for name in frozenset.union(*ALIKE):
        assert "same tensors in the same shapes" in CARDS[name]["caution"]


@pytest.mark.parametrize(("name", "row"), rows("sampling") + rows("published"))
def test_settings_name_what_exists(name, row):
    card = CARDS[name]
    assert len(grids.respaced(card["T"], row["steps"])) <= card["T"]
    assert ("classifier" in row) == ("guidance" in row)
    if "classifier" in row:
        guide = CARDS[row["classifier"]]
        assert guide["classifier"]["image_size"] == card["unet"]["image_size"]
        assert (guide["schedule"], guide["T"]) == (card["schedule"], card["T"])
    if "base" in row:
        base = CARDS[row["base"]]
        assert base["unet"]["image_size"] == card["low_res"]
        grids.respaced(base["T"], row["base_steps"])
    if "base_classifier" in row:
        guide = CARDS[row["base_classifier"]]
        assert guide["classifier"]["image_size"] == card["low_res"] and "base" in row


@pytest.mark.parametrize(("name", "row"), rows("published"))
def test_published_numbers_are_in_range(name, row):
    assert row["data"].startswith(("ImageNet ", "LSUN ")) and row["fid"] and row["source"]
    if row["data"].startswith("ImageNet"):
        assert row["data"] == f"ImageNet {CARDS[name]['unet']['image_size']}"
    else:
        assert row["data"].split()[1] in name
    for key, (low, high) in RANGES.items():
        assert key not in row or low <= row[key] <= high
    known = {"data", "steps", "classifier", "base", "base_steps", "base_classifier", "base_guided"}
    assert row.keys() <= known | RANGES.keys() | {"source"}


def test_no_setting_is_published_twice():
    """Apart from the one that was given to two and to four digits."""
    settings = [
        (name, *(row.get(key) for key in sorted(row.keys() - RANGES.keys() - {"source"})))
        + (row.get("guidance"),)
        for name, card in CARDS.items()
        for row in card.get("published", [])
    ]
    assert len(settings) - len(set(settings)) == 1


@pytest.mark.parametrize("name", CARDS)
def test_class_names_are_there_where_labels_are(name):
    card = CARDS[name]
    labels = card["classifier"]["out_channels"] if "classifier" in card else None
    labels = card["unet"]["num_classes"] if "unet" in card else labels
    assert card.get("class_names") == (None if labels is None else "imagenet1k")
    assert labels in (None, 1000)


def test_class_names_of_imagenet_are_unique_and_in_order():
    names = json.loads((CHECKPOINTS / "imagenet1k.json").read_text(encoding="utf-8"))
    assert len(names) == len({name.lower() for name in names}) == 1000
    assert all(name == name.strip() and name and not name.isdecimal() for name in names)
    known = {
        0: "tench",
        1: "goldfish",
        9: "ostrich",
        90: "lorikeet",
        130: "flamingo",
        207: "golden retriever",
        279: "Arctic fox",
        281: "tabby",
        323: "monarch",
        386: "African elephant",
        388: "giant panda",
        417: "balloon",
        432: "bassoon",
        468: "cab",
        550: "espresso maker",
        562: "fountain",
        852: "tennis ball",
        933: "cheeseburger",
        980: "volcano",
        981: "ballplayer",
        985: "daisy",
        992: "agaric",
        999: "toilet tissue",
    }
    assert {number: names[number] for number in known} == known
