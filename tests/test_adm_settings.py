"""What cards of the released ADM checkpoints say of sampling, and what was published of it."""

import json

from adm_cards import CARDS, CHECKPOINTS, rows

from skipjax import grids

RANGES = {
    "fid": (1, 50),
    "sfid": (1, 20),
    "is": (10, 300),
    "precision": (0, 1),
    "recall": (0, 1),
    "guidance": (0.1, 10),
    "base_guidance": (0.1, 10),
}


def test_settings_name_what_exists(subtests):
    for place, card, row in rows("sampling", "published"):
        with subtests.test(place):
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


def test_published_numbers_are_in_range(subtests):
    known = {"data", "steps", "classifier", "base", "base_steps", "base_classifier", "base_guided"}
    for place, card, row in rows("published"):
        with subtests.test(place):
            data = row["data"]
            assert data.startswith(("ImageNet ", "LSUN ")) and row["fid"] and row["source"]
            if data.startswith("ImageNet"):
                assert data == f"ImageNet {card['unet']['image_size']}"
            else:
                assert data.split()[1] in card["name"]
            for key, (low, high) in RANGES.items():
                assert key not in row or low <= row[key] <= high
            assert row.keys() <= known | RANGES.keys() | {"source"}


def test_no_setting_is_published_twice():
    """Apart from the one that was given to two and to four digits."""
    settings = [
        (card["name"], *(row.get(key) for key in sorted(row.keys() - RANGES.keys() - {"source"})))
        + (row.get("guidance"),)
        for _, card, row in rows("published")
    ]
    assert len(settings) - len(set(settings)) == 1


def test_class_names_are_there_where_labels_are(subtests):
    for name, card in CARDS.items():
        with subtests.test(name):
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
